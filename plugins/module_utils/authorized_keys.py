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


def own_lines(clients: t.Mapping[str, str], keys: t.Iterable[str]) -> list[str]:
    """The lines for the clients' keys, by name, and for more keys, which may have options in front; all marked."""
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


def render(lines: t.Iterable[str]) -> str:
    """The file's text."""
    return "".join(f"{line}\n" for line in (f"# {HEADER}", *lines))
