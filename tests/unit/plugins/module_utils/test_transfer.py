# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies between played stores, and into a store of this machine's own Nix where there is one."""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import threading
import time
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import protocol, transfer
from ansible_collections.nixfleet.builders.plugins.module_utils.channel import ChannelClosed, ProcessChannel
from ansible_collections.nixfleet.builders.plugins.module_utils.protocol import PathInfo, RemoteError
from ansible_collections.nixfleet.builders.plugins.module_utils.store import Store
from ansible_collections.nixfleet.builders.plugins.module_utils.transfer import TransferError
from ansible_collections.nixfleet.builders.plugins.module_utils.wire import NUMBER, Reader, encode
from ansible_collections.nixfleet.builders.tests.support.played_store import PlayedStore, connected, nar, path_info
from hypothesis import given
from hypothesis import strategies as st


def store_path(name: str) -> str:
    letters = "0123456789abcdfghijklmnpqrsvwxyz"
    digest = hashlib.sha256(name.encode()).digest()
    return f"/nix/store/{''.join(letters[byte % 32] for byte in digest)}-{name}"


A, B, C, D = map(store_path, "abcd")


class CarefulStore(PlayedStore):
    """Takes only what has the right hash and its references, as a real store does; what came before a bad one stays.

    substitutes: what its substituters have.
    """

    def __init__(self) -> None:
        super().__init__()
        self.substitutes: dict[str, tuple[PathInfo, bytes]] = {}

    def take(self, frames: bytes) -> None:
        stream = io.BytesIO(frames)
        source = Reader(stream.read, protocol.NEWEST)
        for _each in range(NUMBER.read(source)):
            info = protocol.PATH_INFO.read(source)
            content = stream.read(info.nar_size)
            if hashlib.sha256(content).hexdigest() != info.nar_hash or len(content) != info.nar_size:
                raise RemoteError(0, f"hash mismatch of {info.path[44:]}")
            if not set(info.references) <= {*self.paths, info.path}:
                raise RemoteError(0, "a reference is not valid")
            self.paths[info.path] = (info, content)
        if stream.read():
            raise RemoteError(0, "the stream is too long")

    def answer(self, operation: protocol.Operation[t.Any, t.Any], request: t.Any, frames: bytes) -> object:
        if operation.name == "QueryMissing":
            fetched = tuple(path for path in request if path in self.substitutes)
            return protocol.Missing((), fetched, (), 0, 0)
        if operation.name == "QueryValidPaths" and request.substitute:
            self.paths.update({path: self.substitutes[path] for path in request.paths if path in self.substitutes})
        return super().answer(operation, request, frames)

    def asked(self, name: str) -> int:
        return sum(1 for each, _request in self.requests if each == name)


@contextlib.contextmanager
def opened(*served: PlayedStore) -> Iterator[list[Store]]:
    with contextlib.ExitStack() as stack:
        yield [Store(stack.enter_context(connected(each)), 10, 10) for each in served]


def diamond(store: PlayedStore) -> None:
    """A refers to B and C, these to D, and D to itself."""
    store.add(D, b"d" * 5000, references=(D,))
    store.add(C, b"c", references=(D,))
    store.add(B, b"b" * 100, references=(D, B))
    store.add(A, b"a", references=(B, C))


# ---------------------------------------------------------------------------------------------------- what is copied


def test_a_closure_is_copied_once_and_in_order() -> None:
    have, want = CarefulStore(), CarefulStore()
    diamond(have)
    arrived: list[str] = []
    with opened(have, want) as (source, destination):
        plan = transfer.plan_closure(source, destination, [A])
        assert [info.path for info in plan.order] == [D, C, B, A]
        assert plan.nar_bytes == sum(info.nar_size for info, _nar in have.paths.values())
        transfer.carry(source, destination, plan.order, on_arrived=arrived.extend)
        assert arrived == [D, C, B, A]
        assert want.paths == have.paths
        assert (want.asked("QueryValidPaths"), want.asked("AddMultipleToStore")) == (2, 1)
        assert (have.asked("QueryPathInfo"), have.asked("NarFromPath")) == (4, 4)
        assert set(have.roots) == set(want.roots) == {A, B, C, D}

        again = transfer.plan_closure(source, destination, [A])
        assert (again.order, again.present) == ((), {A})
        assert have.asked("QueryPathInfo") == 4


def test_only_what_is_missing_is_copied() -> None:
    have, want = CarefulStore(), CarefulStore()
    diamond(have)
    want.paths[D] = have.paths[D]
    with opened(have, want) as (source, destination):
        arrived: list[str] = []
        plan = transfer.copy(source, destination, [A, B, C, D], on_arrived=arrived.extend)
    assert [info.path for info in plan.order] == [C, B, A]
    assert plan.present == {D}
    assert sorted(arrived) == sorted([A, B, C, D])
    assert have.asked("QueryPathInfo") == 3


def test_infos_that_are_known_are_not_asked_for() -> None:
    have, want = CarefulStore(), CarefulStore()
    diamond(have)
    want.paths[D] = have.paths[D]
    infos = {path: info for path, (info, _nar) in have.paths.items()}
    with opened(have, want) as (source, destination):
        assert transfer.closure(source, [A], infos) == {A, B, C, D}
        transfer.copy(source, destination, [C], infos)
    assert C in want.paths
    assert have.requests == [("NarFromPath", C)]
    # What C refers to was asked for together with it.
    assert want.asked("QueryValidPaths") == 1
    assert D in want.roots


def test_references_that_are_nowhere() -> None:
    have, want = CarefulStore(), CarefulStore()
    diamond(have)
    with opened(have, want) as (source, destination):
        with pytest.raises(TransferError, match=f"it refers to {D}, .* copy the closure") as caught:
            transfer.copy(source, destination, [B])
        assert (caught.value.path, caught.value.at_source) == (B, False)
    assert not want.paths


def test_a_path_that_the_source_does_not_have() -> None:
    with opened(PlayedStore(), CarefulStore()) as (source, destination):
        with pytest.raises(TransferError, match=f"cannot copy {A} from played: it is not valid there"):
            transfer.closure(source, [A], {})
        with pytest.raises(TransferError, match="from played to played: it is not valid there") as caught:
            transfer.plan_closure(source, destination, [A])
        assert (caught.value.path, caught.value.at_source) == (A, True)


def test_substitution() -> None:
    have, want = CarefulStore(), CarefulStore()
    diamond(have)
    want.paths[D] = have.paths[D]
    want.substitutes = {C: have.paths[C]}
    with opened(have, want) as (source, destination):
        foreseen = transfer.foresee_substitution(destination, transfer.plan_closure(source, destination, [A]))
        assert C not in want.paths
        plan = transfer.plan_closure(source, destination, [A], substitute=True)
    assert plan == foreseen
    assert ([info.path for info in plan.order], plan.present, plan.substituted) == ([B, A], {D}, {C})


@pytest.mark.parametrize("check", [True, False])
def test_signatures_are_checked_as_asked(check: bool) -> None:
    have, want = PlayedStore(), CarefulStore()
    have.add(A, b"a")
    with opened(have, want) as (source, destination):
        transfer.copy(source, destination, [A], check_signatures=check)
    assert ("AddMultipleToStore", protocol.AddManyRequest(False, not check)) in want.requests


# ---------------------------------------------------------------------------------------------------- the order


@given(st.lists(st.tuples(st.integers(0, 9), st.sets(st.integers(0, 30))), max_size=31))
def test_references_come_first_and_small_paths_before_large_ones(nodes: list[tuple[int, set[int]]]) -> None:
    names = [f"{number:02}" for number in range(len(nodes))]
    infos = {}
    for number, (size, below) in enumerate(nodes):
        references = tuple(names[each] for each in below if each <= number)
        infos[names[number]] = path_info(names[number], b"", references=references)._replace(nar_size=size)
    order = transfer.sort_references_first(infos.values())
    assert sorted(info.path for info in order) == names
    done: set[str] = set()
    for position, info in enumerate(order):
        assert set(info.references) - {info.path} <= done
        for later in order[position + 1 :]:
            if set(later.references) - {later.path} <= done:
                assert info.nar_size <= later.nar_size
        done.add(info.path)


def test_a_circle_is_no_order() -> None:
    one, two = path_info(A, b"", references=(B,)), path_info(B, b"", references=(A,))
    with pytest.raises(ValueError, match="in a circle"):
        transfer.sort_references_first([one, two])


def test_batches_end_at_their_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "BATCH_BYTES", 10)
    monkeypatch.setattr(transfer, "BATCH_PATHS", 3)
    infos = [path_info(f"{size}", b"")._replace(nar_size=size) for size in (1, 2, 3, 4, 5, 1, 1, 30, 1)]
    batches = [[info.nar_size for info in batch] for batch in transfer._batches(infos)]
    assert batches == [[1, 2, 3], [4, 5, 1], [1], [30], [1]]


# ---------------------------------------------------------------------------------------------------- failures


class BreakingStore(PlayedStore):
    """Closes the connection, or falls silent, in the middle of the NAR of a path; or refuses it."""

    def __init__(self, path: str, how: str) -> None:
        super().__init__()
        self.path = path
        self.how = how
        self.go_on = threading.Event()

    def serve(self, source: Reader) -> Iterator[bytes]:
        for piece in super().serve(source):
            if self.requests and self.requests[-1] == ("NarFromPath", self.path):
                if self.how == "refuses":
                    yield encode(protocol.MESSAGE, RemoteError(0, f"'{self.path}' is gone"), self.version)
                    return
                yield piece[: len(piece) // 2]
                if piece is self.paths[self.path][1]:
                    if self.how == "silent":
                        self.go_on.wait(20)
                    return
                yield piece[len(piece) // 2 :]
            else:
                yield piece


@pytest.mark.parametrize(
    ("how", "reason"), [("closes", "closed the connection"), ("refuses", "is gone"), ("silent", "silent for 0.3 s")]
)
def test_the_source_fails_within_a_nar(how: str, reason: str) -> None:
    have, want = BreakingStore(B, how), CarefulStore()
    diamond(have)
    have.add(B, bytes(3 << 20), references=(D,))
    with contextlib.ExitStack() as stack:
        source = Store(stack.enter_context(connected(have)), 0.3, 0.3)
        destination = Store(stack.enter_context(connected(want)), 10, 10)
        with pytest.raises(TransferError, match=reason) as caught:
            transfer.copy(source, destination, [A, B, C, D])
        have.go_on.set()
        error = caught.value
        assert (error.path, error.at_source, error.source, error.destination) == (B, True, "played", "played")
        assert str(error).startswith(f"cannot copy {B} from played to played: ")
        assert source.broken
    # Nothing is half there, what came before is.
    assert sorted(want.paths) == sorted([C, D])


def test_an_unsigned_path_is_refused() -> None:
    have, want = PlayedStore(), CarefulStore()
    have.add(A, b"a")
    want.refuse["AddMultipleToStore"] = f"cannot add path '{A}' because it lacks a signature by a trusted key"
    with opened(have, want) as (source, destination):
        with pytest.raises(TransferError, match="lacks a signature by a key that the destination trusts") as caught:
            transfer.copy(source, destination, [A], check_signatures=True)
        error = caught.value
        assert (error.path, error.at_source) == (A, False)
        assert "store_sign" in str(error) and "trusted-public-keys" in str(error) and "trusted-users" in str(error)
        # Both go on.
        assert (source.broken, destination.broken) == (False, False)
        assert source.is_valid_path(A)
        assert not destination.is_valid_path(A)


def test_the_first_refusal_is_told_and_what_arrived_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "BATCH_PATHS", 1)
    have, want = PlayedStore(), CarefulStore()
    order = [have.add(path, b"x") for path in (A, B, C, D)]
    for damaged in (0, 2):
        order[damaged] = order[damaged]._replace(nar_hash="0" * 64)
    arrived: list[str] = []
    with opened(have, want) as (source, destination), pytest.raises(TransferError, match="hash mismatch of a"):
        transfer.carry(source, destination, order, on_arrived=arrived.extend)
    assert set(arrived) == want.paths.keys() <= {B, D}


def test_a_refusal_ends_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "BATCH_PATHS", 10)
    monkeypatch.setattr(transfer, "BUFFER", 1 << 20)
    have, want = PlayedStore(), CarefulStore()
    paths = [store_path(str(number)) for number in range(400)]
    for path in paths:
        have.add(path, bytes(100_000))
    want.refuse["AddMultipleToStore"] = "no space left on device"
    with opened(have, want) as (source, destination):
        with pytest.raises(TransferError, match="no space left on device") as caught:
            transfer.copy(source, destination, paths)
        assert caught.value.path is None
        assert not destination.broken
    assert want.asked("AddMultipleToStore") < 20


class SlowStore(PlayedStore):
    """Takes what is sent to it, and says nothing of it."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def take(self, frames: bytes) -> None:
        self.go_on.wait(20)


def test_a_destination_that_is_gone_keeps_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The source is silent just then: its connection is given up, as nobody knows when it will be ready again."""
    monkeypatch.setattr(transfer, "DRAIN_SECONDS", 0.2)
    have, want = BreakingStore(B, "silent"), SlowStore()
    have.add(A, bytes(3 << 20))
    have.add(B, bytes(4 << 20))
    with opened(have, want) as (source, destination):
        plan = transfer.plan(source, destination, [A, B])
        reader = transfer._SourceReader(source, plan.order)
        sending = transfer._Sending(destination, False, None, None)
        sending.send([plan.order[0]], reader)
        threading.Timer(0.2, destination.channel.abort).start()
        with pytest.raises(transfer._FaultError) as caught:
            sending.finish()
        assert (caught.value.path, type(caught.value.cause)) == (A, ChannelClosed)
        start = time.monotonic()
        reader.stop()
        assert time.monotonic() - start < 5
        assert source.broken and destination.broken
        have.go_on.set()
        want.go_on.set()


# ---------------------------------------------------------------------------------------------------- memory


class EndlessSource:
    """Has a NAR that is larger than any memory."""

    class Channel:
        name = "endless"

    channel = Channel()

    def __init__(self) -> None:
        self.read = 0
        self.closed = False

    def nars(self, infos: t.Iterator[PathInfo], verify: bool) -> Iterator[tuple[PathInfo, Iterator[bytes]]]:
        for info in infos:
            yield info, self.pieces(info.nar_size)

    def pieces(self, size: int) -> Iterator[bytes]:
        piece = bytes(1 << 20)
        while self.read < size:
            self.read += len(piece)
            yield piece

    def close(self) -> None:
        self.closed = True


def test_what_is_not_taken_is_not_read() -> None:
    source = EndlessSource()
    reader = transfer._SourceReader(t.cast("Store", source), [path_info(A, b"")._replace(nar_size=1 << 50)])
    taken = sum(len(piece) for piece in reader.take(64 << 20))
    assert taken == 64 << 20
    time.sleep(0.1)
    assert source.read <= taken + transfer.BUFFER + (2 << 20)
    reader.stop()
    assert source.closed


def test_little_that_is_still_to_come_is_read() -> None:
    have = PlayedStore()
    infos = [have.add(store_path(str(number)), bytes(100_000)) for number in range(200)]
    with opened(have) as (source,):
        reader = transfer._SourceReader(source, infos)
        assert sum(len(piece) for piece in reader.take(1000)) == 1000
        reader.stop()
        assert source.is_valid_path(infos[0].path)


# ---------------------------------------------------------------------------------------------------- a real one


@pytest.fixture
def real(tmp_path: Path) -> Iterator[t.Callable[[str], Store]]:
    if not shutil.which("nix-daemon"):
        pytest.skip("no Nix here")
    with contextlib.ExitStack() as stack:

        def open_real(name: str) -> Store:
            (tmp_path / name).mkdir(exist_ok=True)
            argv = ["nix-daemon", "--stdio", "--store", str(tmp_path / name)]
            store = Store(ProcessChannel(name, argv, 30), 30, 30)
            stack.callback(store.close)
            return store

        yield open_real


def test_into_a_real_store_and_out_of_it(real: t.Callable[[str], Store]) -> None:
    have, back = PlayedStore(), CarefulStore()
    diamond(have)
    for number in range(600):
        have.add(store_path(f"many-{number}"), b"%d" % number, references=(D,))
    with opened(have, back) as (source, again):
        first, second = real("first"), real("second")
        plan = transfer.copy(source, first, have.paths)
        assert len(plan.order) == 604
        transfer.carry(first, second, transfer.plan(first, second, have.paths).order)
        transfer.copy(second, again, have.paths)
    assert {path: content for path, (_info, content) in back.paths.items()} == {
        path: content for path, (_info, content) in have.paths.items()
    }


def test_a_real_store_keeps_no_half_path(real: t.Callable[[str], Store], tmp_path: Path) -> None:
    have = BreakingStore(B, "closes")
    have.add(A, b"a")
    have.add(B, bytes(2 << 20))
    destination = real("first")
    with opened(have) as (source,), pytest.raises(TransferError, match=f"cannot copy {B} from played"):
        transfer.copy(source, destination, [A, B])
    assert not destination.broken
    assert destination.valid_paths([A, B]) == {A}
    # And takes it from somebody else.
    whole = PlayedStore()
    whole.paths = have.paths
    with opened(whole) as (source,):
        transfer.copy(source, destination, [A, B])
    assert destination.valid_paths([A, B]) == {A, B}


def test_a_real_store_refuses_what_is_unsigned_or_damaged(real: t.Callable[[str], Store]) -> None:
    have = PlayedStore()
    have.add(A, b"a")
    have.add(B, b"b")
    have.paths[B] = (have.paths[B][0], nar(b"x"))
    destination = real("first")
    with opened(have) as (source,):
        with pytest.raises(TransferError, match="lacks a signature") as caught:
            transfer.copy(source, destination, [A], check_signatures=True)
        assert caught.value.path == A
        with pytest.raises(TransferError, match="hash mismatch") as caught:
            transfer.copy(source, destination, [B])
        assert caught.value.path == B
        assert not source.broken and not destination.broken
    assert destination.valid_paths([A, B]) == set()


def test_the_end_of_a_real_store_is_told(real: t.Callable[[str], Store]) -> None:
    have = PlayedStore()
    have.add(A, b"a")
    destination = real("first")
    destination.channel.abort()
    with opened(have) as (source,), pytest.raises(TransferError) as caught:
        transfer.copy(source, destination, [A])
    assert isinstance(caught.value.__cause__, ChannelClosed)
    assert not caught.value.at_source
