# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The machines file of Nix (its setting C(builders)): parse, check, render, merge.

Pure: text in, values out; files that are included are read through a callable that is handed in. Every refusal is a
MachinesError. The grammar is that of Nix's src/libstore/machines.cc, which changed once in what counts here:

- 2.28.2, 2.29 and 2.24.15: a comment is cut before the line is split at C(;), blanks around an entry are dropped.
  Before, what follows a C(;) in a comment is a machine, an indented C(@file) is no include, and a line of blanks is an
  error (the last is measured on 2.8.0).

What changed in the fields is told in machine.py (the speed) and store_uri.py.
"""

from __future__ import annotations

import binascii
import posixpath
import re
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils import store_uri
from ansible_collections.nixfleet.builders.plugins.module_utils.error_text import shown
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import (
    BLANKS,
    FLOAT_MAX,
    FLOAT_MIN,
    FLOAT_SPEED_SINCE,
    NUMBER,
    UINT_MAX,
    Machine,
    MachinesError,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_version import OLDEST, Version, version_text
from ansible_collections.nixfleet.builders.plugins.module_utils.store_uri import identity

#: The text of an included file, by its path; None where there is no such file. May raise OSError.
Read = t.Callable[[str], t.Optional[str]]

#: The table without which TOML has no machines (Lix's lix-rs/src/machines.rs). No line of Nix's format begins so.
_TOML = re.compile(r"^[ \t]*\[[ \t]*['\"]?machines['\"]?[ \t]*[].]", re.MULTILINE)

_TOKEN = re.compile(r"[^ \t\r\n]+")
_UINT = re.compile(r"\+?0*([0-9]{1,10})")
_BASE64 = re.compile(r"[A-Za-z0-9+/]*")


def _cuts_comments_first(nix_version: Version) -> bool:
    return nix_version >= (2, 28, 2) or (2, 24, 15) <= nix_version < (2, 25)


# ---------------------------------------------------------------------------------------------------- check


def check(
    machines: t.Iterable[Machine], nix_version: Version = OLDEST, own_names: t.Iterable[str] | None = None
) -> None:
    """Refuses what this Nix would misread, two machines with the same URI, and the client as its own builder.

    own_names: the client's names and addresses; None if there is no client to compare with. Raises MachinesError.
    """
    own = None if own_names is None else {store_uri.normal_host(name) for name in own_names}
    seen: dict[str, int] = {}
    for number, machine in enumerate(machines, 1):
        machine.check(nix_version)
        same = identity(machine.uri)
        if seen.setdefault(same, number) != number:
            raise MachinesError(
                f"it is named twice, as number {seen[same]} and as number {number}",
                "make one machine of the two: Nix counts both by the same slots",
                machine=machine.uri,
                key="uri",
            )
        if own is not None:
            _check_not_own(machine, own)


def _check_not_own(machine: Machine, own: set[str]) -> None:
    parts = machine.parts
    if not parts.protocol:
        mine = parts.rest in store_uri.OWN_STORES
        what = f"{shown(machine.uri)} is the client's own store"
    else:
        # Another port may be a virtual machine's, remote-store names another store: those are not this client's own.
        mine = (
            parts.protocol in store_uri.SSH_SCHEMES
            and parts.port in (None, 22)
            and "remote-store=" not in parts.rest
            and (store_uri.normal_host(parts.host) in own or store_uri.is_loopback(parts.host))
        )
        what = f"{shown(parts.host)} is the client itself"
    if mine:
        raise MachinesError(
            f"{what}: the build would wait for ever for the lock that its own client holds (NixOS/nix#2029)",
            "leave the client out of its machines, its own slots are the setting max-jobs",
            machine=machine.uri,
            key="uri",
        )


# ---------------------------------------------------------------------------------------------------- render


def render_file(
    machines: t.Sequence[Machine],
    nix_version: Version = OLDEST,
    own_names: t.Iterable[str] | None = None,
    header: str = "",
) -> str:
    """The text of a file that holds these machines and nothing else, under a comment, C(header).

    Raises MachinesError as check() does.
    """
    check(machines, nix_version, own_names)
    lines = [f"# {header}"] if header else []
    lines += [machine.line for machine in machines]
    return "".join(line + "\n" for line in lines)


# ---------------------------------------------------------------------------------------------------- parse


class _Place(t.NamedTuple):
    file: str | None
    nix_version: Version
    read: Read | None
    including: tuple[str, ...]


def parse(text: str, file: str | None = None, nix_version: Version = OLDEST, read: Read | None = None) -> list[Machine]:
    """The machines that this Nix reads out of the text, in order, those of included files in the place of their C(@).

    file: the text's own path, for errors and against cycles. read: see Read; a relative path is handed to it under /,
    the working directory of Nix's hook. An include is refused where there is no C(read). Raises only MachinesError.
    """
    return _parse(text, _top(file, nix_version, read))


def _top(file: str | None, nix_version: Version, read: Read | None) -> _Place:
    return _Place(file, nix_version, read, () if file is None else (posixpath.normpath(file),))


def _refuse_toml(text: str, place: _Place) -> None:
    found = _TOML.search(text)
    if found:
        raise MachinesError(
            "this is TOML, which Lix 2.95 and newer reads for machines, and no Nix does",
            "write the machines in lines, which Lix reads as well, or have the whole file replaced (exclusive: true)",
            file=place.file,
            line=text.count("\n", 0, found.start()) + 1,
        )


def _parse(text: str, place: _Place) -> list[Machine]:
    _refuse_toml(text, place)
    machines: list[Machine] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line:
            continue
        for code, _comment in _segments(line, place.nix_version):
            machines += _entry(code, number, place)
    return machines


def _segments(line: str, nix_version: Version) -> list[tuple[str, str]]:
    """A line as (code, comment with its #) for each entry; joined with C(;) they are the line again."""
    if "#" not in line and ";" not in line:
        return [(line, "")]
    if _cuts_comments_first(nix_version):
        code, mark, comment = line.partition("#")
        entries = [(entry, "") for entry in code.split(";")]
        return [*entries[:-1], (entries[-1][0], mark + comment)]
    cut = (entry.partition("#") for entry in line.split(";"))
    return [(code, mark + comment) for code, mark, comment in cut]


def _entry(code: str, line: int, place: _Place) -> list[Machine]:
    """The machines of one entry: none if it is blank, those of the file if it is an include."""
    tokens = _TOKEN.findall(code)
    strict = not _cuts_comments_first(place.nix_version)
    if not tokens:
        if code and strict:
            raise MachinesError(
                f"Nix {version_text(place.nix_version)} takes these blanks for a machine without a URI, "
                "and refuses the whole file",
                "remove the blanks that stand alone, before a '#' or after a ';' (or a DOS line's carriage return)",
                file=place.file,
                line=line,
            )
        return []
    if tokens[0][0] == "@":
        if strict and code[0] != "@":
            raise MachinesError(
                f"Nix {version_text(place.nix_version)} takes the indented '@' for the name of a machine",
                "remove the blanks before it",
                file=place.file,
                line=line,
            )
        return _include(code.strip(BLANKS)[1:].strip(BLANKS), line, place)
    try:
        return [_machine(tokens, place.nix_version)]
    except MachinesError as error:
        error.file, error.line, error.machine = place.file, line, None if tokens[0] == "-" else tokens[0]
        raise


def _include(path: str, line: int, place: _Place) -> list[Machine]:
    if not path:
        return []  # to Nix a file that does not exist
    full = posixpath.normpath(posixpath.join("/", path))
    reason = hint = None
    if place.read is None:
        reason, hint = f"the file includes {shown(path)}, which is not read here", "give the machines themselves"
    elif full in place.including:
        reason = f"{shown(path)} includes itself ({' -> '.join((*place.including, full))}): Nix would read on for ever"
        hint = "remove one of the '@' lines"
    else:
        try:
            text = place.read(full)
        except OSError as error:
            reason = f"{shown(path)} cannot be read: {error.strerror or error}; Nix would then read no machine at all"
            hint = "correct the '@' line, or mend the file"
        else:
            deeper = place._replace(file=full, including=(*place.including, full))
            return [] if text is None else _parse(text, deeper)
    raise MachinesError(reason, hint, file=place.file, line=line)


def _machine(tokens: list[str], nix_version: Version) -> Machine:
    """The machine of a line's words; words after the eighth count for nothing, as with Nix."""
    uri = tokens[0]
    if uri == "-":
        raise MachinesError("there is no URI", "write one, like ssh-ng://user@host, or remove the line", key="uri")
    if not store_uri.is_read(uri, nix_version):
        raise MachinesError(
            f"Nix {version_text(nix_version)} cannot parse this URI, and refuses the whole file",
            "write one like ssh-ng://user@host?name=value, in ASCII, all else percent-encoded",
            key="uri",
        )
    words = ["" if token == "-" else token for token in tokens[1:8]]
    systems, ssh_key, max_jobs, speed, supported, mandatory, host_key = words + [""] * (7 - len(words))
    if systems and not systems.strip(","):
        raise MachinesError(
            f"{shown(systems)} names no system, so this machine would get no build",
            "write '-' for the client's own",
            key="systems",
        )
    return Machine(
        uri=uri,
        systems=_list(systems),
        ssh_key=ssh_key,
        max_jobs=_max_jobs(max_jobs) if max_jobs else 1,
        speed_factor=_speed(speed, nix_version) if speed else 1.0,
        supported_features=_list(supported),
        mandatory_features=_list(mandatory),
        public_host_key=_host_key(host_key) if host_key else "",
    )


def _list(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _unsigned(text: str) -> int | None:
    found = _UINT.fullmatch(text)
    value = int(found.group(1)) if found else -1
    return value if 0 <= value <= UINT_MAX else None


def _max_jobs(text: str) -> int:
    value = _unsigned(text)
    if value is None:
        raise MachinesError(
            f"{shown(text)} is no unsigned integer",
            f"write a whole number from 0 to {UINT_MAX}, or '-' for 1",
            key="max_jobs",
        )
    return value


def _speed(text: str, nix_version: Version) -> float:
    if nix_version < FLOAT_SPEED_SINCE:
        whole = _unsigned(text)
        if whole is None:
            raise MachinesError(
                f"{shown(text)} is no unsigned integer, and Nix {version_text(nix_version)} reads no other",
                "write a whole number, or '-' for 1",
                key="speed_factor",
            )
        return float(whole)
    value = float(text) if NUMBER.fullmatch(text) else -1.0
    if value and not FLOAT_MIN <= value <= FLOAT_MAX:
        raise MachinesError(
            f"{shown(text)} is no speed", "write a number above 0, like 2 or 1.5, or '-' for 1", key="speed_factor"
        )
    return value


def _host_key(text: str) -> str:
    """The decoded text. As Nix: padding may be missing, and what follows a = counts for nothing (base64Decode)."""
    digits = text.partition("=")[0]
    if not _BASE64.fullmatch(digits):
        raise MachinesError(
            f"{shown(text)} is not base64",
            "write what 'base64 -w0' of the key's .pub file prints, or '-'",
            key="public_host_key",
        )
    if len(digits) % 4 == 1:
        digits = digits[:-1]
    key = binascii.a2b_base64(digits + "=" * (-len(digits) % 4)).decode("utf-8", "surrogateescape")
    if not key.strip(BLANKS):
        raise MachinesError(
            f"{shown(text)} encodes no key, so that no host key would do", "write '-' for none", key="public_host_key"
        )
    return key


# ---------------------------------------------------------------------------------------------------- merge


def merge(
    text: str,
    machines: t.Sequence[Machine],
    remove: bool = False,
    file: str | None = None,
    nix_version: Version = OLDEST,
    read: Read | None = None,
) -> str:
    """The text with these machines put in (with remove: taken out), all else kept: comments, includes, other machines.

    A machine that the text has already under the same URI is replaced where it stands, or left letter for letter if it
    is equal; a further entry with its URI goes; a new one comes to the end. Raises MachinesError for a text that Nix
    would not read, and for a machine that an included file holds, as only that file can lose it.
    """
    if not remove:
        check(machines, nix_version)
    wanted = {identity(machine.uri): machine for machine in machines}
    place = _top(file, nix_version, read)
    _refuse_toml(text, place)
    done: set[str] = set()
    lines: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        segments = _segments(line, nix_version) if line else []
        kept = []
        for code, comment in segments:
            found = _entry(code, number, place)
            if code.lstrip(BLANKS)[:1] == "@":
                for machine in found:
                    if identity(machine.uri) in wanted:
                        raise MachinesError(
                            f"it stands in a file that this line includes ({shown(code.strip(BLANKS))})",
                            "remove it from that file",
                            file=file,
                            line=number,
                            machine=machine.uri,
                        )
            elif found and identity(found[0].uri) in wanted:
                code = "" if remove else _replaced(code, found[0], wanted, done)
                if not code:
                    # The comment stays; without one the entry goes together with its separator.
                    kept += [("", comment)] if comment else []
                    continue
            kept.append((code, comment))
        if kept or not segments:
            lines.append(";".join(code + comment for code, comment in kept))
    result = "\n".join(lines)
    added = [] if remove else [machine for key, machine in wanted.items() if key not in done]
    if result and not result.endswith("\n") and (added or result != text):
        result += "\n"
    return result + "".join(machine.line + "\n" for machine in added)


def _replaced(code: str, old: Machine, wanted: dict[str, Machine], done: set[str]) -> str:
    """What an entry becomes: itself if it says the same, the new line, or nothing if its machine stands further up."""
    key = identity(old.uri)
    if key in done:
        return ""
    done.add(key)
    new = wanted[key]
    if old == new:
        return code
    bare = code.strip(BLANKS)
    return code.replace(bare, new.line, 1)
