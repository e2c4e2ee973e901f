# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One machine: its dict, its line in a machines file, and what keeps it from being one.

Pure. Every refusal is a MachinesError.
"""

from __future__ import annotations

import binascii
import functools
import re
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.nixfleet.builders.plugins.module_utils import store_uri
from ansible_collections.nixfleet.builders.plugins.module_utils.error_text import shown
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_version import OLDEST, Version, version_text
from ansible_collections.nixfleet.builders.plugins.module_utils.store_uri import UriError, UriParts

#: Before, the speed factor is an unsigned int (machines.cc).
FLOAT_SPEED_SINCE: Version = (2, 20)

#: Measured: 2.26 hands ssh whatever path it finds, 2.34 says "not an absolute path" when it connects. Those between are
#: not known.
ABSOLUTE_KEYS_SINCE: Version = (2, 27)

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

#: What stands between the fields of a line, and around it.
BLANKS = " \t\r\n"
UINT_MAX = 4294967295
#: What a normal C float holds; Nix keeps the speed in one (machines.hh).
FLOAT_MIN = 1e-37
FLOAT_MAX = 3.4e38
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

#: Nix's hook locks files named after the URI; NAME_MAX of all usual file systems (build-remote.cc, openSlotLock).
_LOCK_NAME_MAX = 255
_LOCK_SUFFIX = len(".upload-lock")

_PLAIN_WORD = re.compile(r"[A-Za-z0-9_./+:@~=][A-Za-z0-9_./+:@~=-]*")
_KEY_LINE = re.compile(r"([a-z0-9@.-]+) ([A-Za-z0-9+/]+={0,2})(?: ([^\x00-\x1f\x7f]*))?")


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
            set_field(self, "uri", store_uri.normal_uri(self.uri))
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
            set_field(self, "public_host_key", self.public_host_key.strip(BLANKS))

    @classmethod
    def from_dict(cls, given: t.Mapping[str, t.Any], number: int | None = None) -> Machine:
        """A machine out of its dict; a key that is None counts as not given. C(number), from 1, is for errors.

        Raises MachinesError for an unknown key, a value of the wrong type, no URI, or a URI that its parts contradict.
        """
        if not isinstance(given, t.Mapping):
            raise MachinesError(
                f"{shown(given)} is no dict",
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
        values = {key: getattr(self, key) for key in COLUMNS}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @property
    def parts(self) -> UriParts:
        """The URI taken apart."""
        return store_uri.split_uri(self.uri)

    @property
    def line(self) -> str:
        """The machine's line, all eight columns, no newline, not judged."""
        # With the newline of the .pub file, as `base64 -w0` of the file gives: a line made by hand stays as it is.
        key = (self.public_host_key + "\n").encode("utf-8", "surrogateescape") if self.public_host_key else b""
        return " ".join(
            (
                self.uri,
                ",".join(self.systems) or "-",
                self.ssh_key or "-",
                str(self.max_jobs),
                _shortest(self.speed_factor),
                ",".join(self.supported_features) or "-",
                ",".join(self.mandatory_features) or "-",
                binascii.b2a_base64(key, newline=False).decode() or "-",
            )
        )

    def with_protocol(self, protocol: str) -> Machine:
        """The same machine through another ssh protocol; unchanged if it is not reached by ssh."""
        scheme, found, rest = self.uri.partition("://")
        return replace(self, uri=f"{protocol}://{rest}") if found and scheme in store_uri.SSH_SCHEMES else self

    def check(self, nix_version: Version = OLDEST) -> None:
        """Raises MachinesError for what this Nix would misread."""
        if not store_uri.is_plain_ssh(self.uri):
            _check_uri(self.uri, nix_version)
        if len(self.uri) * 4 > _LOCK_NAME_MAX - _LOCK_SUFFIX:
            _check_lock_name(self.uri)
        if self.ssh_key and not _PLAIN_WORD.fullmatch(self.ssh_key):
            _check_word(self.ssh_key, self.uri, "ssh_key")
        if self.ssh_key and not self.ssh_key.startswith("/") and nix_version >= ABSOLUTE_KEYS_SINCE:
            raise MachinesError(
                f"{shown(self.ssh_key)} is no absolute path",
                "write it from / on, without ~: this Nix does not connect with any other",
                machine=self.uri,
                key="ssh_key",
            )
        for key, items in (
            ("systems", self.systems),
            ("supported_features", self.supported_features),
            ("mandatory_features", self.mandatory_features),
        ):
            if items and not _are_plain(items):
                for item in items:
                    _check_item(item, self.uri, key)
        if self.max_jobs.__class__ is not int or not 0 <= self.max_jobs <= UINT_MAX:
            raise MachinesError(
                f"{shown(self.max_jobs)} is no number of builds",
                f"write a whole number from 0 (takes no builds) to {UINT_MAX}",
                machine=self.uri,
                key="max_jobs",
            )
        _check_speed(self.speed_factor, self.uri, nix_version)
        if self.public_host_key:
            _check_key_line(self.public_host_key, self.uri)

    def render(self, nix_version: Version = OLDEST) -> str:
        """The machine's line. Raises MachinesError as check() does."""
        self.check(nix_version)
        return self.line


@functools.lru_cache(maxsize=1024)
def _sorted(items: tuple[str, ...]) -> tuple[str, ...]:
    # A fleet has few different lists; its machines then share them.
    return tuple(sorted(set(items)))


def _shortest(value: float) -> str:
    """The shortest text of a number: C(2), C(1.5)."""
    return str(int(value)) if value.is_integer() and value < 1e16 else repr(value)


# ---------------------------------------------------------------------------------------------------- out of a dict


def _uri_from_dict(values: t.Mapping[str, t.Any], label: str) -> str:
    uri = _text(values, "uri", label)
    given = {key: values[key] for key in URI_PARTS if key in values and values[key] != ""}
    if uri:
        normal = store_uri.normal_uri(uri)
        parts = store_uri.split_uri(normal)._asdict()
        for key, value in given.items():
            if str(parts[key]) != str(value).strip("[]"):
                raise MachinesError(
                    f"{shown(value)} contradicts the URI",
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
    try:
        uri = store_uri.join_uri(protocol, user, host)
    except UriError as error:
        raise MachinesError(error.reason, error.hint, machine=label, key=error.part) from None
    if "port" not in given:
        return uri
    port = _whole(values, "port", uri, -1)
    if not 1 <= port <= 65535:
        raise MachinesError(f"{port} is no port", "write a number from 1 to 65535", machine=uri, key="port")
    return f"{uri}:{port}"


def _text(values: t.Mapping[str, t.Any], key: str, machine: str) -> str:
    value = values.get(key, "")
    if not isinstance(value, str):
        raise MachinesError(f"{shown(value)} is no text", "write a string", machine=machine, key=key)
    return str(value)


def _items(values: t.Mapping[str, t.Any], key: str, machine: str) -> tuple[str, ...]:
    value = values.get(key, ())
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise MachinesError(f"{shown(value)} is no list", "write a list of strings", machine=machine, key=key)
    for item in value:
        if not isinstance(item, str):
            raise MachinesError(
                f"the item {shown(item)} is no text", "write a list of strings", machine=machine, key=key
            )
    return tuple(str(item) for item in value)


def _whole(values: t.Mapping[str, t.Any], key: str, machine: str, default: int) -> int:
    value = values.get(key, default)
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,20}", value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise MachinesError(f"{shown(value)} is no whole number", "write one like 4", machine=machine, key=key)
    return int(value)


def _real(values: t.Mapping[str, t.Any], key: str, machine: str, default: float) -> float:
    value = values.get(key, default)
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise MachinesError(f"{shown(value)} is no number", "write one like 2 or 1.5", machine=machine, key=key)
    try:
        return float(value)
    except OverflowError:
        raise MachinesError("the number is too large", "write one like 2 or 1.5", machine=machine, key=key) from None


# ---------------------------------------------------------------------------------------------------- check


@functools.lru_cache(maxsize=1024)
def _are_plain(items: tuple[str, ...]) -> bool:
    return all(map(_PLAIN_WORD.fullmatch, items))


def _check_word(text: str, machine: str, key: str) -> None:
    """Refuses what Nix would cut, split or take for something else: a field cannot be quoted."""
    bad = next((char for char in text if char in " ;#" or not char.isprintable()), None)
    if not text:
        reason = "it is empty"
    elif text == "-":
        reason = "a lone '-' stands for a value that is not set"
    elif bad is None:
        return
    elif bad in BLANKS + ";#":
        name = {" ": "a blank", ";": "';'", "#": "'#'"}.get(bad, f"the character {ascii(bad)}")
        reason = f"{shown(text)} holds {name}, where Nix cuts the line"
    else:
        reason = f"{shown(text)} holds the unprintable character {ascii(bad)}"
    raise MachinesError(reason, "use a value without blanks, ';', '#' and control characters", machine=machine, key=key)


def _check_item(text: str, machine: str, key: str) -> None:
    _check_word(text, machine, key)
    if "," in text:
        raise MachinesError(
            f"the item {shown(text)} holds a comma, where Nix splits the list",
            "write the parts as separate items",
            machine=machine,
            key=key,
        )


def _check_uri(uri: str, nix_version: Version) -> None:
    """Refuses a URI that breaks the line, and one that this Nix would misread."""
    _check_word(uri, uri or "without a URI", "uri")
    if uri[0] == "@":
        raise MachinesError(
            "Nix takes a line that begins with '@' for the name of a file",
            "write the URI with its scheme",
            machine=uri,
            key="uri",
        )
    try:
        store_uri.check_uri(uri, nix_version)
    except UriError as error:
        raise MachinesError(error.reason, error.hint, machine=uri, key=error.part) from None


def _check_lock_name(uri: str) -> None:
    length = len(uri.encode("utf-8", "surrogateescape"))
    if length > _LOCK_NAME_MAX - _LOCK_SUFFIX:
        raise MachinesError(
            f"the URI has {length} bytes; Nix names lock files after it, which can have {_LOCK_NAME_MAX}",
            "use a shorter one: an ssh_config alias as the host, and its options there",
            machine=uri,
            key="uri",
        )


def _check_speed(speed: float, machine: str, nix_version: Version) -> None:
    if not FLOAT_MIN <= speed <= FLOAT_MAX:  # also nan and negative numbers
        reason = f"{shown(speed)} is no speed"
        hint = "write a number above 0, like 2 or 1.5 (0 stands for 1)"
    elif nix_version < FLOAT_SPEED_SINCE and not (speed.is_integer() and speed <= UINT_MAX):
        reason = f"Nix {version_text(nix_version)} reads whole numbers only, not {speed:.17g}"
        hint = "write a whole number (multiply all speeds by the same factor), or use Nix 2.20 or newer on this client"
    else:
        return
    raise MachinesError(reason, hint, machine=machine, key="speed_factor")


def _check_key_line(text: str, machine: str) -> None:
    """The line of a public key file: type, blob that begins with the same type, comment (RFC 4253 §6.6)."""
    found = _KEY_LINE.fullmatch(text)
    if not found:
        reason = f"{shown(text)} is no line of an ssh public key file"
    elif not _is_key(found.group(1).encode(), found.group(2)):
        reason = f"the key in {shown(text)} is damaged, it is no {found.group(1)}"
    else:
        return
    raise MachinesError(
        reason,
        "copy one whole line of the builder's /etc/ssh/ssh_host_*_key.pub, not encoded, without a host name",
        machine=machine,
        key="public_host_key",
    )


def _is_key(kind: bytes, encoded: str) -> bool:
    """Whether this is a blob of length-prefixed strings, first C(kind); one that was cut off has a length beyond it."""
    try:
        blob = binascii.a2b_base64(encoded)
    except binascii.Error:
        return False
    at = 0
    while at + 4 <= len(blob):
        at += 4 + int.from_bytes(blob[at : at + 4], "big")
    return at == len(blob) and blob.startswith(len(kind).to_bytes(4, "big") + kind)
