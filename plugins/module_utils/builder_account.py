# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The account that builds for others: what is wrong with the one that is there, and the text of its authorized_keys.

Pure: what the host has is handed in.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils.files import HEADER

#: sshd runs commands through the shell: nologin would end each with its notice, bash would read ~/.bashrc.
SHELL = "/bin/sh"

#: No password is it. Not '!': sshd without PAM takes an account that begins so for locked, and refuses its keys too.
LOCKED = "*"

COMMENT = "Nix builds for other hosts"

#: What the mark of a key says that is no client's; no host is called so.
MORE = "+"

_OURS = re.compile(r"restrict[ ,].* nixfleet:\S+$")
_KEY = re.compile(r"(?<![^ ,])AAAA[A-Za-z0-9+/]+=*")
_TYPE_FIRST = re.compile(r"(ssh|ecdsa|sk)-")


class Account(t.NamedTuple):
    """An account; C(password) is the field of /etc/shadow, C(groups) are those beside its own C(group).

    C(uid) is None where the system is to choose one.
    """

    uid: int | None
    group: str
    groups: frozenset[str]
    password: str
    shell: str
    home: str
    comment: str


def wanted(now: Account | None, *, name: str, uid: int | None, home: str, groups: t.Iterable[str]) -> Account:
    """The account as it should be. It stays in its groups, and without C(uid) keeps the number that it has."""
    if now:
        uid = now.uid if uid is None else uid
        groups = now.groups.union(groups)
    return Account(uid, name, frozenset(groups), LOCKED, SHELL, home, COMMENT)


def options(now: Account | None, then: Account) -> list[str]:
    """What useradd (no account yet) or usermod has to be told, in long options; empty when nothing is to be done."""
    found: list[str] = []
    for field, option in (
        ("uid", "--uid"),
        ("group", "--gid"),
        ("password", "--password"),
        ("shell", "--shell"),
        ("home", "--home-dir" if now is None else "--home"),
        ("comment", "--comment"),
    ):
        value = getattr(then, field)
        if value is not None and (now is None or value != getattr(now, field)):
            found += [option, str(value)]
    more = sorted(then.groups - (now.groups if now else frozenset()))
    if more:
        found += [*(["--append"] if now else []), "--groups", ",".join(more)]
    return found


def own_lines(clients: t.Mapping[str, str], keys: t.Iterable[str]) -> list[str]:
    """The lines for the clients' keys, by name, and for more keys, which may have options in front; each with our mark."""
    lines = [
        f"restrict {' '.join(key.split()[:2])} nixfleet:{client}"
        for client, key in sorted(clients.items(), key=lambda item: item[0].lower())
    ]
    stripped = [key.strip() for key in keys]
    return lines + [f"restrict{' ' if _TYPE_FIRST.match(key) else ','}{key} nixfleet:{MORE}" for key in stripped]


def foreign_lines(texts: t.Iterable[str], own: t.Iterable[str]) -> list[str]:
    """The lines of some authorized_keys that somebody else wrote: without our mark, and with no key that is in C(own).

    So a client that was let in by hand has one line from then on, and goes when that one goes.
    """
    ours = {key for line in own for key in _KEY.findall(line)}
    lines = [line.strip() for text in texts for line in text.split("\n")]
    return [
        line
        for line in dict.fromkeys(lines)
        if line and line[0] != "#" and not _OURS.match(line) and ours.isdisjoint(_KEY.findall(line))
    ]


def text(lines: t.Iterable[str]) -> str:
    """The authorized_keys."""
    return "".join(f"{line}\n" for line in (f"# {HEADER}", *lines))
