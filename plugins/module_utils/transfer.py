# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Moves store paths from one store to another, streamed through us, and knows what is on the way to whom.

One thread, one copy, no sharing:

    copied = copy(source, destination, closure(source, paths, infos), infos)

Many threads that fill one store, each path once:

    with presence.lease(paths) as lease:
        # Nobody else carries lease.mine; all the others of the paths are there.
        copy(source, destination, lease.mine, infos, on_arrived=lease.arrived)

A lease is taken before connections are borrowed, and never while another one is held: who waits must hold nothing
that somebody else needs to go on.
"""

from __future__ import annotations

import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils.protocol import PathInfo
from ansible_collections.nixfleet.builders.plugins.module_utils.store import OnEvent, Store

#: What the paths' infos are kept in between calls: paths never change, so one for all stores is enough.
Infos = dict[str, PathInfo]
#: Is told which paths have become (or are found to be) valid at the destination.
OnArrived = t.Callable[[t.Collection[str]], None]


class TransferError(Exception):
    """A path could not be moved. Nothing is half there: what arrived before it stays, what refers to it did not go.

    path: the one at fault, None where that is not known. source, destination: names of the stores. reason: why.
    at_source: whether it is the source that failed.
    """

    def __init__(self, path: str | None, source: str, destination: str, reason: str, at_source: bool) -> None:
        super().__init__(f"cannot copy {path or 'paths'} from {source} to {destination}: {reason}")
        self.path = path
        self.source = source
        self.destination = destination
        self.reason = reason
        self.at_source = at_source


class Copied(t.NamedTuple):
    """What a copy did. paths: those that moved, references first. nar_bytes: their size. present: how many were there."""

    paths: tuple[str, ...]
    nar_bytes: int
    present: int


def closure(store: Store, paths: t.Iterable[str], infos: Infos) -> set[str]:
    """The paths and all they refer to, all valid in the store.

    Infos that are not known are asked for, one round trip for each level, and added; these paths are then protected
    from the garbage collector for as long as the connection lasts. Raises TransferError for a path that is not valid,
    and what Store raises.
    """
    raise NotImplementedError


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
) -> Copied:
    """Makes the paths valid at the destination; what they refer to must be among them, or be there.

    Asks the destination once what it has (C(substitute): after its own substituters were asked), the source once for
    infos that are not in C(infos) (which is filled), and sends the rest, small paths first as far as their references
    allow. Both stores protect the paths from their garbage collectors for as long as the connections last.
    C(check_signatures=False) only helps where the destination trusts us. C(on_event) gets the destination's events.

    Both stores are in use until it returns; the source's side runs in a thread of its own. Raises TransferError (its
    cause is what the store raised); then C(broken) of each store tells whether its connection can be used further.
    """
    raise NotImplementedError


class Presence:
    """What one store is known to have and what is on its way there; for many threads.

    Good for as long as somebody holds roots at that store (a connection that copied or asked): a path that is only
    known may be collected as garbage. forget() when that connection is gone.
    """

    def known(self, paths: t.Iterable[str]) -> set[str]:
        """Those of the paths that are there for certain."""
        raise NotImplementedError

    def add(self, paths: t.Iterable[str]) -> None:
        """These are there: built there, or found there."""
        raise NotImplementedError

    def forget(self) -> None:
        """Nothing is known any more; what is on its way stays so."""
        raise NotImplementedError

    def lease(self, paths: t.Iterable[str]) -> t.ContextManager[Lease]:
        """Waits until each of the paths is known, or is ours to carry; at the end, what has not arrived is handed over
        to the one who has waited longest for it.
        """
        raise NotImplementedError


class Lease:
    """Paths that one thread carries. mine: still to be carried."""

    mine: set[str]

    def arrived(self, paths: t.Collection[str]) -> None:
        """These are there now; who waits for them goes on."""
        raise NotImplementedError
