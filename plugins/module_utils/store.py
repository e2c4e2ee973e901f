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
broken, and all that is still queued raises the same; after a RemoteError it goes on.
"""

from __future__ import annotations

import collections
import hashlib
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils import protocol
from ansible_collections.nixfleet.builders.plugins.module_utils.channel import Buffer, Channel, ChannelError
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
from ansible_collections.nixfleet.builders.plugins.module_utils.wire import WORD, ProtocolError, Reader, encode

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
_NAR_BEGIN = len("nix-archive-1").to_bytes(WORD, "little")


class DamagedNar(Exception):
    """A NAR's content does not fit its hash: damaged in the store or on the way. The connection can be used further."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} arrived with another content than its NAR hash says")
        self.path = path


class Pending(t.Generic[_A]):
    """An operation that is queued or under way."""

    def __init__(self, store: Store, operation: Operation[t.Any, _A], on_event: OnEvent | None, size: int) -> None:
        self._store = store
        self.operation = operation
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
        """The handshake: two round trips. Raises VersionError, RemoteError, ProtocolError, ChannelError."""
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

    def path_infos(self, paths: t.Iterable[str]) -> dict[str, PathInfo | None]:
        """What the store knows of each path, None where it is not valid. One round trip for some 600 paths."""

    def missing(self, targets: t.Iterable[str]) -> Missing:
        """What the store would build and fetch for these targets (protocol.derived_path)."""

    def add_temp_roots(self, paths: t.Iterable[str]) -> None:
        """Protects paths, valid or not yet, from the garbage collector for as long as the connection lasts."""

    def ensure_path(self, path: str, on_event: OnEvent | None = None) -> None:
        """Makes a path valid by substitution. Raises RemoteError where nobody has it."""

    def output_map(self, drv_path: str) -> dict[str, str | None]:
        """The path of each output of a derivation that is valid there, None where not known yet."""

    def add_signatures(self, path: str, signatures: t.Iterable[str]) -> None: ...

    def add_indirect_root(self, link: str) -> None:
        """Makes a symbolic link on the store's host, which the caller has made, a root."""

    def set_options(self, options: Options) -> None: ...

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

    def build_paths(
        self, targets: t.Iterable[str], on_event: OnEvent | None = None, mode: BuildMode = BuildMode.NORMAL
    ) -> dict[str, BuildResult]:
        """Builds or substitutes targets (protocol.derived_path) with all they need; the results by target."""

    def nars(self, infos: t.Iterable[PathInfo], verify: bool = True) -> t.Iterator[tuple[PathInfo, t.Iterator[Buffer]]]:
        """Each path with its NAR in pieces, nar_size bytes in all; requests go out ahead. Fits add_many.

        A piece is valid until the next one is asked for. What of a NAR is left unread is skipped. C(verify): raises
        DamagedNar behind the last piece where the hash is another; needless where another store takes the NAR, which
        checks it. A caller that stops early breaks the store.
        """

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

    def add_many(
        self,
        count: int,
        items: t.Iterable[tuple[PathInfo, t.Iterable[Buffer]]],
        check_signatures: bool,
        on_event: OnEvent | None = None,
    ) -> None:
        """As queue_add_many, and waits. Raises RemoteError where a path was refused."""

    def close(self) -> None:
        self.channel.close()

    # -------------------------------------------------------------------------------------------- the queue

    def queue(self, operation: Operation[_Q, _A], request: _Q, on_event: OnEvent | None = None) -> Pending[_A]:
        """Queues an operation that is neither framed nor a NAR; its Pending.result() sends all that is queued.

        Where too much is without a reply, replies to earlier ones are read first. on_event gets the operation's log
        lines and progress, in this thread, while some result() reads them.
        """

    def wait_for(self, pending: Pending[t.Any]) -> None:
        """Sends what is queued and reads replies up to this one's."""

    def _shake_hands(self) -> None: ...
