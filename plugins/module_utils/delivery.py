# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Wanted outputs on their way from the sites that have them to the one that is to have them."""

from __future__ import annotations

import collections
import threading
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils.site import Site
from ansible_collections.nixfleet.builders.plugins.module_utils.task_build import bring

#: Is told from a thread what became of what was added: the source, the paths of each add(), what was raised or None,
#: bytes of NARs.
OnDelivered = t.Callable[[Site, "list[list[str]]", t.Optional[Exception], int], None]


#: Seconds between what a site delivers and what it delivers next, which so is more at once.
PAUSE = 0.2


class Delivery:
    """Brings paths to one site, from each other site by one thread, all that waits there at once."""

    def __init__(self, destination: Site, on_delivered: OnDelivered) -> None:
        self.destination = destination
        self._on_delivered = on_delivered
        self._lock = threading.Condition()
        self._hurry = False
        self._waiting: dict[Site, list[list[str]]] = collections.defaultdict(list)
        self._busy: set[Site] = set()

    def add(self, source: Site, paths: t.Iterable[str]) -> None:
        """Has paths brought, with all that they refer to."""
        with self._lock:
            self._waiting[source].append(list(paths))
            if source in self._busy:
                return
            self._busy.add(source)
        source.do(lambda: self._serve(source))

    def hurry(self) -> None:
        """Little more is to come: nothing waits for company any more."""
        with self._lock:
            if not self._hurry:
                self._hurry = True
                self._lock.notify_all()

    def _serve(self, source: Site) -> None:
        while True:
            with self._lock:
                added = self._waiting.pop(source, [])
                if not added:
                    self._busy.discard(source)
                    return
            moved = 0
            error: Exception | None = None
            try:
                if source is not self.destination:
                    moved = bring(source, self.destination, None, {path for paths in added for path in paths}, False)
            except Exception as raised:
                error = raised
            self._on_delivered(source, added, error, moved)
            with self._lock:
                self._lock.wait_for(lambda: self._hurry, PAUSE)
