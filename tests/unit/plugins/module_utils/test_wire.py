# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bytes on the wire: their layout, what is refused, and what is not read into memory."""

from __future__ import annotations

import io
import tracemalloc
import typing as t

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import wire
from ansible_collections.nixfleet.builders.plugins.module_utils.wire import Codec, ProtocolError, Reader, encode
from hypothesis import given
from hypothesis import strategies as st

VERSION = (1, 38)
#: The text "0" after its length.
ZERO = b"0" + bytes(7)


def decode(codec: Codec[t.Any], data: bytes, version: wire.Version = VERSION) -> t.Any:
    stream = io.BytesIO(data)
    value = codec.read(Reader(stream.read, version))
    assert not stream.read(), "not all was read"
    return value


def word(number: int) -> bytes:
    return number.to_bytes(8, "little")


@pytest.mark.parametrize(
    ("codec", "value", "data"),
    [
        (wire.NUMBER, 0x0102, b"\x02\x01" + bytes(6)),
        (wire.BOOL, True, word(1)),
        (wire.TEXT, "", word(0)),
        (wire.TEXT, "12345678", word(8) + b"12345678"),
        (wire.TEXT, "é\udcff", word(3) + b"\xc3\xa9\xff" + bytes(5)),
        (wire.OPTIONAL_PATH, None, word(0)),
        (wire.Maybe(wire.NUMBER), None, word(0)),
        (wire.Maybe(wire.NUMBER), 7, word(1) + word(7)),
        (wire.PATHS, ("a", "b"), word(2) + word(1) + b"a" + bytes(7) + word(1) + b"b" + bytes(7)),
        (wire.MapOf(wire.TEXT, wire.NUMBER), {"": 2, "0": 1}, word(2) + word(0) + word(2) + word(1) + ZERO + word(1)),
    ],
)
def test_layout(codec: Codec[t.Any], value: object, data: bytes) -> None:
    assert encode(codec, value, VERSION) == data
    assert decode(codec, data) == value


@given(st.recursive(st.text() | st.integers(0, 2**64 - 1), lambda inner: st.lists(inner, max_size=4)))
def test_read_as_written(value: t.Any) -> None:
    def codec_of(part: t.Any) -> Codec[t.Any]:
        if isinstance(part, list):
            # Lists of unlike items do not exist in the protocol: a record of them stands in.
            fields = [(f"f{number}", codec_of(item)) for number, item in enumerate(part)]
            return wire.Record(lambda **values: list(values.values()), *fields)
        return wire.NUMBER if isinstance(part, int) else wire.TEXT

    def bag(part: t.Any) -> t.Any:
        if not isinstance(part, list):
            return part
        return type("Bag", (), {f"f{number}": bag(item) for number, item in enumerate(part)})()

    assert decode(codec_of(value), encode(codec_of(value), bag(value), VERSION)) == value


def test_since() -> None:
    codec = wire.Since((1, 35), wire.NUMBER, 9)
    assert encode(codec, 3, (1, 34)) == b""
    assert decode(codec, b"", (1, 34)) == 9
    assert decode(codec, encode(codec, 3, (1, 35)), (1, 35)) == 3


@pytest.mark.parametrize(
    ("codec", "data", "reason", "offset"),
    [
        (wire.BOOL, word(2), "2 is neither 0 nor 1", 0),
        (wire.TEXT, word(1) + b"ab" + bytes(6), "the filling after a text is not zero", 9),
        (wire.TEXT, word(1 << 63), f"{1 << 63} bytes of text, more than the {16 << 20} that are taken", 0),
        (wire.PATHS, word(1) + word(5000), "5000 bytes of text, more than the 4096 that are taken", 8),
        (wire.PATHS, word(1 << 40), f"{1 << 40} items, more than the {1 << 20} that are taken", 0),
        (wire.Constant(1), word(0), "0x0 instead of 0x1", 0),
    ],
)
def test_refused(codec: Codec[t.Any], data: bytes, reason: str, offset: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(codec, data)
    assert (caught.value.reason, caught.value.offset) == (reason, offset)


def test_an_error_says_where() -> None:
    inner = wire.Record(dict, ("flag", wire.BOOL))
    outer = wire.Record(dict, ("name", wire.TEXT), ("inner", inner))
    with pytest.raises(ProtocolError) as caught:
        decode(outer, word(0) + word(5))
    caught.value.operation = "Example"
    assert str(caught.value) == "5 is neither 0 nor 1 (inner.flag of Example, byte 8 of what the store sent)"


def test_a_long_line_of_a_log_is_cut() -> None:
    size = wire.KEPT_LOG * 40 + 3
    stream = io.BytesIO(word(size) + b"x" * size + bytes(-size % 8) + word(77))
    source = Reader(stream.read, VERSION)
    tracemalloc.start()
    text = wire.LOG.read(source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert text == "x" * wire.KEPT_LOG
    assert peak < 4 * wire.KEPT_LOG
    assert wire.NUMBER.read(source) == 77
    assert source.offset == stream.tell()


def test_a_long_answer_of_short_texts() -> None:
    pieces = iter([word(1 << 20)])
    source = Reader(lambda size: next(pieces, word(4096) if size == 8 else bytes(size)), VERSION)
    with pytest.raises(ProtocolError, match=f"more than {32 << 20} bytes"):
        wire.PATHS.read(source)
    source.begin()
    assert len(wire.PATH.read(source)) == 4096
