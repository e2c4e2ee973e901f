# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The bytes of Nix's protocols: numbers, texts, lists and records, each described once for writing and for reading.

Pure: a Reader pulls from a function, a Writer fills a buffer. The layout is serialise.cc's, the same from 2.8 to 2.34:
every number is 8 bytes, little-endian; a text is its length, its bytes, and zeros up to a multiple of 8.

Texts are str; a byte that is no UTF-8 stands in them as its surrogate escape.
"""

from __future__ import annotations

import typing as t

#: The version of a protocol, major and minor, as both ends agreed on it.
Version = tuple[int, int]

WORD = 8
#: The longest text that is read, in bytes: an environment variable of a derivation.
MAX_TEXT = 16 << 20
#: What is kept of a text out of a build, in bytes, and how long it may be: Nix has no limit for a line of a log.
KEPT_LOG = 256 << 10
MAX_LOG = 1 << 30
#: The longest path, in bytes. Nix allows 211 for a name in the store; the store's directory comes before it.
MAX_PATH = 4096
#: The most items in one list.
MAX_ITEMS = 1 << 20
#: The longest message or reply in bytes, without what is skipped: some 300,000 paths.
MAX_VALUE = 32 << 20

_T = t.TypeVar("_T")
_K = t.TypeVar("_K")
_V = t.TypeVar("_V")


class ProtocolError(Exception):
    """The other end sent what the protocol does not allow. Its connection is of no more use.

    reason: what is wrong. offset: of the byte in what was read from that end. fields: where, the outermost first.
    operation: what was being read, filled in by who knows it.
    """

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(reason, offset)
        self.reason = reason
        self.offset = offset
        self.fields: list[str] = []
        self.operation = ""

    def __str__(self) -> str:
        place = ".".join(self.fields)
        where = " of ".join(part for part in (place, self.operation) if part)
        return f"{self.reason} ({where + ', ' if where else ''}byte {self.offset} of what the store sent)"


class Writer:
    """Collects bytes. version: decides about fields that not every version has."""

    __slots__ = ("data", "version")

    def __init__(self, version: Version) -> None:
        self.data = bytearray()
        self.version = version


class Reader:
    """Pulls from C(read(n)), which returns exactly n bytes or raises. offset: bytes read until now.

    end: the offset up to which texts and lists may begin, so that many small ones cannot fill the memory either.
    """

    __slots__ = ("end", "offset", "read", "version")

    def __init__(self, read: t.Callable[[int], bytes], version: Version) -> None:
        self.read = read
        self.version = version
        self.offset = 0
        self.end = MAX_VALUE

    def begin(self) -> None:
        """A new message or reply."""
        self.end = self.offset + MAX_VALUE

    def word(self) -> int:
        """The next number."""
        data = self.read(WORD)
        self.offset += WORD
        return int.from_bytes(data, "little")

    def length(self, limit: int, what: str) -> int:
        """The next number, which must not be above a limit."""
        number = int.from_bytes(self.read(WORD), "little")
        self.offset += WORD
        if number > limit:
            raise ProtocolError(f"{number} {what}, more than the {limit} that are taken", self.offset - WORD)
        if self.offset > self.end:
            raise ProtocolError(f"an answer of more than {MAX_VALUE} bytes", self.offset - WORD)
        return number

    def blob(self, limit: int, keep: int | None = None) -> bytes:
        """The next text as bytes; C(keep): of a longer one only the beginning."""
        size = self.length(limit, "bytes of text")
        padded = size + 7 & ~7
        if keep is not None and size > keep:
            return self._beginning(padded, keep)
        data = self.read(padded)
        self.offset += padded
        if padded != size and any(data[size:]):
            raise ProtocolError("the filling after a text is not zero", self.offset - (padded - size))
        return data[:size]

    def _beginning(self, size: int, keep: int) -> bytes:
        data = self.read(keep)
        self.offset += size
        self.end += size
        size -= keep
        while size:
            size -= len(self.read(min(size, keep)))
        return data


class Codec(t.Generic[_T]):
    """How one kind of value is written and read."""

    def write(self, out: Writer, value: _T) -> None:
        raise NotImplementedError

    def read(self, source: Reader) -> _T:
        """The value. Raises ProtocolError, and what the reader's function raises."""
        raise NotImplementedError


class _Number(Codec[int]):
    def write(self, out: Writer, value: int) -> None:
        out.data += value.to_bytes(WORD, "little")

    def read(self, source: Reader) -> int:
        return source.word()


class _Bool(Codec[bool]):
    def write(self, out: Writer, value: bool) -> None:
        out.data += int(value).to_bytes(WORD, "little")

    def read(self, source: Reader) -> bool:
        number = source.word()
        if number > 1:
            raise ProtocolError(f"{number} is neither 0 nor 1", source.offset - WORD)
        return number == 1


class _Nothing(Codec[None]):
    def write(self, out: Writer, value: None) -> None:
        pass

    def read(self, source: Reader) -> None:
        return None


class Constant(Codec[None]):
    """A number that is always the same: 1 for "done", fields that lost their meaning."""

    def __init__(self, number: int) -> None:
        self.number = number

    def write(self, out: Writer, value: None) -> None:
        out.data += self.number.to_bytes(WORD, "little")

    def read(self, source: Reader) -> None:
        number = source.word()
        if number != self.number:
            raise ProtocolError(f"{number:#x} instead of {self.number:#x}", source.offset - WORD)


class Text(Codec[str]):
    """A text of at most C(limit) bytes. C(keep): where it is longer, its beginning is read and the rest skipped."""

    def __init__(self, limit: int = MAX_TEXT, keep: int | None = None) -> None:
        self._limit = limit
        self._keep = keep

    def write(self, out: Writer, value: str) -> None:
        data = value.encode("utf-8", "surrogateescape")
        size = len(data)
        out.data += size.to_bytes(WORD, "little")
        out.data += data
        out.data += bytes(-size % WORD)

    def read(self, source: Reader) -> str:
        return source.blob(self._limit, self._keep).decode("utf-8", "surrogateescape")


class Label(Codec[None]):
    """A text that has no meaning (any more): one is written, any is read."""

    def __init__(self, text: str) -> None:
        self._text = text

    def write(self, out: Writer, value: None) -> None:
        TEXT.write(out, self._text)

    def read(self, source: Reader) -> None:
        TEXT.read(source)


class OptionalText(Codec[t.Optional[str]]):
    """A text that is empty for "none"."""

    def __init__(self, text: Codec[str]) -> None:
        self._text = text

    def write(self, out: Writer, value: str | None) -> None:
        self._text.write(out, value or "")

    def read(self, source: Reader) -> str | None:
        return self._text.read(source) or None


class Maybe(Codec[t.Optional[_T]]):
    """1 and a value, or 0 for "none"."""

    def __init__(self, item: Codec[_T]) -> None:
        self._item = item

    def write(self, out: Writer, value: _T | None) -> None:
        BOOL.write(out, value is not None)
        if value is not None:
            self._item.write(out, value)

    def read(self, source: Reader) -> _T | None:
        return self._item.read(source) if BOOL.read(source) else None


class ListOf(Codec[tuple[_T, ...]]):
    """A count and as many items. Sets are lists that their writer sorts."""

    def __init__(self, item: Codec[_T], limit: int = MAX_ITEMS) -> None:
        self._item = item
        self._limit = limit

    def write(self, out: Writer, value: t.Sequence[_T]) -> None:
        out.data += len(value).to_bytes(WORD, "little")
        for item in value:
            self._item.write(out, item)

    def read(self, source: Reader) -> tuple[_T, ...]:
        read = self._item.read
        return tuple([read(source) for _each in range(source.length(self._limit, "items"))])


class MapOf(Codec[t.Mapping[_K, _V]]):
    """A count and as many keys with their values, in the order of the mapping."""

    def __init__(self, key: Codec[_K], value: Codec[_V]) -> None:
        self._key = key
        self._value = value

    def write(self, out: Writer, value: t.Mapping[_K, _V]) -> None:
        out.data += len(value).to_bytes(WORD, "little")
        for name, item in value.items():
            self._key.write(out, name)
            self._value.write(out, item)

    def read(self, source: Reader) -> dict[_K, _V]:
        key, value = self._key.read, self._value.read
        return {key(source): value(source) for _each in range(source.length(MAX_ITEMS, "items"))}


class Since(Codec[_T]):
    """A value that only a protocol of this version and newer has; before it is C(default)."""

    def __init__(self, version: Version, item: Codec[_T], default: _T) -> None:
        self._version = version
        self._item = item
        self._default = default

    def write(self, out: Writer, value: _T) -> None:
        if out.version >= self._version:
            self._item.write(out, value)

    def read(self, source: Reader) -> _T:
        return self._item.read(source) if source.version >= self._version else self._default


class Record(Codec[_T]):
    """Fields in their order. Each is (name, how it is written); the values are attributes of a C(make(**fields)).

    A name that begins with "_" is no attribute: a Constant or a Label.
    """

    def __init__(self, make: t.Callable[..., _T], *fields: tuple[str, Codec[t.Any]]) -> None:
        self._make = make
        self._fields = fields

    def write(self, out: Writer, value: _T) -> None:
        for name, codec in self._fields:
            codec.write(out, None if name[0] == "_" else getattr(value, name))

    def read(self, source: Reader) -> _T:
        values: dict[str, t.Any] = {}
        for name, codec in self._fields:
            try:
                values[name] = codec.read(source)
            except ProtocolError as error:
                error.fields.insert(0, name.lstrip("_"))
                raise
            if name[0] == "_":
                del values[name]
        return self._make(**values)


NUMBER: Codec[int] = _Number()
BOOL: Codec[bool] = _Bool()
NOTHING: Codec[None] = _Nothing()
TEXT: Codec[str] = Text()
LOG: Codec[str] = Text(MAX_LOG, KEPT_LOG)
PATH: Codec[str] = Text(MAX_PATH)
PATHS: Codec[tuple[str, ...]] = ListOf(PATH)
OPTIONAL_PATH: Codec[str | None] = OptionalText(PATH)


def encode(codec: Codec[_T], value: _T, version: Version) -> bytes:
    """The bytes of one value."""
    out = Writer(version)
    codec.write(out, value)
    return bytes(out.data)
