# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The authorized_keys of a builder's account: the lines for its clients, and which lines are somebody else's.

Pure: text in, text out. The format is that of sshd(8), AUTHORIZED_KEYS FILE FORMAT.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils.files import HEADER

#: What the mark of a key says that is no client's; no host is called so.
MORE = "+"

_OURS = re.compile(r"restrict[ ,].* nixfleet:\S+$")
_KEY = re.compile(r"(?<![^ ,])AAAA[A-Za-z0-9+/]+=*")
_TYPE_FIRST = re.compile(r"(ssh|ecdsa|sk)-")


class KeyLineError(Exception):
    """A line that cannot be written as it is."""


def own_lines(clients: t.Mapping[str, str], keys: t.Iterable[str], command: str | None = None) -> list[str]:
    """The lines for the clients' keys, by name, and for more keys, which may have options in front; all marked.

    C(command): the forced command of them all. KeyLineError where one of C(keys) has its own: sshd would take neither.
    """
    options = "restrict"
    if command is not None:
        if re.search(r'["\\\x00-\x1f\x7f]', command):
            raise KeyLineError(f"the command {command!r} has a quote, a backslash or a control character")
        options += f',command="{command}"'
    lines = [
        f"{options} {' '.join(key.split()[:2])} nixfleet:{client}"
        for client, key in sorted(clients.items(), key=lambda item: item[0].lower())
    ]
    for key in (key.strip() for key in keys):
        if command is not None and has_command(key):
            raise KeyLineError(
                f"the key line {key[:60]!r} has a command of its own, where {command} is to be the only one"
            )
        lines.append(f"{options}{' ' if _TYPE_FIRST.match(key) else ','}{key} nixfleet:{MORE}")
    return lines


def has_command(line: str) -> bool:
    """Whether the options of a line have a forced command; sshd takes their names in any case."""
    words = re.sub(r'"(?:\\.|[^"\\])*"', '""', line).split()
    return bool(words) and any(option.lower().startswith("command=") for option in words[0].split(","))


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


def render(lines: t.Iterable[str]) -> str:
    """The file's text."""
    return "".join(f"{line}\n" for line in (f"# {HEADER}", *lines))
