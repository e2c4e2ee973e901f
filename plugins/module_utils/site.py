# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A place where a run builds or keeps paths, with its connections and threads: a builder, the client, another store."""

from __future__ import annotations

import contextlib
import threading
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils import protocol
from ansible_collections.nixfleet.builders.plugins.module_utils.presence import Presence
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh import SshError
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_config import SshConfigError
from ansible_collections.nixfleet.builders.plugins.module_utils.store import Store
from ansible_collections.nixfleet.builders.plugins.module_utils.transfer import STORE_ERRORS, Infos

#: Something that a thread of a site does; it must not raise.
Work = t.Callable[[], None]


class Unreachable(Exception):
    """A site's store cannot be opened. permanent: it stays so until somebody changes something."""

    def __init__(self, site: Site, cause: Exception) -> None:
        super().__init__(str(cause))
        self.site = site
        self.permanent = isinstance(cause, (SshConfigError, protocol.VersionError)) or (
            isinstance(cause, SshError) and cause.permanent
        )


class Opener(t.Protocol):
    """How a site's stores are opened; threads may share it."""

    def open(self) -> Store:
        """A further connection to the store. Raises what stores.open_store raises."""

    def measure(self) -> bytes:
        """What its load probe says, over what is open; empty where it has none. Raises ChannelError: not now."""

    def close(self) -> None:
        """Ends all connections. Never raises."""


class Site:
    """One place. key: names it within the run. label: for people.

    presence: what is known to be there. infos: what it told of its paths. trusted: whether it takes from us what is not
    signed, and builds what it has no .drv file of; None as long as it did not say.
    """

    def __init__(self, key: str, label: str, opener: Opener) -> None:
        self.key = key
        self.label = label
        self.presence = Presence()
        self.infos: Infos = {}
        self.trusted: bool | None = None
        self.nix_version = ""
        self._opener = opener
        self._lock = threading.Lock()
        self._idle: list[Store] = []
        self._open: set[Store] = set()
        self._moved = [0, 0]
        self._closed = False
        self._work: list[Work] = []
        self._changed = threading.Condition()
        self._threads = 0
        self._free = 0

    # ------------------------------------------------------------------------------------------------ connections

    @contextlib.contextmanager
    def borrow(self) -> t.Iterator[Store]:
        """A store for the use of one thread; one that nobody uses, or a new one. Raises Unreachable."""
        store = self._take() or self._new()
        try:
            yield store
        finally:
            self._give_back(store)

    def check(self) -> None:
        """Whether it can be reached, by a new connection. Raises Unreachable."""
        with self._lock:
            idle, self._idle = self._idle, []
        for store in idle:
            self._drop(store)
        store = self._new()
        self.trusted = store.trusted if self.trusted is None else self.trusted
        self.nix_version = store.nix_version
        self._give_back(store)

    def valid(self, paths: t.Iterable[str]) -> set[str]:
        """Those of the paths that are valid there; they are protected from its garbage collector.

        Raises Unreachable, STORE_ERRORS.
        """
        wanted = sorted(set(paths))
        if not wanted:
            return set()
        with self.borrow() as store:
            # Of thousands that are asked for, usually few are there: only these are worth a root.
            found = store.valid_paths(wanted)
            if found:
                for path in sorted(found):
                    store.queue(protocol.ADD_TEMP_ROOT, path)
                found = store.valid_paths(found)
        self.presence.add(found)
        return found

    def measure(self) -> bytes:
        """See Opener."""
        return self._opener.measure()

    def close(self) -> None:
        """Ends everything; threads that use a store get ChannelClosed."""
        with self._lock:
            self._closed = True
            stores = list(self._open)
        for store in stores:
            store.channel.abort()
        self._opener.close()
        with self._changed:
            self._changed.notify_all()

    def bytes_moved(self) -> tuple[int, int]:
        """Bytes received from there and sent there."""
        with self._lock:
            open_now = [store.channel for store in self._open]
            return (
                self._moved[0] + sum(channel.bytes_in for channel in open_now),
                self._moved[1] + sum(channel.bytes_out for channel in open_now),
            )

    def _take(self) -> Store | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _new(self) -> Store:
        try:
            store = self._opener.open()
        except (*STORE_ERRORS, SshConfigError, protocol.VersionError) as error:
            raise Unreachable(self, error) from error
        with self._lock:
            closed = self._closed
            if not closed:
                self._open.add(store)
        if closed:
            store.close()
        return store

    def _give_back(self, store: Store) -> None:
        if store.broken:
            self._drop(store)
            return
        with self._lock:
            if not self._closed:
                self._idle.append(store)
                return
        self._drop(store)

    def _drop(self, store: Store) -> None:
        """Ends a connection; what it protected is no longer certain to be there."""
        with self._lock:
            if store not in self._open:
                return
            self._open.remove(store)
            self._moved[0] += store.channel.bytes_in
            self._moved[1] += store.channel.bytes_out
        self.presence.forget()
        store.close()

    # ------------------------------------------------------------------------------------------------ threads

    def do(self, work: Work) -> None:
        """Has a thread of the site's do it; as many as are needed are started, and kept."""
        with self._changed:
            self._work.append(work)
            if self._free >= len(self._work):
                self._changed.notify()
                return
            self._threads += 1
            number = self._threads
        threading.Thread(target=self._serve, name=f"{self.label} {number}", daemon=True).start()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._free += 1
                while not self._work and not self._closed:
                    self._changed.wait()
                self._free -= 1
                if self._closed:
                    return
                work = self._work.pop(0)
            work()
