# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Moves store paths from one store to another, streamed through us.

    infos: Infos = {}
    copied = copy(source, destination, closure(source, paths, infos), infos)

Where many threads fill one store, presence.py sees to it that each path travels once.
"""

from __future__ import annotations

import collections
import contextlib
import heapq
import re
import threading
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils import protocol
from ansible_collections.nixfleet.builders.plugins.module_utils.channel import Buffer, ChannelError
from ansible_collections.nixfleet.builders.plugins.module_utils.protocol import PathInfo, RemoteError
from ansible_collections.nixfleet.builders.plugins.module_utils.store import (
    DamagedNar,
    OnEvent,
    Pending,
    Store,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.wire import ProtocolError

#: Bytes that wait between the thread that reads and the one that writes.
BUFFER = 8 << 20
#: What is handed from one to the other at once, about.
CHUNK = 1 << 20
#: One AddMultipleToStore holds at most this many bytes and paths (or one path): its paths are known to have arrived
#: when it ends, and it is only then that the destination says what it refuses (daemon.cc, FramedSource).
BATCH_BYTES = 32 << 20
BATCH_PATHS = 500
#: Bytes of NARs already asked for that are read and thrown away, where the destination fails, to keep the source.
DRAIN = 32 << 20
#: Seconds that this may take.
DRAIN_SECONDS = 5.0

#: What one store knows of its paths. Not to be used with another store: two builders that built the same path may
#: have made different files.
Infos = dict[str, PathInfo]
#: Is told which paths have become, or were found to be, valid at the destination.
OnArrived = t.Callable[[t.Collection[str]], None]

#: What a store raises.
STORE_ERRORS = (ChannelError, ProtocolError, RemoteError, DamagedNar)

#: LocalStore::addToStore (local-store.cc): the first up to 2.8, the other since.
_UNSIGNED = ("lacks a valid signature", "lacks a signature by a trusted key")
_QUOTED = re.compile(r"'(/[^'\s]+)'")


class TransferError(Exception):
    """A path could not be moved. Nothing is half there: what arrived before it stays, what refers to it did not go.

    path: the one at fault, None where that is not known. source, destination: names of the stores, the latter "" where
    only a closure was asked for. reason: why. at_source: whether it is the source that failed. unsigned: whether the
    destination refused it for want of a signature that it trusts.
    """

    unsigned = False

    def __init__(self, path: str | None, source: str, destination: str, reason: str, at_source: bool) -> None:
        where = f"from {source} to {destination}" if destination else f"from {source}"
        super().__init__(f"cannot copy {path or 'paths'} {where}: {reason}")
        self.path = path
        self.source = source
        self.destination = destination
        self.reason = reason
        self.at_source = at_source


class Plan(t.NamedTuple):
    """What a copy has to move, references first; which of the paths are there, and which were fetched there for it."""

    order: tuple[PathInfo, ...]
    present: frozenset[str]
    substituted: frozenset[str]

    @property
    def nar_bytes(self) -> int:
        return sum(info.nar_size for info in self.order)


# ---------------------------------------------------------------------------------------------------- what to move


def closure(store: Store, paths: t.Iterable[str], infos: Infos, destination: str = "") -> set[str]:
    """The paths and all that they refer to. C(destination): for messages.

    Infos that are not known are asked for, one round trip for each level, and added; from then on the store protects
    these paths from its garbage collector for as long as the connection lasts. Raises TransferError for a path that
    is not valid, and what the store raises.
    """
    found: set[str] = set()
    level = set(paths)
    while level:
        _learn(store, level, infos, destination)
        found |= level
        level = {reference for path in level for reference in infos[path].references} - found
    return found


def plan(
    source: Store,
    destination: Store,
    paths: t.Iterable[str],
    infos: Infos | None = None,
    *,
    substitute: bool = False,
) -> Plan:
    """What copy() would move. C(substitute) has the destination fetch what its own substituters have.

    Both stores protect the paths from their garbage collectors for as long as the connections last. Raises
    TransferError.
    """
    infos = {} if infos is None else infos
    wanted = set(paths)
    known = {reference for path in wanted & infos.keys() for reference in infos[path].references}
    asked = wanted | known
    with _blaming(source, destination, at_source=False):
        present, substituted = _find(destination, asked, substitute)
    missing = wanted - present - substituted
    with _blaming(source, destination, at_source=True):
        _learn(source, missing, infos, destination.channel.name)
    needed = {reference for path in missing for reference in infos[path].references} - missing
    with _blaming(source, destination, at_source=False):
        valid = present.union(substituted, *_find(destination, needed - asked, substitute))
    for path in sorted(missing):
        lacking = sorted(set(infos[path].references) - missing - valid)
        if lacking:
            reason = f"it refers to {lacking[0]}, which is not there and not among the paths to copy; copy the closure"
            raise TransferError(path, source.channel.name, destination.channel.name, reason, at_source=False)
    try:
        order = sort_references_first([infos[path] for path in missing])
    except ValueError as error:
        raise TransferError(None, source.channel.name, destination.channel.name, str(error), at_source=True) from error
    return Plan(tuple(order), frozenset(wanted & present), frozenset(wanted & substituted))


def plan_closure(source: Store, destination: Store, paths: t.Iterable[str], *, substitute: bool = False) -> Plan:
    """As plan(), for the paths with all that they refer to. What is there has all of that, and is not looked into."""
    wanted = set(paths)
    with _blaming(source, destination, at_source=False):
        present, substituted = _find(destination, wanted, substitute)
    infos: Infos = {}
    with _blaming(source, destination, at_source=True):
        rest = closure(source, wanted - present - substituted, infos, destination.channel.name)
    planned = plan(source, destination, rest, infos, substitute=substitute)
    return Plan(planned.order, planned.present | present, planned.substituted | substituted)


def foresee_substitution(destination: Store, planned: Plan) -> Plan:
    """What a plan made without C(substitute) would be with it. Fetches nothing. Raises what the store raises."""
    fetched = set(destination.missing(info.path for info in planned.order).will_substitute) if planned.order else set()
    return Plan(
        tuple(info for info in planned.order if info.path not in fetched),
        planned.present,
        frozenset(info.path for info in planned.order if info.path in fetched),
    )


def sort_references_first(infos: t.Iterable[PathInfo]) -> list[PathInfo]:
    """Each path after those it refers to; of those that may be next the smallest, so that it does not wait for long.

    Raises ValueError where paths refer to each other in a circle, which no store allows.
    """
    by_path = {info.path: info for info in infos}
    users: dict[str, list[str]] = collections.defaultdict(list)
    lacking: dict[str, int] = {}
    for path, info in by_path.items():
        references = (set(info.references) & by_path.keys()) - {path}
        lacking[path] = len(references)
        for reference in references:
            users[reference].append(path)
    ready = [(by_path[path].nar_size, path) for path, count in lacking.items() if not count]
    heapq.heapify(ready)
    order: list[PathInfo] = []
    while ready:
        _size, path = heapq.heappop(ready)
        order.append(by_path[path])
        for user in users[path]:
            lacking[user] -= 1
            if not lacking[user]:
                heapq.heappush(ready, (by_path[user].nar_size, user))
    if len(order) != len(by_path):
        circle = sorted(by_path.keys() - {info.path for info in order})
        raise ValueError(f"these refer to each other in a circle, or to such paths: {', '.join(circle[:5])}")
    return order


def _learn(store: Store, paths: t.Iterable[str], infos: Infos, destination: str) -> None:
    """Asks for the infos that are not known, and protects those paths."""
    unknown = sorted(set(paths) - infos.keys())
    queued = []
    for path in unknown:
        store.queue(protocol.ADD_TEMP_ROOT, path)
        queued.append(store.queue(protocol.QUERY_PATH_INFO, path))
    for path, pending in zip(unknown, queued):
        info = pending.result()
        if info is None:
            raise TransferError(path, store.channel.name, destination, "it is not valid there", at_source=True)
        infos[path] = info


def _find(store: Store, paths: set[str], substitute: bool) -> tuple[set[str], set[str]]:
    """Those that are valid, and those that the store had to fetch for it. First all are protected: none is gone when
    the answer is here.
    """
    if not paths:
        return set(), set()
    for path in sorted(paths):
        store.queue(protocol.ADD_TEMP_ROOT, path)
    asked = [
        store.queue(protocol.QUERY_VALID_PATHS, protocol.ValidPathsRequest(tuple(sorted(paths)), fetch))
        for fetch in ((False, True) if substitute else (False,))
    ]
    present, *fetched = (set(pending.result()) for pending in asked)
    return present, set().union(*fetched) - present


# ---------------------------------------------------------------------------------------------------- moving it


def copy(
    source: Store,
    destination: Store,
    paths: t.Iterable[str],
    infos: Infos | None = None,
    *,
    check_signatures: bool = False,
    substitute: bool = False,
    on_arrived: OnArrived | None = None,
    on_event: OnEvent | None = None,
) -> Plan:
    """Makes the paths valid at the destination; what they refer to must be among them, or be there.

    Asks the destination once what it has, the source once for infos that are not in C(infos), and sends the rest,
    small paths first as far as their references allow; see plan() and carry() for the options. What was planned is
    what was done. Raises TransferError.
    """
    planned = plan(source, destination, paths, infos, substitute=substitute)
    if on_arrived:
        on_arrived(planned.present | planned.substituted)
    carry(
        source,
        destination,
        planned.order,
        check_signatures=check_signatures,
        on_arrived=on_arrived,
        on_event=on_event,
    )
    return planned


def carry(
    source: Store,
    destination: Store,
    order: t.Sequence[PathInfo],
    *,
    check_signatures: bool = False,
    on_arrived: OnArrived | None = None,
    on_event: OnEvent | None = None,
) -> None:
    """Sends paths in the order of a Plan. The destination takes a path whole or not at all, and checks its hash.

    C(check_signatures=False) only helps where the destination trusts us. C(on_arrived) is told of them in batches,
    C(on_event) gets the destination's events; both are called in this thread.

    Both stores are in use until it returns; a thread of its own reads the source. Raises TransferError, whose cause is
    what the store raised; C(broken) of each store then tells whether its connection can be used further.
    """
    if not order:
        return
    reader = _SourceReader(source, order)
    sending = _Sending(destination, check_signatures, on_arrived, on_event)
    try:
        with _blaming(source, destination, at_source=False):
            try:
                for batch in _batches(order):
                    sending.send(batch, reader)
            except Exception:
                with contextlib.suppress(_FaultError):
                    sending.finish()
                raise
            sending.finish()
    finally:
        reader.stop()


class _FaultError(Exception):
    """What a store raised, and on which path, as far as that is known."""

    def __init__(self, path: str | None, cause: Exception, at_source: bool) -> None:
        super().__init__(path, cause, at_source)
        self.path = path
        self.cause = cause
        self.at_source = at_source


@contextlib.contextmanager
def _blaming(source: Store, destination: Store, at_source: bool) -> t.Iterator[None]:
    """Turns what a store raises into a TransferError; C(at_source): which store that is, where no _FaultError says."""
    try:
        yield
    except (*STORE_ERRORS, _FaultError) as error:
        fault = error if isinstance(error, _FaultError) else _FaultError(None, error, at_source)
        path, reason = _explained(fault.cause)
        failure = TransferError(
            path or fault.path, source.channel.name, destination.channel.name, reason, fault.at_source
        )
        failure.unsigned = not fault.at_source and _is_unsigned(fault.cause)
        raise failure from fault.cause


def _is_unsigned(error: Exception) -> bool:
    return isinstance(error, RemoteError) and any(text in error.message for text in _UNSIGNED)


def _explained(error: Exception) -> tuple[str | None, str]:
    """The path that a store complains of, if it names one, and why; with what mends it."""
    if not isinstance(error, RemoteError):
        return None, str(error)
    quoted = _QUOTED.search(error.message)
    path = quoted.group(1) if quoted else None
    if not _is_unsigned(error):
        return path, str(error)
    return path, (
        "it lacks a signature by a key that the destination trusts. Sign it where it is "
        "(module nixfleet.builders.store_sign) and have that key in trusted-public-keys of the destination, or let the "
        "destination trust the account that copies (trusted-users) and do not have signatures checked"
    )


def _batches(order: t.Sequence[PathInfo]) -> t.Iterator[list[PathInfo]]:
    """The paths in their order, in groups for one AddMultipleToStore each."""
    batch: list[PathInfo] = []
    size = 0
    for info in order:
        if batch and (size + info.nar_size > BATCH_BYTES or len(batch) == BATCH_PATHS):
            yield batch
            batch, size = [], 0
        batch.append(info)
        size += info.nar_size
    yield batch


class _Sending:
    """The destination's side: batches go out one behind the other, their replies are read as they come.

    Its methods raise _FaultError, also the source's.
    """

    def __init__(
        self, store: Store, check_signatures: bool, on_arrived: OnArrived | None, on_event: OnEvent | None
    ) -> None:
        self._store = store
        self._check_signatures = check_signatures
        self._on_arrived = on_arrived
        self._on_event = on_event
        self._under_way: collections.deque[tuple[Pending[None], list[PathInfo]]] = collections.deque()
        self._sent: str | None = None

    def send(self, batch: list[PathInfo], reader: _SourceReader) -> None:
        """Sends a batch."""
        items = self._items(batch, reader)
        try:
            pending = self._store.queue_add_many(len(batch), items, self._check_signatures, self._on_event)
        except STORE_ERRORS as error:
            raise _FaultError(self._sent, error, at_source=False) from error
        self._under_way.append((pending, batch))

    def finish(self) -> None:
        """Waits for all replies, also behind one that is a refusal; raises the first."""
        first: Exception | None = None
        while self._under_way:
            try:
                self._next()
            except _FaultError as error:
                first = first or error
        if first:
            raise first

    def _items(self, batch: list[PathInfo], reader: _SourceReader) -> t.Iterator[tuple[PathInfo, t.Iterator[Buffer]]]:
        for info in batch:
            # A refusal of an earlier batch ends this one.
            while self._under_way and self._under_way[0][0].done:
                self._next()
            self._sent = info.path
            yield info, reader.take(info.nar_size)

    def _next(self) -> None:
        pending, batch = self._under_way.popleft()
        try:
            pending.result()
        except STORE_ERRORS as error:
            raise _FaultError(batch[0].path if len(batch) == 1 else None, error, at_source=False) from error
        if self._on_arrived:
            self._on_arrived([info.path for info in batch])


class _Stopped(Exception):
    """Nobody wants what is read any more."""


class _SourceReader:
    """The source's side: a thread that reads NARs, one behind the other, into a buffer with a limit."""

    def __init__(self, store: Store, order: t.Sequence[PathInfo]) -> None:
        self._store = store
        self._order = order
        self._changed = threading.Condition()
        self._chunks: collections.deque[bytes | bytearray] = collections.deque()
        self._waiting = 0
        self._asked = 0
        self._read = 0
        self._stopping = False
        self._ended = False
        self._error: _FaultError | None = None
        self._chunk = memoryview(b"")
        self._thread = threading.Thread(target=self._run, name=f"NARs from {store.channel.name}", daemon=True)
        self._thread.start()

    # The caller's thread.

    def take(self, size: int) -> t.Iterator[Buffer]:
        """The next bytes, in pieces. Raises _FaultError."""
        while size:
            if not self._chunk:
                self._chunk = memoryview(self._next_chunk())
            piece = self._chunk[:size]
            self._chunk = self._chunk[len(piece) :]
            size -= len(piece)
            yield piece

    def _next_chunk(self) -> bytes | bytearray:
        with self._changed:
            while not self._chunks and not self._ended:
                self._changed.wait()
            if not self._chunks:
                raise self._error or RuntimeError("more was taken than the NARs have")
            chunk = self._chunks.popleft()
            self._waiting -= len(chunk)
            self._changed.notify_all()
            return chunk

    def stop(self) -> None:
        """Ends the thread. Where much of what the source was asked for is still to come, the source breaks."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(DRAIN_SECONDS)
        if self._thread.is_alive():
            self._store.channel.abort()
            self._thread.join()

    # The thread.

    def _run(self) -> None:
        done = 0
        gathered = bytearray()
        try:
            # The destination checks the hashes.
            for _info, pieces in self._store.nars(self._wanted(), verify=False):
                for piece in pieces:
                    self._read += len(piece)
                    gathered += piece
                    if len(gathered) >= CHUNK:
                        self._put(gathered)
                        gathered = bytearray()
                done += 1
        except _Stopped:
            self._store.close()
        except Exception as error:
            self._error = _FaultError(self._order[min(done, len(self._order) - 1)].path, error, at_source=True)
        finally:
            with self._changed:
                self._chunks.append(gathered)
                self._waiting += len(gathered)
                self._ended = True
                self._changed.notify_all()

    def _wanted(self) -> t.Iterator[PathInfo]:
        for info in self._order:
            if self._stopping:
                return
            self._asked += info.nar_size
            yield info

    def _put(self, chunk: bytearray) -> None:
        with self._changed:
            while self._waiting >= BUFFER and not self._stopping:
                self._changed.wait()
            if not self._stopping:
                self._chunks.append(chunk)
                self._waiting += len(chunk)
                self._changed.notify_all()
            elif self._asked - self._read > DRAIN:
                raise _Stopped
