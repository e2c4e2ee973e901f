# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A Nix store over a channel: the local one, a builder's over ssh.

Requests are queued and go out together, when the first reply is wanted: each method that takes many paths costs one
round trip, and queue() lets a caller put several operations into one:

    build = store.queue(BUILD_DERIVATION, BuildDerivationRequest(drv_path, derivation), on_event)
    infos = [store.queue(QUERY_PATH_INFO, path) for path in outputs]
    if build.result().success: ... infos[0].result() ...

A Store belongs to one thread; channel.abort() ends it from another one. After a ProtocolError or a ChannelError it is
broken, and all that is still queued raises the same; after a RemoteError it goes on, unless it came for a NAR.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils import protocol
from ansible_collections.nixfleet.builders.plugins.module_utils.channel import (
    Buffer,
    Channel,
    ChannelClosed,
    ChannelError,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.derivation import BasicDerivation
from ansible_collections.nixfleet.builders.plugins.module_utils.protocol import (
    BuildMode,
    BuildResult,
    Event,
    Missing,
    Operation,
    Options,
    PathInfo,
    RemoteError,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.wire import WORD, Codec, ProtocolError, Reader, encode

#: Bytes of requests that may be without a reply. A non-root nix-daemon --stdio passes bytes on with one thread (2.8 to
#: 2.33: daemon.cc, forwardStdioConnection): with more of them than its socket holds it and the daemon would wait for
#: each other for ever.
WINDOW = 64 << 10
#: The same while NARs come: each request may bring gigabytes.
NAR_WINDOW = 16 << 10
#: AddMultipleToStore's stream goes out in frames of about this size.
FRAME = 256 << 10

OnEvent = t.Callable[[Event], None]

_Q = t.TypeVar("_Q")
_A = t.TypeVar("_A")
#: How much of a NAR's end is looked through for an error.
_TAIL = 4 << 10


class DamagedNar(Exception):
    """A NAR's content does not fit its hash: damaged in the store or on the way. The connection is of no more use: the
    NAR may have another size, too.
    """

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} arrived with another content than its NAR hash says")
        self.path = path


class Pending(t.Generic[_A]):
    """An operation that is queued or under way."""

    def __init__(
        self, store: Store, operation: Operation[_Q, _A], request: _Q, on_event: OnEvent | None, size: int
    ) -> None:
        self._store = store
        self.operation: Operation[t.Any, _A] = operation
        self.request = request
        self.on_event = on_event
        self.size = size
        self._done = False
        self._value: t.Any = None
        self._error: Exception | None = None

    def result(self) -> _A:
        """The reply; sends what is queued and waits. Raises RemoteError, ProtocolError, ChannelError."""
        self._store.wait_for(self)
        if self._error is not None:
            raise self._error
        return t.cast("_A", self._value)

    @property
    def done(self) -> bool:
        """Whether result() returns or raises at once."""
        return self._done

    def settle(self, value: object, error: Exception | None = None) -> None:
        """The reply is here."""
        self._done, self._value, self._error = True, value, error


class Store:
    """A store behind a channel.

    timeout: seconds without a byte that a plain operation may take (channel.idle_timeout is set to it); patience: the
    same for operations that wait for builds and downloads. None for no limit.
    version, nix_version, trusted: what was agreed on, see protocol.ServerInfo.
    """

    def __init__(self, channel: Channel, timeout: float | None = 60.0, patience: float | None = None) -> None:
        """The handshake: two round trips. Raises VersionError, RemoteError, ProtocolError, ChannelError; closing the
        channel is then up to the caller.
        """
        self.channel = channel
        self._timeout = timeout
        self._patience = patience
        self._waiting: collections.deque[Pending[t.Any]] = collections.deque()
        self._outstanding = 0
        self._broken: Exception | None = None
        self._reader = Reader(channel.read, protocol.NEWEST)
        self._shake_hands()

    # -------------------------------------------------------------------------------------------- operations

    def is_valid_path(self, path: str) -> bool:
        return self.queue(protocol.IS_VALID_PATH, path).result()

    def valid_paths(self, paths: t.Iterable[str], substitute: bool = False) -> set[str]:
        """Those of the paths that are valid there; C(substitute): after fetching what its substituters have."""
        request = protocol.ValidPathsRequest(tuple(sorted(set(paths))), substitute)
        return set(self.queue(protocol.QUERY_VALID_PATHS, request).result()) if request.paths else set()

    def path_infos(self, paths: t.Iterable[str]) -> dict[str, PathInfo | None]:
        """What the store knows of each path, None where it is not valid. One round trip for some 600 paths."""
        queued = {path: self.queue(protocol.QUERY_PATH_INFO, path) for path in paths}
        return {path: pending.result() for path, pending in queued.items()}

    def missing(self, targets: t.Iterable[str]) -> Missing:
        """What the store would build and fetch for these targets (protocol.derived_path)."""
        return self.queue(protocol.QUERY_MISSING, tuple(targets)).result()

    def add_temp_roots(self, paths: t.Iterable[str]) -> None:
        """Protects paths, valid or not yet, from the garbage collector for as long as the connection lasts."""
        for pending in [self.queue(protocol.ADD_TEMP_ROOT, path) for path in paths]:
            pending.result()

    def ensure_path(self, path: str, on_event: OnEvent | None = None) -> None:
        """Makes a path valid by substitution. Raises RemoteError where nobody has it."""
        self.queue(protocol.ENSURE_PATH, path, on_event).result()

    def output_map(self, drv_path: str) -> dict[str, str | None]:
        """The path of each output of a derivation that is valid there, None where not known yet."""
        return dict(self.queue(protocol.QUERY_DERIVATION_OUTPUT_MAP, drv_path).result())

    def add_signatures(self, path: str, signatures: t.Iterable[str]) -> None:
        """Adds signatures to a valid path; the store must trust us."""
        request = protocol.SignaturesRequest(path, tuple(sorted(signatures)))
        self.queue(protocol.ADD_SIGNATURES, request).result()

    def add_indirect_root(self, link: str) -> None:
        """Makes a symbolic link on the store's host, which the caller has made, a root."""
        self.queue(protocol.ADD_INDIRECT_ROOT, link).result()

    def set_options(self, options: Options) -> None:
        """Changes settings of this connection."""
        self.queue(protocol.SET_OPTIONS, options).result()

    def build_derivation(
        self,
        drv_path: str,
        derivation: BasicDerivation,
        on_event: OnEvent | None = None,
        mode: BuildMode = BuildMode.NORMAL,
    ) -> BuildResult:
        """Builds one derivation whose inputs are valid there. The store must trust us, or it be content-addressed.

        A failed build is a result, no exception.
        """
        request = protocol.BuildDerivationRequest(drv_path, derivation, mode)
        return self.queue(protocol.BUILD_DERIVATION, request, on_event).result()

    def build_paths(
        self, targets: t.Iterable[str], on_event: OnEvent | None = None, mode: BuildMode = BuildMode.NORMAL
    ) -> dict[str, BuildResult]:
        """Builds or substitutes targets (protocol.derived_path) with all they need; the results by target."""
        request = protocol.BuildRequest(tuple(targets), mode)
        results = self.queue(protocol.BUILD_PATHS_WITH_RESULTS, request, on_event).result()
        return {each.target: each.result for each in results}

    def nars(self, infos: t.Iterable[PathInfo], verify: bool = True) -> t.Iterator[tuple[PathInfo, t.Iterator[Buffer]]]:
        """Each path with its NAR in pieces, nar_size bytes in all; requests go out ahead. Fits add_many.

        A piece is valid until the next one is asked for. What of a NAR is left unread is skipped. C(verify): raises
        DamagedNar behind the last piece where the hash is another; needless where another store takes the NAR, which
        checks it. A caller that stops early breaks the store.
        """
        ahead: collections.deque[tuple[PathInfo, Pending[None]]] = collections.deque()
        rest = iter(infos)
        more = True
        finished = False
        try:
            while more or ahead:
                # In bursts, so that not each request is a packet of its own.
                if not ahead or self._outstanding < NAR_WINDOW // 2:
                    while more and (not ahead or self._outstanding < NAR_WINDOW):
                        info = next(rest, None)
                        more = info is not None
                        if info is not None:
                            ahead.append((info, self._queue(protocol.NAR_FROM_PATH, info.path, None)))
                if ahead:
                    info, pending = ahead.popleft()
                    self._until_next_is(pending)
                    pieces = self._nar(info, pending, verify)
                    yield info, pieces
                    for _piece in pieces:
                        pass
            finished = True
        finally:
            if not finished and self._broken is None and (ahead or self._waiting):
                self._break(ChannelError(self.channel.name, "a NAR was not read to its end"))

    def queue_add_many(
        self,
        count: int,
        items: t.Iterable[tuple[PathInfo, t.Iterable[Buffer]]],
        check_signatures: bool,
        on_event: OnEvent | None = None,
    ) -> Pending[None]:
        """Sends C(count) paths, each after its references; result() says whether all were taken.

        The server's messages are read meanwhile. What the items raise is raised here once the stream is ended; the
        store goes on, and has the paths before that one.
        """
        request = protocol.AddManyRequest(repair=False, dont_check_signatures=not check_signatures)
        pending = self._queue(protocol.ADD_MULTIPLE_TO_STORE, request, on_event)
        frames = _Frames(self.channel, lambda: self._notice(pending))
        # Before it only operations that are done soon: then a server that takes no bytes is a dead one.
        patient = any(before.operation.patient for before in self._waiting if before is not pending)
        self.channel.idle_timeout = self._patience if patient else self._timeout
        try:
            with self._breaking():
                frames.add(count.to_bytes(WORD, "little"))
            sent = 0
            for info, pieces in items:
                sent += 1
                size = 0
                with self._breaking():
                    frames.add(encode(protocol.PATH_INFO, info, self.version))
                for piece in pieces:
                    size += len(piece)
                    with self._breaking():
                        frames.add(piece)
                if size != info.nar_size:
                    raise ValueError(f"the NAR of {info.path} has {size} bytes instead of {info.nar_size}")
            if sent != count:
                raise ValueError(f"{sent} paths instead of {count}")
        except Exception:
            if self._broken is None:
                # The server finds the stream too short, says so, and is ready for the next request.
                with self._breaking():
                    frames.end()
                with contextlib.suppress(RemoteError):
                    pending.result()
            raise
        except BaseException:
            self._break(ChannelError(self.channel.name, "interrupted while it was written to"))
            raise
        with self._breaking():
            frames.end()
        return pending

    def add_many(
        self,
        count: int,
        items: t.Iterable[tuple[PathInfo, t.Iterable[Buffer]]],
        check_signatures: bool,
        on_event: OnEvent | None = None,
    ) -> None:
        """As queue_add_many, and waits. Raises RemoteError where a path was refused."""
        self.queue_add_many(count, items, check_signatures, on_event).result()

    def close(self) -> None:
        """Ends the connection; what is queued raises ChannelClosed. Never raises."""
        if self._broken is None:
            self._break(ChannelClosed(self.channel.name, "the connection was closed by us"))
        self.channel.close()

    # -------------------------------------------------------------------------------------------- the queue

    def queue(self, operation: Operation[_Q, _A], request: _Q, on_event: OnEvent | None = None) -> Pending[_A]:
        """Queues an operation that is neither framed nor a NAR; its Pending.result() sends all that is queued.

        Where too much is without a reply, replies to earlier ones are read first. on_event gets the operation's log
        lines and progress, in this thread, while some result() reads them.
        """
        if operation.framed or operation.nar:
            raise ValueError(f"{operation.name} has a method of its own")
        return self._queue(operation, request, on_event)

    def wait_for(self, pending: Pending[t.Any]) -> None:
        """Sends what is queued and reads replies up to this one's."""
        while not pending.done:
            self._advance()

    @property
    def broken(self) -> bool:
        """Whether the connection is of no more use."""
        return self._broken is not None

    def _queue(self, operation: Operation[_Q, _A], request: _Q, on_event: OnEvent | None) -> Pending[_A]:
        if self._broken is not None:
            raise self._broken
        data = protocol.request_bytes(operation, request, self.version)
        if self._waiting and self._outstanding + len(data) > WINDOW:
            while self._waiting and self._outstanding + len(data) > WINDOW // 2:
                self._advance()
        with self._breaking():
            self.channel.write(data)
        pending = Pending(self, operation, request, on_event, len(data))
        self._waiting.append(pending)
        self._outstanding += len(data)
        return pending

    def _advance(self) -> None:
        """Sends what is queued and reads the next reply."""
        pending = self._start_reading()
        if pending.operation.nar:
            raise RuntimeError("a reply was asked for while a NAR before it was not read")
        with self._breaking(pending):
            message = self._messages(pending)
            if isinstance(message, RemoteError):
                self._settle(pending, None, message)
            else:
                operation = pending.operation
                reply = protocol.read_value(operation.name, operation.reply, self._reader)
                self._settle(pending, operation.complete(pending.request, reply) if operation.complete else reply)

    def _start_reading(self) -> Pending[t.Any]:
        """The operation whose messages come next, with all requests sent."""
        if self._broken is not None:
            raise self._broken
        pending = self._waiting[0]
        with self._breaking(pending):
            self.channel.idle_timeout = self._patience if pending.operation.patient else self._timeout
            self.channel.flush()
        return pending

    def _messages(self, pending: Pending[t.Any]) -> protocol.Last | RemoteError:
        """Reads an operation's messages up to the end."""
        while True:
            message = protocol.read_value(pending.operation.name, protocol.MESSAGE, self._reader)
            if isinstance(message, (protocol.Last, RemoteError)):
                return message
            if pending.on_event is not None:
                pending.on_event(message)

    def _settle(self, pending: Pending[t.Any], value: object, error: Exception | None = None) -> None:
        if isinstance(error, RemoteError):
            error.operation = pending.operation.name
        self._waiting.popleft()
        self._outstanding -= pending.size
        pending.settle(value, error)

    @contextlib.contextmanager
    def _breaking(self, pending: Pending[t.Any] | None = None) -> t.Iterator[None]:
        """Whatever is raised within leaves the connection in the middle of something."""
        try:
            yield
        except Exception as error:
            self._break(error)
            raise
        except BaseException:
            self._break(ChannelError(self.channel.name, "interrupted"))
            raise

    def _break(self, error: Exception) -> None:
        """No more use is made of the connection."""
        if self._broken is None:
            self._broken = error
        while self._waiting:
            self._settle(self._waiting[0], None, error)

    # -------------------------------------------------------------------------------------------- streams

    def _until_next_is(self, pending: Pending[t.Any]) -> None:
        """Reads the replies before this one's."""
        while self._start_reading() is not pending:
            self._advance()

    def _nar(self, info: PathInfo, pending: Pending[None], verify: bool) -> t.Iterator[Buffer]:
        """The pieces of the NAR that comes next."""
        with self._breaking(pending):
            message = self._messages(pending)
            if isinstance(message, RemoteError):
                message.operation = pending.operation.name
                raise message
            digest = hashlib.sha256()
            tail = b""
            rest = info.nar_size
            while rest:
                try:
                    piece = self.channel.read_some(rest)
                except ChannelClosed as error:
                    raise self._late_error(tail) or error from error
                rest -= len(piece)
                if verify:
                    digest.update(piece)
                tail = (tail + piece[-_TAIL:])[-_TAIL:]
                yield piece
            self._reader.offset += info.nar_size
            if verify and digest.hexdigest() != info.nar_hash:
                raise self._late_error(tail) or DamagedNar(info.path)
            self._settle(pending, None)

    def _late_error(self, tail: bytes) -> RemoteError | None:
        """The error in the bytes of a NAR and what follows them."""
        if protocol.ERROR_BEGIN not in tail:
            return None
        with contextlib.suppress(ChannelError):
            while len(tail) < 2 * _TAIL:
                tail += self.channel.read_some(_TAIL)
        error = protocol.late_error(tail)
        if error is not None:
            error.operation = protocol.NAR_FROM_PATH.name
        return error

    def _notice(self, pending: Pending[None]) -> None:
        """Reads what the server says while a stream to it is under way."""
        while self.channel.readable():
            if self._start_reading() is not pending:
                self._advance()
                continue
            message = protocol.read_value(pending.operation.name, protocol.MESSAGE, self._reader)
            if isinstance(message, RemoteError):
                # It did not wait for the end of the stream: what it would make of the rest nobody knows.
                message.operation = pending.operation.name
                raise message
            if isinstance(message, protocol.Last):
                error = ProtocolError("the end of a stream was confirmed before it was sent", self._reader.offset)
                error.operation = pending.operation.name
                raise error
            if pending.on_event is not None:
                pending.on_event(message)

    def _shake_hands(self) -> None:
        """protocol.py says what is exchanged."""
        with self._breaking():
            self.channel.idle_timeout = self._timeout
            self._say(protocol.CLIENT_HELLO, protocol.Hello(protocol.NEWEST))
            theirs = protocol.read_value("the handshake", protocol.SERVER_HELLO, self._reader).version
            self.version = self._reader.version = protocol.agree(theirs)
            self._say(protocol.CLIENT_GREETING, protocol.Greeting())
            info = protocol.read_value("the handshake", protocol.SERVER_INFO, self._reader)
            self.nix_version = info.nix_version
            self.trusted = info.trusted
            while True:
                message = protocol.read_value("the handshake", protocol.MESSAGE, self._reader)
                if isinstance(message, RemoteError):
                    raise message
                if isinstance(message, protocol.Last):
                    return

    def _say(self, codec: Codec[_A], value: _A) -> None:
        self.channel.write(encode(codec, value, self._reader.version))
        self.channel.flush()


class _Frames:
    """Cuts a stream into frames: small pieces are gathered, large ones sent as they are.

    C(notice) is called after each frame.
    """

    def __init__(self, channel: Channel, notice: t.Callable[[], None]) -> None:
        self._channel = channel
        self._notice = notice
        self._gathered = bytearray()

    def add(self, piece: Buffer) -> None:
        if len(piece) < FRAME // 4:
            self._gathered += piece
            if len(self._gathered) >= FRAME:
                self._send()
        elif len(piece):
            self._send(piece)

    def end(self) -> None:
        """The rest, and the end of the stream; it goes out with the next flush."""
        if self._gathered:
            self._channel.write(len(self._gathered).to_bytes(WORD, "little"), self._gathered)
        self._channel.write(bytes(WORD))

    def _send(self, piece: Buffer = b"") -> None:
        gathered, self._gathered = self._gathered, bytearray()
        self._channel.write((len(gathered) + len(piece)).to_bytes(WORD, "little"), gathered, piece)
        self._channel.flush()
        self._notice()
