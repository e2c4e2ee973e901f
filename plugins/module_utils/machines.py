# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The machines file of Nix (its setting C(builders)): parse, check, render, merge.

Pure: text in, values out; files that are included are read through a callable that is handed in. Every refusal is a
MachinesError. The grammar is that of Nix's src/libstore/machines.cc, which changed at three versions that count here:

- 2.20: the speed factor is a float; before, an unsigned int.
- 2.28.2, 2.29 and 2.24.15: a comment is cut before the line is split at C(;), blanks around an entry are dropped.
  Before, what follows a C(;) in a comment is a machine, an indented C(@file) is no include, and a line of blanks is an
  error (the last is measured on 2.8.0).
- 2.31 (ssh.cc, store-reference.cc): a port in the URI reaches ssh; the zone of an IPv6 address does no more (2.34.8
  hands ssh a host name with two NUL bytes at its end).

C(nix_version) is the version of the Nix that reads the file, as a tuple; without it the rules of the oldest supported
one hold: what they let through every later one reads the same way.
"""

from __future__ import annotations

import binascii
import functools
import ipaddress
import posixpath
import re
import struct
import typing as t
from dataclasses import dataclass, replace
from urllib.parse import unquote

Version = tuple[int, ...]
#: The text of an included file, by its path; None where there is no such file. May raise OSError.
Read = t.Callable[[str], t.Optional[str]]

OLDEST: Version = (2, 8)
#: Lix has the float speed of 2.20 and the comments of before 2.28.2, in whatever version (its libstore/machines.cc).
LIX: Version = (2, 20)

FLOAT_SPEED_SINCE: Version = (2, 20)
PORT_SINCE: Version = (2, 31)
#: Since then a URI is parsed with the file, so that one that is no URI disables all machines (store-reference.cc).
URI_PARSED_SINCE: Version = (2, 23)

#: The fields of a line, in order; these are also the keys of a machine's dict.
COLUMNS = (
    "uri",
    "systems",
    "ssh_key",
    "max_jobs",
    "speed_factor",
    "supported_features",
    "mandatory_features",
    "public_host_key",
)
#: What C(uri) can be given as instead.
URI_PARTS = ("protocol", "user", "host", "port")

HEADER = "# Managed by Ansible, module nixfleet.builders.machines_file"

#: Nix's hook locks files named after the URI; NAME_MAX of all usual file systems (build-remote.cc, openSlotLock).
_LOCK_NAME_MAX = 255
_LOCK_SUFFIX = len(".upload-lock")
_UINT_MAX = 4294967295

_SSH_SCHEMES = ("ssh", "ssh-ng", "mounted-ssh-ng")
_BLANKS = " \t\r\n"
_TOKEN = re.compile(r"[^ \t\r\n]+")
_UINT = re.compile(r"\+?0*([0-9]{1,10})")
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_BASE64 = re.compile(r"[A-Za-z0-9+/]*")
_PLAIN_WORD = re.compile(r"[A-Za-z0-9_./+:@~=][A-Za-z0-9_./+:@~=-]*")
_PLAIN_SSH_URI = re.compile(r"ssh(?:-ng)?://(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_USER = re.compile(r"[A-Za-z0-9_.~+-]+\$?")
_HOST = re.compile(r"[A-Za-z0-9_.~-]+")
_IPV4_LIKE = re.compile(r"[0-9.]+")
_ZONE = re.compile(r"[A-Za-z0-9_.~-]+")
_AUTHORITY = re.compile(r"(?:([^@]*)@)?(\[[^\]]*\]|[^\[\]]*?)(?::([0-9]*))?")
_QUERY = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,=:@/?\"-]|%[0-9A-Fa-f]{2})*")
#: RFC 3986, with IPv6 addresses also as Nix has always taken them: without brackets, and a zone after a bare %.
_URL_CHAR = r"[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2}"
_URL = re.compile(
    rf"[a-z][a-z0-9+.-]*://(?:(?:{_URL_CHAR}|:)*@)?"
    rf"(?:\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._~-]+)?\]|[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:]*(?:%[A-Za-z0-9._~-]+)?|(?:{_URL_CHAR})*?)(?P<port>:[0-9]+)?"
    rf"(?:/(?:{_URL_CHAR}|[:@/])*)?(?:\?(?:{_URL_CHAR}|[:@/?\"])*)?"
)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_KEY_LINE = re.compile(r"([a-z0-9@.-]+) ([A-Za-z0-9+/]+={0,2})(?: ([^\x00-\x1f\x7f]*))?")


def _shown(value: object) -> str:
    """The value for an error message: quoted, one line, not longer than needed to find it."""
    text = repr(value)
    return text if len(text) <= 100 else text[:90] + "…" + text[-1]


class MachinesError(Exception):
    """A machines file, or a machine meant for one, that is refused.

    file, line (from 1): where it was read. key: the key of the machine's dict, column: its field in the line, from 1
    (Nix's own messages count from 0). machine: the URI. reason: what is wrong. hint: what to do. None where it does not
    apply.
    """

    def __init__(
        self,
        reason: str,
        hint: str,
        *,
        file: str | None = None,
        line: int | None = None,
        machine: str | None = None,
        key: str | None = None,
    ) -> None:
        self.reason = reason
        self.hint = hint
        self.file = file
        self.line = line
        self.machine = machine
        self.key = key
        super().__init__(reason)

    @property
    def column(self) -> int | None:
        """The field's number in the line, from 1."""
        if self.key in URI_PARTS:
            return 1
        return COLUMNS.index(self.key) + 1 if self.key in COLUMNS else None

    def __str__(self) -> str:
        where = []
        if self.file is not None or self.line is not None:
            where.append("machines file" + (f" {self.file}" if self.file is not None else ""))
        if self.line is not None:
            where.append(f"line {self.line}")
        if self.machine is not None:
            where.append(f"machine {self.machine}")
        if self.key is not None:
            column = f", column {self.column}" if self.line is not None and self.column else ""
            where.append(f"{self.key}{column}")
        text = f"{', '.join(where)}: {self.reason}; {self.hint}" if where else f"{self.reason}; {self.hint}"
        # What was read may hold bytes that are no UTF-8; a message must always be printable.
        return text.encode("utf-8", "backslashreplace").decode("utf-8")

    def _at(self, file: str | None, line: int | None) -> MachinesError:
        self.file, self.line = file, line
        return self


def parse_nix_version(text: str) -> Version:
    """(2, 26, 3) out of C(2.26.3), also with a suffix like C(pre20250806). Raises MachinesError."""
    found = re.match(r"([0-9]+(?:\.[0-9]+)+)", text.strip())
    if not found or len(found.group(1)) > 40:
        raise MachinesError(
            f"{_shown(text)} is no version of Nix", "write it as 'nix --version' prints it, for example 2.26.3"
        )
    return tuple(int(part) for part in found.group(1).split("."))


def _cuts_comments_first(nix_version: Version) -> bool:
    return nix_version >= (2, 28, 2) or (2, 24, 15) <= nix_version < (2, 25)


# ---------------------------------------------------------------------------------------------------- a machine


@dataclass(frozen=True)
class Machine:
    """One machine, normalised: a URI with its scheme; systems and features sorted, each once; speed 0 is 1, as in Nix.

    systems empty: the client's own system. ssh_key, public_host_key empty: none. public_host_key is the line of an ssh
    public key file. Values are not judged here, but by check() and render().
    """

    uri: str
    systems: tuple[str, ...] = ()
    ssh_key: str = ""
    max_jobs: int = 1
    speed_factor: float = 1.0
    supported_features: tuple[str, ...] = ()
    mandatory_features: tuple[str, ...] = ()
    public_host_key: str = ""

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        if "/" not in self.uri:
            set_field(self, "uri", _normal_uri(self.uri))
        if self.systems:
            set_field(self, "systems", _sorted(self.systems))
        if self.supported_features:
            set_field(self, "supported_features", _sorted(self.supported_features))
        if self.mandatory_features:
            set_field(self, "mandatory_features", _sorted(self.mandatory_features))
        if not self.speed_factor:
            set_field(self, "speed_factor", 1.0)
        elif self.speed_factor.__class__ is not float:
            set_field(self, "speed_factor", float(self.speed_factor))
        if self.public_host_key:
            set_field(self, "public_host_key", self.public_host_key.strip(_BLANKS))

    @classmethod
    def from_dict(cls, given: t.Mapping[str, t.Any], number: int | None = None) -> Machine:
        """A machine out of its dict; a key that is None counts as not given. C(number), from 1, is for errors.

        Raises MachinesError for an unknown key, a value of the wrong type, no URI, or a URI that its parts contradict.
        """
        if not isinstance(given, t.Mapping):
            raise MachinesError(
                f"{_shown(given)} is no dict",
                "write a machine as a dict with the keys " + ", ".join(COLUMNS),
                machine=f"number {number}" if number else None,
            )
        values = {key: value for key, value in given.items() if value is not None}
        uri = values.get("uri") or values.get("host")
        label = uri if isinstance(uri, str) else (f"number {number}" if number else "without a URI")
        unknown = sorted(str(key) for key in values if key not in COLUMNS and key not in URI_PARTS)
        if unknown:
            raise MachinesError(
                "there is no such key",
                "the keys are " + ", ".join(COLUMNS + URI_PARTS),
                machine=label,
                key=unknown[0],
            )
        uri = _uri_from_dict(values, label)
        return cls(
            uri=uri,
            systems=_items(values, "systems", uri),
            ssh_key=_text(values, "ssh_key", uri),
            max_jobs=_whole(values, "max_jobs", uri, 1),
            speed_factor=_real(values, "speed_factor", uri, 1.0),
            supported_features=_items(values, "supported_features", uri),
            mandatory_features=_items(values, "mandatory_features", uri),
            public_host_key=_text(values, "public_host_key", uri),
        )

    def to_dict(self) -> dict[str, t.Any]:
        """The machine as the dict that every part of the collection takes; from_dict() gives the same machine back."""
        return {
            "uri": self.uri,
            "systems": list(self.systems),
            "ssh_key": self.ssh_key,
            "max_jobs": self.max_jobs,
            "speed_factor": self.speed_factor,
            "supported_features": list(self.supported_features),
            "mandatory_features": list(self.mandatory_features),
            "public_host_key": self.public_host_key,
        }

    @property
    def parts(self) -> UriParts:
        """The URI taken apart."""
        return split_uri(self.uri)

    def with_protocol(self, protocol: str) -> Machine:
        """The same machine through another ssh protocol; unchanged if it is not reached by ssh."""
        scheme, found, rest = self.uri.partition("://")
        return replace(self, uri=f"{protocol}://{rest}") if found and scheme in _SSH_SCHEMES else self

    def render(self, nix_version: Version = OLDEST) -> str:
        """The machine's line, all eight columns, no newline. Raises MachinesError for what this Nix would misread."""
        _check_one(self, nix_version)
        return _line(self, nix_version)


@functools.lru_cache(maxsize=1024)
def _sorted(items: tuple[str, ...]) -> tuple[str, ...]:
    # A fleet has few different lists; its machines then share them.
    return tuple(sorted(set(items)))


class UriParts(t.NamedTuple):
    """A URI's scheme (empty for a path or a word like C(daemon)), user, host without brackets, port, all after it."""

    protocol: str
    user: str | None
    host: str
    port: int | None
    rest: str


def split_uri(uri: str) -> UriParts:
    """The parts of a URI. What is no URL with an authority comes back whole in C(rest); nothing is judged."""
    scheme, found, tail = uri.partition("://")
    if not found:
        return UriParts("", None, "", None, uri)
    end = min((tail.find(mark) for mark in "/?" if mark in tail), default=len(tail))
    authority, rest = tail[:end], tail[end:]
    user: str | None = None
    if "@" in authority:
        user, _at, authority = authority.rpartition("@")
    host, port = authority, None
    # Several colons without brackets are an IPv6 address, not a port.
    split = re.fullmatch(r"(\[.*\]|[^:\[\]]*):([0-9]{1,10})", authority, re.DOTALL)
    if split:
        host, port = split.group(1), int(split.group(2))
    if host[:1] == "[" and host[-1:] == "]":
        host = host[1:-1]
    return UriParts(scheme, user, host, port, rest)


def _normal_uri(uri: str) -> str:
    """The URI with the scheme that Nix adds (machines.cc, Machine::Machine)."""
    if "/" in uri or uri in ("auto", "daemon", "local", "-", "") or uri.startswith(("auto?", "daemon?", "local?", "?")):
        return uri
    return "ssh://" + uri


def identity(uri: str) -> str:
    """What two URIs of one machine have in common: host names in lower case, one form of addresses and parameters."""
    # Most URIs are their own identity; with thousands of machines the way round is dear.
    if uri.islower() and _PLAIN_SSH_URI.fullmatch(uri) and uri[-1] not in ".0123456789":
        return uri
    parts = split_uri(_normal_uri(uri))
    if not parts.protocol:
        return parts.rest
    path, _mark, query = parts.rest.partition("?")
    user = "" if parts.user is None else unquote(parts.user) + "@"
    port = "" if parts.port is None else f":{parts.port}"
    query = "?" + "&".join(sorted(map(unquote, query.split("&")))) if query else ""
    return f"{parts.protocol}://{user}{_normal_host(parts.host)}{port}{path.rstrip('/')}{query}"


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _normal_host(host: str) -> str:
    if ":" not in host and not _IPV4_LIKE.fullmatch(host):
        return host.lower().rstrip(".")
    address, mark, zone = host.partition("%")
    try:
        return ipaddress.ip_address(address).compressed + mark + zone
    except ValueError:
        return host.lower()


# ---------------------------------------------------------------------------------------------------- out of a dict


def _uri_from_dict(values: t.Mapping[str, t.Any], label: str) -> str:
    uri = _text(values, "uri", label)
    given = {key: values[key] for key in URI_PARTS if key in values and values[key] != ""}
    if uri:
        normal = _normal_uri(uri)
        parts = split_uri(normal)._asdict()
        for key, value in given.items():
            if str(parts[key]) != str(value).strip("[]"):
                raise MachinesError(
                    f"{_shown(value)} contradicts the URI",
                    f"give either uri or {', '.join(URI_PARTS)}",
                    machine=uri,
                    key=key,
                )
        return normal
    host = _text(values, "host", label)
    if not host:
        raise MachinesError("there is no URI", "give uri, or host (and protocol, user, port)", machine=label, key="uri")
    user = _text(values, "user", label)
    protocol = _text(values, "protocol", label) or "ssh-ng"
    if host[0] != "[" and _is_ipv6(host):
        host = f"[{host}]"
    uri = f"{protocol}://{user + '@' if user else ''}{host}"
    if split_uri(uri) != (protocol, user or None, host.strip("[]"), None, ""):
        raise MachinesError(
            "protocol, user and host do not make a URI",
            "write nothing else in them: the port is port, parameters need the whole uri",
            machine=label,
            key="host",
        )
    port = _whole(values, "port", uri, -1) if "port" in given else None
    if port is not None and not 1 <= port <= 65535:
        raise MachinesError(f"{port} is no port", "write a number from 1 to 65535", machine=uri, key="port")
    return uri if port is None else f"{uri}:{port}"


def _text(values: t.Mapping[str, t.Any], key: str, machine: str) -> str:
    value = values.get(key, "")
    if not isinstance(value, str):
        raise MachinesError(f"{_shown(value)} is no text", "write a string", machine=machine, key=key)
    return str(value)


def _items(values: t.Mapping[str, t.Any], key: str, machine: str) -> tuple[str, ...]:
    value = values.get(key, ())
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise MachinesError(f"{_shown(value)} is no list", "write a list of strings", machine=machine, key=key)
    for item in value:
        if not isinstance(item, str):
            raise MachinesError(
                f"the item {_shown(item)} is no text", "write a list of strings", machine=machine, key=key
            )
    return tuple(str(item) for item in value)


def _whole(values: t.Mapping[str, t.Any], key: str, machine: str, default: int) -> int:
    value = values.get(key, default)
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,20}", value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise MachinesError(f"{_shown(value)} is no whole number", "write one like 4", machine=machine, key=key)
    return int(value)


def _real(values: t.Mapping[str, t.Any], key: str, machine: str, default: float) -> float:
    value = values.get(key, default)
    if isinstance(value, str) and _FLOAT.fullmatch(value):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise MachinesError(f"{_shown(value)} is no number", "write one like 2 or 1.5", machine=machine, key=key)
    try:
        return float(value)
    except OverflowError:
        raise MachinesError("the number is too large", "write one like 2 or 1.5", machine=machine, key=key) from None


# ---------------------------------------------------------------------------------------------------- check


def check(
    machines: t.Iterable[Machine], nix_version: Version = OLDEST, own_names: t.Iterable[str] | None = None
) -> None:
    """Refuses what this Nix would misread, two machines with the same URI, and the client as its own builder.

    own_names: the client's names and addresses; None if there is no client to compare with. Raises MachinesError.
    """
    own = None if own_names is None else {_normal_host(name) for name in own_names}
    seen: dict[str, int] = {}
    for number, machine in enumerate(machines, 1):
        _check_one(machine, nix_version)
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
        mine = parts.rest in ("auto", "daemon", "local")
        what = f"{_shown(machine.uri)} is the client's own store"
    else:
        # Another port may be a virtual machine's, remote-store names another store: those are not this client's own.
        mine = (
            parts.protocol in _SSH_SCHEMES
            and parts.port in (None, 22)
            and "remote-store=" not in parts.rest
            and (_normal_host(parts.host) in own or _is_loopback(parts.host))
        )
        what = f"{_shown(parts.host)} is the client itself"
    if mine:
        raise MachinesError(
            f"{what}: the build would wait for ever for the lock that its own client holds (NixOS/nix#2029)",
            "leave the client out of its machines, its own slots are the setting max-jobs",
            machine=machine.uri,
            key="uri",
        )


def _is_loopback(host: str) -> bool:
    normal = _normal_host(host)
    if normal == "localhost" or normal.endswith(".localhost"):
        return True
    if ":" not in normal and not _IPV4_LIKE.fullmatch(normal):
        return False
    try:
        return ipaddress.ip_address(normal).is_loopback
    except ValueError:
        return False


def _check_one(machine: Machine, nix_version: Version) -> None:
    if not _PLAIN_SSH_URI.fullmatch(machine.uri):
        _check_uri(machine.uri, nix_version)
    if len(machine.uri) * 4 > _LOCK_NAME_MAX - _LOCK_SUFFIX:
        _check_lock_name(machine.uri)
    if machine.ssh_key and not _PLAIN_WORD.fullmatch(machine.ssh_key):
        _check_word(machine.ssh_key, machine.uri, "ssh_key")
    for key, items in (
        ("systems", machine.systems),
        ("supported_features", machine.supported_features),
        ("mandatory_features", machine.mandatory_features),
    ):
        if items and not _are_plain(items):
            for item in items:
                _check_item(item, machine.uri, key)
    if machine.max_jobs.__class__ is not int or not 0 <= machine.max_jobs <= _UINT_MAX:
        raise MachinesError(
            f"{_shown(machine.max_jobs)} is no number of builds",
            f"write a whole number from 0 (takes no builds) to {_UINT_MAX}",
            machine=machine.uri,
            key="max_jobs",
        )
    _check_speed(machine, nix_version)
    if machine.public_host_key:
        _check_key_line(machine)


@functools.lru_cache(maxsize=1024)
def _are_plain(items: tuple[str, ...]) -> bool:
    return all(map(_PLAIN_WORD.fullmatch, items))


def _check_speed(machine: Machine, nix_version: Version) -> None:
    speed = machine.speed_factor
    reason = hint = None
    if not 1e-37 <= speed <= 3.4e38:  # what a normal C float holds; also nan and negative numbers
        reason = f"{_shown(speed)} is no speed"
        hint = "write a number above 0, like 2 or 1.5 (0 stands for 1)"
    elif nix_version < FLOAT_SPEED_SINCE and not (speed.is_integer() and speed <= _UINT_MAX):
        reason = f"Nix {_version_text(nix_version)} reads whole numbers only, not {speed:.17g}"
        hint = "write a whole number (multiply all speeds by the same factor), or use Nix 2.20 or newer on this client"
    if reason and hint:
        raise MachinesError(reason, hint, machine=machine.uri, key="speed_factor")


def _version_text(nix_version: Version) -> str:
    return ".".join(map(str, nix_version))


def _check_word(text: str, machine: str, key: str) -> None:
    """Refuses what Nix would cut, split or take for something else: a field cannot be quoted."""
    reason = None
    if not text:
        reason = "it is empty"
    elif text == "-":
        reason = "a lone '-' stands for a value that is not set"
    else:
        for char in text:
            if char in ";#" or char == " " or not char.isprintable():
                names = {" ": "a blank", ";": "';'", "#": "'#'"}
                reason = (
                    f"{_shown(text)} holds {names.get(char, 'the character ' + ascii(char))}, where Nix cuts the line"
                )
                if char not in " \t\r\n;#":
                    reason = f"{_shown(text)} holds the unprintable character {ascii(char)}"
                break
    if reason:
        raise MachinesError(
            reason, "use a value without blanks, ';', '#' and control characters", machine=machine, key=key
        )


def _check_item(text: str, machine: str, key: str) -> None:
    _check_word(text, machine, key)
    if "," in text:
        raise MachinesError(
            f"the item {_shown(text)} holds a comma, where Nix splits the list",
            "write the parts as separate items",
            machine=machine,
            key=key,
        )


def _check_lock_name(uri: str) -> None:
    length = len(uri.encode("utf-8", "surrogateescape"))
    if length > _LOCK_NAME_MAX - _LOCK_SUFFIX:
        raise MachinesError(
            f"the URI has {length} bytes; Nix names lock files after it, which can have {_LOCK_NAME_MAX}",
            "use a shorter one: an ssh_config alias as the host, and its options there",
            machine=uri,
            key="uri",
        )


def _check_uri(uri: str, nix_version: Version) -> None:
    """Refuses a URI that breaks the line, and an ssh URI that this Nix would hand to ssh wrongly or not parse."""
    _check_word(uri, uri or "without a URI", "uri")

    def refuse(key: str, reason: str, hint: str) -> MachinesError:
        return MachinesError(reason, hint, machine=uri, key=key)

    if uri[0] == "@":
        raise refuse(
            "uri", "Nix takes a line that begins with '@' for the name of a file", "write the URI with its scheme"
        )
    scheme, found, tail = uri.partition("://")
    if not found:
        return
    if not _SCHEME.fullmatch(scheme):
        raise refuse("protocol", f"{_shown(scheme)} is no protocol", "write ssh-ng or ssh, in lower case")
    if scheme not in _SSH_SCHEMES:
        return
    before, _mark, query = tail.partition("?")
    authority, slash, _path = before.partition("/")
    if slash:
        raise refuse("uri", "an ssh URI has no path: Nix takes it for a part of the host name", "end it after the host")
    if not _QUERY.fullmatch(query) or any("=" not in word for word in query.split("&") if query):
        raise refuse(
            "uri", f"the parameters {_shown(query)} cannot be read", "write name=value&name=value, percent-encoded"
        )
    match = _AUTHORITY.fullmatch(authority)
    if not match:
        raise refuse("host", f"{_shown(authority)} is no host", "write [user@]host, an IPv6 address in [ ]")
    user, host, port = match.groups()
    if user is not None:
        if user.startswith("-"):
            raise refuse("user", f"the user {_shown(user)} begins with '-', an option to ssh", "use another name")
        if not _USER.fullmatch(user):
            raise refuse(
                "user",
                f"{_shown(user)} is no user name that every Nix reads",
                "use letters, digits and _ . ~ + -, or User in ssh_config",
            )
    if host.startswith("["):
        _check_ipv6(host[1:-1], nix_version, refuse)
    elif ":" in host:
        raise refuse("host", f"the IPv6 address {_shown(host)} has no brackets", f"write [{host}]")
    elif host.startswith("-"):
        raise refuse("host", f"the host {_shown(host)} begins with '-', an option to ssh", "use another name")
    elif not _HOST.fullmatch(host):
        raise refuse(
            "host", f"{_shown(host)} is no host name", "use letters, digits and _ . ~ -, or an alias of ssh_config"
        )
    if port is not None:
        if not (1 <= len(port) <= 5 and 1 <= int(port) <= 65535):
            raise refuse("port", f"{_shown(port)} is no port", "write a number from 1 to 65535")
        if nix_version < PORT_SINCE:
            raise refuse(
                "port",
                f"Nix {_version_text(nix_version)} takes {host}:{port} for the host's name, it reads no port in a URI",
                f"leave it out and set Port {port} for this host in the client's ssh_config",
            )


def _check_ipv6(text: str, nix_version: Version, refuse: t.Callable[[str, str, str], MachinesError]) -> None:
    _address, mark, zone = text.partition("%")
    if not _is_ipv6(text):
        raise refuse("host", f"{_shown(text)} is no IPv6 address", "correct it, or use a name without brackets")
    if mark and nix_version >= PORT_SINCE:
        raise refuse(
            "host",
            f"Nix {_version_text(nix_version)} hands ssh a damaged name for an address with a zone ({_shown(zone)})",
            "use a name, and set HostName to the address in the client's ssh_config",
        )
    if mark and not _ZONE.fullmatch(zone):
        raise refuse("host", f"{_shown(zone)} is no zone of an IPv6 address", "name the network interface, like %eth0")


def _is_whole(blob: bytes) -> bool:
    """Whether length-prefixed strings fill the blob to its last byte: one that was cut off has a length beyond it."""
    at = 0
    while at + 4 <= len(blob):
        at += 4 + int.from_bytes(blob[at : at + 4], "big")
    return at == len(blob)


def _check_key_line(machine: Machine) -> None:
    """The line of a public key file: type, blob that begins with the same type, comment (RFC 4253 §6.6)."""
    reason = None
    found = _KEY_LINE.fullmatch(machine.public_host_key)
    if not found:
        reason = f"{_shown(machine.public_host_key)} is no line of an ssh public key file"
    else:
        kind = found.group(1).encode()
        try:
            blob = binascii.a2b_base64(found.group(2))
        except binascii.Error:
            blob = b""
        if not (blob.startswith(struct.pack(">I", len(kind)) + kind) and _is_whole(blob)):
            reason = f"the key in {_shown(machine.public_host_key)} is damaged, it is no {found.group(1)}"
    if reason:
        raise MachinesError(
            reason,
            "copy one whole line of the builder's /etc/ssh/ssh_host_*_key.pub, not encoded, without a host name",
            machine=machine.uri,
            key="public_host_key",
        )


# ---------------------------------------------------------------------------------------------------- render


def render_file(
    machines: t.Sequence[Machine],
    nix_version: Version = OLDEST,
    own_names: t.Iterable[str] | None = None,
    header: str | None = HEADER,
) -> str:
    """The text of a file that holds these machines and nothing else. Raises MachinesError as check() does."""
    check(machines, nix_version, own_names)
    lines = [] if header is None else [header]
    lines += [_line(machine, nix_version) for machine in machines]
    return "".join(line + "\n" for line in lines)


def render_lines(machines: t.Iterable[Machine], nix_version: Version = OLDEST) -> list[str]:
    """The machines' lines as they would be written, without judging them."""
    return [_line(machine, nix_version) for machine in machines]


def _line(machine: Machine, nix_version: Version) -> str:
    key = machine.public_host_key
    return " ".join(
        (
            machine.uri,
            ",".join(machine.systems) or "-",
            machine.ssh_key or "-",
            str(machine.max_jobs),
            _number(machine.speed_factor),
            ",".join(machine.supported_features) or "-",
            ",".join(machine.mandatory_features) or "-",
            # With the newline of the .pub file, as `base64 -w0` of the file gives: a line made by hand stays as it is.
            binascii.b2a_base64((key + "\n").encode("utf-8", "surrogateescape"), newline=False).decode()
            if key
            else "-",
        )
    )


def _number(value: float) -> str:
    """The shortest text of a number: C(2), C(1.5)."""
    return str(int(value)) if value.is_integer() and value < 1e16 else repr(value)


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
    including = () if file is None else (posixpath.normpath(file),)
    return _parse(text, _Place(file, nix_version, read, including))


def _parse(text: str, place: _Place) -> list[Machine]:
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
                f"Nix {_version_text(place.nix_version)} takes these blanks for a machine without a URI, "
                "and refuses the whole file",
                "remove the blanks that stand alone, before a '#' or after a ';' (or a DOS line's carriage return)",
                file=place.file,
                line=line,
            )
        return []
    if tokens[0][0] == "@":
        if strict and code[0] != "@":
            raise MachinesError(
                f"Nix {_version_text(place.nix_version)} takes the indented '@' for the name of a machine",
                "remove the blanks before it",
                file=place.file,
                line=line,
            )
        return _include(code.strip(_BLANKS)[1:].strip(_BLANKS), line, place)
    try:
        return [_machine(tokens, place.nix_version)]
    except MachinesError as error:
        raise error._at(place.file, line) from None


def _include(path: str, line: int, place: _Place) -> list[Machine]:
    if not path:
        return []  # to Nix a file that does not exist
    full = posixpath.normpath(posixpath.join("/", path))
    reason = hint = None
    if place.read is None:
        reason, hint = f"the file includes {_shown(path)}, which is not read here", "give the machines themselves"
    elif full in place.including:
        reason = f"{_shown(path)} includes itself ({' -> '.join((*place.including, full))}): Nix would read on for ever"
        hint = "remove one of the '@' lines"
    else:
        try:
            text = place.read(full)
        except OSError as error:
            reason = f"{_shown(path)} cannot be read: {error.strerror or error}; Nix would then read no machine at all"
            hint = "correct the '@' line, or mend the file"
        else:
            deeper = place._replace(file=full, including=(*place.including, full))
            return [] if text is None else _parse(text, deeper)
    raise MachinesError(reason, hint, file=place.file, line=line)


def _machine(tokens: list[str], nix_version: Version) -> Machine:
    """The machine of a line's words; words after the eighth count for nothing, as with Nix."""
    uri = tokens[0]

    def bad(key: str, reason: str, hint: str) -> MachinesError:
        return MachinesError(reason, hint, machine=None if uri == "-" else uri, key=key)

    if uri == "-":
        raise bad("uri", "there is no URI", "write one, like ssh-ng://user@host, or remove the line")
    if nix_version >= URI_PARSED_SINCE and not _PLAIN_SSH_URI.fullmatch(uri) and not _is_uri(uri, nix_version):
        raise bad(
            "uri",
            f"Nix {_version_text(nix_version)} cannot parse this URI, and refuses the whole file",
            "write one like ssh-ng://user@host?name=value, in ASCII, all else percent-encoded",
        )
    set_to = [None if token == "-" else token for token in tokens[:8]]
    set_to += [None] * (8 - len(set_to))
    _uri, systems, ssh_key, max_jobs, speed, supported, mandatory, host_key = set_to
    system_items = systems.split(",") if systems else ()
    if systems and not any(system_items):
        raise bad(
            "systems",
            f"{_shown(systems)} names no system, so this machine would get no build",
            "write '-' for the client's own",
        )
    return Machine(
        uri=uri,
        systems=tuple(filter(None, system_items)),
        ssh_key=ssh_key or "",
        max_jobs=1 if max_jobs is None else _unsigned(max_jobs, "max_jobs", bad),
        speed_factor=1.0 if speed is None else _speed(speed, nix_version, bad),
        supported_features=tuple(filter(None, supported.split(","))) if supported else (),
        mandatory_features=tuple(filter(None, mandatory.split(","))) if mandatory else (),
        public_host_key=_key_line(host_key, bad) if host_key else "",
    )


def _is_uri(uri: str, nix_version: Version) -> bool:
    """Whether StoreReference::parse takes the text of a first column."""
    uri = _normal_uri(uri)
    if "://" not in uri:
        return not _BAD_ESCAPE.search(uri.partition("?")[2])
    found = _URL.fullmatch(uri)
    port = found.group("port") if found else None
    return bool(found) and (not port or nix_version < PORT_SINCE or (len(port) < 7 and 1 <= int(port[1:]) <= 65535))


_Bad = t.Callable[[str, str, str], MachinesError]


def _unsigned(text: str, key: str, bad: _Bad) -> int:
    found = _UINT.fullmatch(text)
    if not found or int(found.group(1)) > _UINT_MAX:
        raise bad(
            key, f"{_shown(text)} is no unsigned integer", f"write a whole number from 0 to {_UINT_MAX}, or '-' for 1"
        )
    return int(found.group(1))


def _speed(text: str, nix_version: Version, bad: _Bad) -> float:
    if nix_version < FLOAT_SPEED_SINCE:
        found = _UINT.fullmatch(text)
        if not found or int(found.group(1)) > _UINT_MAX:
            raise bad(
                "speed_factor",
                f"{_shown(text)} is no unsigned integer, and Nix {_version_text(nix_version)} reads no other",
                "write a whole number, or '-' for 1",
            )
        return float(found.group(1))
    value = float(text) if _FLOAT.fullmatch(text) else -1.0
    if value and not 1e-37 <= value <= 3.4e38:
        raise bad("speed_factor", f"{_shown(text)} is no speed", "write a number above 0, like 2 or 1.5, or '-' for 1")
    return value


def _key_line(text: str, bad: _Bad) -> str:
    """The decoded text. As Nix: padding may be missing, and what follows a = counts for nothing (base64Decode)."""
    digits = text.partition("=")[0]
    if not _BASE64.fullmatch(digits):
        raise bad(
            "public_host_key",
            f"{_shown(text)} is not base64",
            "write what 'base64 -w0' of the key's .pub file prints, or '-'",
        )
    if len(digits) % 4 == 1:
        digits = digits[:-1]
    key = binascii.a2b_base64(digits + "=" * (-len(digits) % 4)).decode("utf-8", "surrogateescape")
    if not key.strip(_BLANKS):
        raise bad(
            "public_host_key", f"{_shown(text)} encodes no key, so that no host key would do", "write '-' for none"
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
    place = _Place(file, nix_version, read, () if file is None else (posixpath.normpath(file),))
    done: set[str] = set()
    lines: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        segments = _segments(line, nix_version) if line else []
        kept = []
        for code, comment in segments:
            found = _entry(code, number, place)
            if code.lstrip(_BLANKS)[:1] == "@":
                for machine in found:
                    if identity(machine.uri) in wanted:
                        raise MachinesError(
                            f"it stands in a file that this line includes ({_shown(code.strip(_BLANKS))})",
                            "remove it from that file",
                            file=file,
                            line=number,
                            machine=machine.uri,
                        )
            elif found and identity(found[0].uri) in wanted:
                code = "" if remove else _replaced(code, found[0], wanted, done, nix_version)
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
    return result + "".join(_line(machine, nix_version) + "\n" for machine in added)


def _replaced(code: str, old: Machine, wanted: dict[str, Machine], done: set[str], nix_version: Version) -> str:
    """What an entry becomes: itself if it says the same, the new line, or nothing if its machine stands further up."""
    key = identity(old.uri)
    if key in done:
        return ""
    done.add(key)
    new = wanted[key]
    if old == new:
        return code
    bare = code.strip(_BLANKS)
    return code.replace(bare, _line(new, nix_version), 1)
