# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server's end of the worker protocol, for tests: written with the descriptions the client reads with.

A PlayedStore serves one client in a thread, over a socket; a CannedChannel only says what it was made with.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import socket
import threading
import typing as t
from collections.abc import Iterator

from ansible_collections.nixfleet.builders.plugins.module_utils import protocol
from ansible_collections.nixfleet.builders.plugins.module_utils.channel import Buffer, Channel, FileChannel
from ansible_collections.nixfleet.builders.plugins.module_utils.protocol import (
    BuildResult,
    BuildStatus,
    Event,
    Missing,
    PathInfo,
    RemoteError,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.wire import NUMBER, Reader, Version, encode


def text(data: bytes) -> bytes:
    return len(data).to_bytes(8, "little") + data + bytes(-len(data) % 8)


def nar(content: bytes) -> bytes:
    """The NAR of a plain file."""
    words = (b"nix-archive-1", b"(", b"type", b"regular", b"contents", content, b")")
    return b"".join(map(text, words))


def path_info(path: str, archive: bytes, **fields: t.Any) -> PathInfo:
    plain: dict[str, t.Any] = {
        "deriver": None,
        "references": (),
        "registration_time": 0,
        "ultimate": False,
        "signatures": (),
        "ca": "",
    }
    digest = hashlib.sha256(archive).hexdigest()
    return PathInfo(path=path, nar_hash=digest, nar_size=len(archive), **{**plain, **fields})


class Frames:
    """What a framed stream carries; reads up to the frame of length 0."""

    def __init__(self, source: Reader) -> None:
        self.data = b""
        while size := NUMBER.read(source):
            self.data += source.read(size)


class PlayedStore:
    """A store in memory. builds: results by .drv or target. log, refuse: by the operation's name, what is sent before
    its reply, and a refusal instead of it. last: hangs up after the operation of this name. requests: all that came.
    """

    def __init__(self, version: Version = protocol.NEWEST, trusted: bool | None = True) -> None:
        self.version = version
        self.trusted = trusted
        self.paths: dict[str, tuple[PathInfo, bytes]] = {}
        self.builds: dict[str, BuildResult] = {}
        self.log: dict[str, list[Event]] = {}
        self.refuse: dict[str, str] = {}
        self.last = ""
        self.roots: list[str] = []
        self.requests: list[tuple[str, object]] = []

    def add(self, path: str, content: bytes, **fields: t.Any) -> PathInfo:
        archive = nar(content)
        self.paths[path] = (path_info(path, archive, **fields), archive)
        return self.paths[path][0]

    def serve(self, source: Reader) -> Iterator[bytes]:
        """What is sent, piece by piece; reads the client's bytes as they are needed."""
        theirs = protocol.CLIENT_HELLO.read(source).version
        yield encode(protocol.SERVER_HELLO, protocol.Hello(self.version), self.version)
        agreed = source.version = min(theirs, self.version)
        protocol.CLIENT_GREETING.read(source)
        yield encode(protocol.SERVER_INFO, protocol.ServerInfo((), "2.99", self.trusted), agreed)
        yield encode(protocol.MESSAGE, protocol.Last(), agreed)
        while True:
            operation, request = protocol.read_request(source)
            frames = Frames(source).data if operation.framed else b""
            self.requests.append((operation.name, request))
            for event in self.log.get(operation.name, []):
                yield encode(protocol.MESSAGE, event, agreed)
            refused = self.refuse.get(operation.name)
            if refused:
                yield encode(protocol.MESSAGE, RemoteError(0, refused), agreed)
                continue
            try:
                reply = self.answer(operation, request, frames)
            except RemoteError as error:
                yield encode(protocol.MESSAGE, error, agreed)
                continue
            yield encode(protocol.MESSAGE, protocol.Last(), agreed)
            yield self.paths[request][1] if operation.nar else encode(operation.reply, reply, agreed)
            if operation.name == self.last:
                return

    def answer(self, operation: protocol.Operation[t.Any, t.Any], request: t.Any, frames: bytes) -> object:
        """The reply. A RemoteError that is raised here is sent instead of it."""
        name = operation.name
        if name == "IsValidPath":
            return request in self.paths
        if name == "QueryValidPaths":
            return tuple(path for path in request.paths if path in self.paths)
        if name == "QueryPathInfo":
            return self.paths[request][0] if request in self.paths else None
        if name == "QueryMissing":
            return Missing((), (), tuple(path for path in request if path not in self.paths), 0, 0)
        if name == "BuildDerivation":
            return self.builds.get(request.drv_path, BUILT)
        if name in ("BuildPathsWithResults",):
            return tuple(
                protocol.KeyedBuildResult(target, self.builds.get(target, BUILT)) for target in request.targets
            )
        if name == "QueryDerivationOutputMap":
            return {"out": request + "-out", "dev": None}
        if name == "AddTempRoot":
            self.roots.append(request)
        if name == "AddMultipleToStore":
            self.take(frames)
        return None

    def take(self, frames: bytes) -> None:
        stream = io.BytesIO(frames)
        source = Reader(stream.read, protocol.NEWEST)
        for _each in range(NUMBER.read(source)):
            info = protocol.PATH_INFO.read(source)
            self.paths[info.path] = (info, stream.read(info.nar_size))


BUILT = BuildResult(BuildStatus.BUILT, "", 1, False, 10, 20, 5, None, {"sha256:00!out": '{"outPath":"a-b"}'})


class CannedChannel(Channel):
    """Says these bytes, whatever it is told, in pieces of at most C(piece) bytes. sent: what it was told."""

    def __init__(self, data: bytes, piece: int = 1 << 16) -> None:
        super().__init__("canned", None)
        self.sent = b""
        self._stream = io.BytesIO(data)
        self._piece = piece

    def _receive(self) -> Buffer:
        return self._stream.read(self._piece)

    def _ready(self) -> bool:
        return False

    def _send(self, buffers: list[Buffer]) -> None:
        self.sent += b"".join(buffers)

    def abort(self) -> None:
        pass

    def close(self) -> None:
        pass

    def stderr_tail(self) -> str:
        return ""


@contextlib.contextmanager
def connected(served: PlayedStore, idle_timeout: float | None = 10) -> Iterator[FileChannel]:
    """A channel to a store that is served in a thread."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(20)
    stream = theirs.makefile("rb")

    def read(size: int) -> bytes:
        data = stream.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def serve() -> None:
        with contextlib.suppress(EOFError, OSError), theirs, stream:
            for piece in served.serve(Reader(read, served.version)):
                theirs.sendall(piece)

    thread = threading.Thread(target=serve)
    thread.start()
    descriptor = ours.detach()
    channel = FileChannel("played", descriptor, descriptor, None, idle_timeout)
    try:
        yield channel
    finally:
        channel.close()
        thread.join(20)
