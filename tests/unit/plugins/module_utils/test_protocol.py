# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker protocol against sessions recorded with real Nix, and against rubbish."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import time
import tracemalloc
import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import protocol
from ansible_collections.nixfleet.builders.plugins.module_utils.channel import ChannelError
from ansible_collections.nixfleet.builders.plugins.module_utils.protocol import (
    BuildResult,
    BuildStatus,
    LogLine,
    Note,
    Phase,
    Progress,
    RemoteError,
    Result,
    Started,
    Stopped,
    VersionError,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.store import DamagedNar
from ansible_collections.nixfleet.builders.plugins.module_utils.wire import ProtocolError, Reader, Writer, encode
from ansible_collections.nixfleet.builders.tests.support import session
from ansible_collections.nixfleet.builders.tests.support.played_store import CannedChannel, nar
from hypothesis import given, settings
from hypothesis import strategies as st

SESSIONS = sorted((Path(__file__).resolve().parents[2] / "sessions").glob("*.session"))
recorded = pytest.mark.parametrize("path", SESSIONS, ids=lambda path: path.stem)

#: All that a server may make us raise.
REFUSALS = (ProtocolError, ChannelError, RemoteError, VersionError, DamagedNar)


def test_all_versions_are_recorded() -> None:
    assert [path.stem for path in SESSIONS] == ["nix-2.26.3", "nix-2.34.8", "nix-2.8.0"]


@recorded
def test_replayed(path: Path) -> None:
    """Our bytes are those of then, and all of Nix's are understood."""
    replay = session.Replay(session.load(path))
    found = session.play(replay)
    assert replay.finished
    nix = path.stem[len("nix-") :]
    old = nix == "2.8.0"
    assert found["handshake"] == ((1, 34) if old else (1, 38), nix, None if old else True)
    assert found["valid"] == (True, False, {session.SOURCE})
    assert found["substitute"] == {session.SOURCE}
    assert found["missing"] == ((session.DRV,), (), (session.ABSENT,), 0, 0)
    assert found["output map"] == {"out": session.OUT, "dev": session.DEV}
    names = {"out": session.OUT[len("/nix/store/") :], "dev": session.DEV[len("/nix/store/") :]}
    assert found["built"].status == BuildStatus.BUILT
    assert found["built"].success
    assert found["built"].outputs() == names
    # Since some version after 2.26 a store no longer says when it built one derivation.
    assert (found["built"].start_time > 0) == (nix != "2.34.8")
    activities = {event.activity for event in found["events"] if isinstance(event, Started) and event.kind == 105}
    said = [event for event in found["events"] if isinstance(event, (LogLine, Phase))]
    assert [event[1] for event in said] == ["line one", "buildPhase", "line two"]
    assert {event.activity for event in said} == activities
    assert any(isinstance(event, Progress) for event in found["events"])
    out, dev, source, absent = found["infos"]
    assert (out.path, out.deriver, out.nar_size, out.ultimate) == (session.OUT, session.DRV, 120, True)
    assert dev.references == (session.OUT,)
    assert (source.signatures, source.ultimate, source.deriver) == ((session.SIGNATURE,), False, None)
    assert absent is None
    assert found["failed"].status == BuildStatus.PERMANENT_FAILURE
    assert not found["failed"].success
    assert "exit code 3" in found["failed"].message
    assert "\x1b" in found["failed"].error
    assert "\x1b" not in found["failed"].message
    by_path = found["by path"]
    assert by_path[session.SOURCE].status == BuildStatus.ALREADY_VALID
    assert by_path[f"{session.DRV}!dev,out"].outputs() == names
    assert found["nars"] == {
        session.OUT: nar(b"hello\n"),
        session.DEV: nar(session.OUT.encode() + b"\n"),
        session.SOURCE: nar(b"a source\n"),
    }
    assert session.ABSENT in str(found["absent"])
    assert str(found["absent"]).startswith("EnsurePath: ")
    assert "hash mismatch" in found["damaged"].message
    assert "signature" in found["unsigned"].message
    assert found["at the end"] is True


@recorded
def test_the_servers_end_makes_the_same_bytes(path: Path) -> None:
    """Requests and replies are read by the other end's half of the descriptions, and come out of it as they were."""
    parts = session.load(path)
    theirs = io.BytesIO(b"".join(data for mark, data in parts if mark == "<"))
    ours = io.BytesIO(b"".join(data for mark, data in parts if mark == ">"))
    requests, replies = Reader(ours.read, protocol.NEWEST), Reader(theirs.read, protocol.NEWEST)
    seen = set()

    def again(codec: t.Any, source: Reader, stream: io.BytesIO) -> t.Any:
        start = stream.tell()
        value = codec.read(source)
        assert encode(codec, value, source.version) == stream.getvalue()[start : stream.tell()]
        return value

    assert again(protocol.CLIENT_HELLO, requests, ours).version == protocol.NEWEST
    version = protocol.agree(again(protocol.SERVER_HELLO, replies, theirs).version)
    requests.version = replies.version = version
    again(protocol.CLIENT_GREETING, requests, ours)
    again(protocol.SERVER_INFO, replies, theirs)
    assert again(protocol.MESSAGE, replies, theirs) == protocol.Last()
    sizes: dict[str, int] = {}
    while ours.tell() < len(ours.getvalue()):
        start = ours.tell()
        operation, request = protocol.read_request(requests)
        assert protocol.request_bytes(operation, request, version) == ours.getvalue()[start : ours.tell()]
        seen.add(operation.name)
        if operation.framed:
            while size := requests.word():
                ours.read(size)
        message = again(protocol.MESSAGE, replies, theirs)
        while not isinstance(message, (protocol.Last, RemoteError)):
            message = again(protocol.MESSAGE, replies, theirs)
        if isinstance(message, RemoteError):
            continue
        if operation.nar:
            theirs.read(sizes[request])
            continue
        reply = again(operation.reply, replies, theirs)
        if operation.name == "QueryPathInfo" and reply is not None:
            sizes[request] = reply.nar_size
    assert not theirs.read()
    # Its link would have to be on the server's host.
    seen.add("AddIndirectRoot")
    assert seen == {operation.name for operation in protocol.OPERATIONS.values()}


def test_operations_are_distinct() -> None:
    operations = [value for value in vars(protocol).values() if isinstance(value, protocol.Operation)]
    assert len(operations) == len(protocol.OPERATIONS) == len({operation.name for operation in operations})


@pytest.mark.parametrize(("theirs", "agreed"), [((1, minor), (1, min(minor, 38))) for minor in (34, 35, 37, 38, 60)])
def test_versions_that_we_speak(theirs: tuple[int, int], agreed: tuple[int, int]) -> None:
    assert protocol.agree(theirs) == agreed


@pytest.mark.parametrize(
    ("theirs", "texts"),
    [
        ((1, 33), ["1.33", "Nix 2.7", "1.34 (Nix 2.8)", "update"]),
        ((1, 32), ["1.32", "Nix 2.4"]),
        ((1, 21), ["1.21", "Nix 2.3"]),
        ((1, 10), ["1.10", "older than 2.3"]),
        ((0, 9), ["0.9", "older than 2.3"]),
        ((2, 0), ["2.0", "1.38"]),
    ],
)
def test_versions_that_we_do_not_speak(theirs: tuple[int, int], texts: list[str]) -> None:
    with pytest.raises(VersionError) as caught:
        protocol.agree(theirs)
    assert all(text in str(caught.value) for text in texts)


# ---------------------------------------------------------------------------------------------------- values

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.integers(0, 2**64 - 1)
results = st.builds(
    BuildResult,
    status=st.sampled_from(BuildStatus),
    error=texts,
    times_built=numbers,
    non_deterministic=st.booleans(),
    start_time=numbers,
    stop_time=numbers,
    cpu_user=st.none() | numbers,
    cpu_system=st.none() | numbers,
    built_outputs=st.dictionaries(texts, texts, max_size=3),
)
events = st.one_of(
    st.builds(Note, texts),
    st.builds(Started, numbers, numbers, numbers, texts, st.lists(texts | numbers, max_size=3).map(tuple), numbers),
    st.builds(Stopped, numbers),
    st.builds(Result, numbers, st.just(106), st.lists(texts | numbers, max_size=3).map(tuple)),
    # A kind that has a class, with fields that do not fit it.
    st.builds(Result, numbers, st.sampled_from([101, 104, 105]), st.just(("a", 1))),
    st.builds(LogLine, numbers, texts),
    st.builds(Phase, numbers, texts),
    st.builds(Progress, numbers, numbers, numbers, numbers, numbers),
)


def again(codec: t.Any, value: t.Any, version: tuple[int, int]) -> t.Any:
    stream = io.BytesIO(encode(codec, value, version))
    found = codec.read(Reader(stream.read, version))
    assert not stream.read()
    return found


@given(results, st.sampled_from([(1, 34), (1, 35), (1, 37), (1, 38)]))
def test_build_results_are_read_as_written(result: BuildResult, version: tuple[int, int]) -> None:
    expected = result if version >= (1, 37) else result._replace(cpu_user=None, cpu_system=None)
    assert again(protocol.BUILD_RESULT, result, version) == expected


@given(events)
def test_events_are_read_as_written(event: protocol.Event) -> None:
    found = again(protocol.MESSAGE, event, protocol.NEWEST)
    assert (type(found), found) == (type(event), event)


def test_an_output_that_is_none() -> None:
    result = BuildResult(BuildStatus.BUILT, "", 1, False, 0, 0, None, None, {"sha256:1!out": "{}"})
    with pytest.raises(ProtocolError, match="is no output"):
        result.outputs()


def test_a_status_that_is_none() -> None:
    out = Writer(protocol.NEWEST)
    out.data += (99).to_bytes(8, "little")
    with pytest.raises(ProtocolError, match=r"99 is no status of a build \(status, byte 0"):
        protocol.BUILD_RESULT.read(Reader(io.BytesIO(bytes(out.data)).read, protocol.NEWEST))


# ---------------------------------------------------------------------------------------------------- rubbish


def sent_by(path: Path) -> bytes:
    return b"".join(data for mark, data in session.load(path) if mark == "<")


NEW = sent_by(SESSIONS[1])


def try_it(data: bytes, piece: int = 1 << 16) -> Exception:
    """What playing the session with a server that says this raises."""
    start = time.monotonic()
    try:
        session.play(CannedChannel(data, piece))
    except REFUSALS as error:
        assert str(error)
        return error
    finally:
        assert time.monotonic() - start < 2
    raise AssertionError("nothing was wrong with it")


def test_in_the_smallest_pieces() -> None:
    assert session.play(CannedChannel(NEW, piece=1))["at the end"] is True


@pytest.mark.parametrize("path", SESSIONS, ids=lambda path: path.stem)
def test_cut_off(path: Path) -> None:
    data = sent_by(path)
    for size in [*range(0, 150), *range(150, len(data), 131)]:
        assert isinstance(try_it(data[:size]), (ChannelError, DamagedNar)), size


def test_absurd_numbers() -> None:
    """Each word of a session in turn: no hang, and no memory for what was only announced."""
    tracemalloc.start()
    absurds = itertools.cycle([2**64 - 1, 2**63, 2**32, (1 << 20) - 1, (16 << 20) - 8])
    for offset in range(0, len(NEW) // 8 * 8, 8 * 41):
        for absurd in itertools.islice(absurds, 2):
            with_it = NEW[:offset] + absurd.to_bytes(8, "little") + NEW[offset + 8 :]
            # A number that only means itself may be any.
            with contextlib.suppress(*REFUSALS):
                session.play(CannedChannel(with_it))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@settings(max_examples=150)
@given(st.binary(max_size=400))
def test_random_bytes(data: bytes) -> None:
    assert isinstance(try_it(data), (ProtocolError, ChannelError))


@settings(max_examples=150)
@given(st.data())
def test_damaged_bytes(data: st.DataObject) -> None:
    damaged = bytearray(NEW)
    for _each in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(NEW) - 1))
        damaged[start : start + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    with contextlib.suppress(*REFUSALS):
        session.play(CannedChannel(bytes(damaged)))


def test_the_message_of_a_protocol_error() -> None:
    broken = dataclasses.make_dataclass("Hello", ["version"])((1, 38))
    data = encode(protocol.SERVER_HELLO, broken, protocol.NEWEST) + bytes(8) + (1 << 40).to_bytes(8, "little")
    error = try_it(data)
    assert isinstance(error, ProtocolError)
    assert str(error) == (
        f"{1 << 40} bytes of text, more than the {16 << 20} that are taken "
        "(nix_version of the handshake, byte 24 of what the store sent)"
    )
