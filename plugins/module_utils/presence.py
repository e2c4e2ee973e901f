# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What one store has and what is on its way there, for many threads that fill it: each path travels once.

    with presence.lease(paths) as lease:
        # All of the paths are there, but for lease.mine, which nobody else carries.
        transfer.copy(source, destination, lease.mine, infos, on_arrived=lease.arrived)

Take a lease before you borrow connections, and never while you hold another: who waits must hold nothing that somebody
else needs to go on.
"""

from __future__ import annotations

import collections
import contextlib
import threading
import typing as t


class Lease:
    """Paths that one thread carries. mine: those that have not arrived yet. waits_for: those that others carry."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence
        self.mine: set[str] = set()
        self.waits_for: set[str] = set()

    def arrived(self, paths: t.Iterable[str]) -> None:
        """These are there now; who waits for them goes on."""
        self._presence.add(paths)


class Presence:
    """What is known of one store.

    Good for as long as somebody holds roots at that store, as a connection does through which paths were copied or
    asked for (transfer.plan): forget() when it is gone.

    Nobody waits in a circle: a lease only waits for older ones. What a lease leaves behind goes to the oldest of those
    that wait for it, which is younger than the one that left it and older than all others that wait.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._known: set[str] = set()
        self._carriers: dict[str, Lease] = {}
        self._waiting: dict[str, list[Lease]] = collections.defaultdict(list)

    def known(self, paths: t.Iterable[str]) -> set[str]:
        """Those of the paths that are there for certain."""
        with self._changed:
            return self._known.intersection(paths)

    def add(self, paths: t.Iterable[str]) -> None:
        """These are there: carried, built or found there."""
        with self._changed:
            for path in paths:
                self._known.add(path)
                for lease in self._waiting.pop(path, ()):
                    lease.waits_for.discard(path)
                carrier = self._carriers.pop(path, None)
                if carrier:
                    carrier.mine.discard(path)
            self._changed.notify_all()

    def forget(self) -> None:
        """Nothing is known any more; what is on its way stays so."""
        with self._changed:
            self._known.clear()

    @contextlib.contextmanager
    def lease(self, paths: t.Iterable[str]) -> t.Iterator[Lease]:
        """Waits until each of the paths is known or is ours to carry. What has not arrived at the end is handed on."""
        lease = Lease(self)
        wanted = set(paths)
        with self._changed:
            for path in wanted - self._known:
                if path in self._carriers:
                    self._waiting[path].append(lease)
                    lease.waits_for.add(path)
                else:
                    self._carry(path, lease)
        try:
            with self._changed:
                while lease.waits_for:
                    self._changed.wait()
            yield lease
        finally:
            with self._changed:
                for path in lease.waits_for:
                    self._waiting[path].remove(lease)
                for path in lease.mine:
                    self._hand_on(path)
                self._changed.notify_all()

    def _carry(self, path: str, lease: Lease) -> None:
        self._carriers[path] = lease
        lease.mine.add(path)

    def _hand_on(self, path: str) -> None:
        del self._carriers[path]
        waiting = self._waiting.get(path)
        if waiting:
            heir = waiting.pop(0)
            heir.waits_for.discard(path)
            self._carry(path, heir)
