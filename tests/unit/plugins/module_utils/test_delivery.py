# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deliveries between played hosts."""

from __future__ import annotations

import queue
import threading
import typing as t
from collections.abc import Iterator

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import delivery
from ansible_collections.nixfleet.builders.plugins.module_utils.delivery import Delivery
from ansible_collections.nixfleet.builders.plugins.module_utils.site import Site
from ansible_collections.nixfleet.builders.plugins.module_utils.task_build import MachineTrouble, NoInput
from ansible_collections.nixfleet.builders.tests.support.played_fleet import NAR, PlayedOpener, World, store_path

A, B, C, LIB = (store_path(name) for name in ("a", "b", "c", "lib"))
LIMIT = 20.0

Told = tuple[Site, list[list[str]], t.Optional[Exception], int]


class Fleet:
    """Two builders that deliver to the client. told: what came back."""

    def __init__(self) -> None:
        self.world = World()
        self.b1, self.b2 = (Site(name, name, PlayedOpener(self.world, self.world.hosts[name])) for name in ("b1", "b2"))
        self.client = Site("", "client", PlayedOpener(self.world, self.world.here))
        self.told: queue.Queue[Told] = queue.Queue()
        self.delivery = Delivery(self.client, lambda *told: self.told.put(told))
        for host in self.world.hosts.values():
            host.add(LIB)
            for path in (A, B, C):
                host.add(path, [LIB])

    def next(self) -> Told:
        return self.told.get(timeout=LIMIT)


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    fleet = Fleet()
    yield fleet
    for site in (fleet.b1, fleet.b2, fleet.client):
        site.close()


def test_paths_arrive_with_what_they_refer_to(fleet: Fleet) -> None:
    fleet.delivery.add(fleet.b1, [A, B])
    assert fleet.next() == (fleet.b1, [[A, B]], None, 3 * len(NAR))
    assert fleet.world.here.valid.keys() == {A, B, LIB}
    # What is there does not travel again.
    fleet.delivery.add(fleet.b1, [C])
    assert fleet.next() == (fleet.b1, [[C]], None, len(NAR))


def test_what_waits_goes_at_once(fleet: Fleet) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def fault(operation: str, request: t.Any) -> None:
        if operation == "NarFromPath":
            begun.set()
            assert go_on.wait(LIMIT)

    fleet.world.hosts["b1"].fault = fault
    fleet.delivery.add(fleet.b1, [A])
    assert begun.wait(LIMIT)
    fleet.delivery.add(fleet.b1, [B])
    fleet.delivery.add(fleet.b1, iter([C, A]))
    assert fleet.told.empty()
    go_on.set()
    assert fleet.next()[1] == [[A]]
    assert fleet.next()[1:] == ([[B], [C, A]], None, 2 * len(NAR))
    assert fleet.world.hosts["b1"].opened == 1


def test_sources_do_not_wait_for_each_other(fleet: Fleet) -> None:
    together = threading.Barrier(2, timeout=LIMIT)

    def fault(operation: str, request: t.Any) -> None:
        if operation == "NarFromPath":
            together.wait()

    for host in fleet.world.hosts.values():
        host.delete(LIB)
        host.add(A)
        host.add(B)
        host.fault = fault
    fleet.delivery.add(fleet.b1, [A])
    fleet.delivery.add(fleet.b2, [B])
    told = {source.key: (added, error) for source, added, error, _moved in (fleet.next(), fleet.next())}
    assert told == {"b1": ([[A]], None), "b2": ([[B]], None)}


def test_what_is_there_already_is_only_told(fleet: Fleet) -> None:
    fleet.delivery.add(fleet.client, [A])
    assert fleet.next() == (fleet.client, [[A]], None, 0)
    assert fleet.world.here.opened == 0


def test_a_source_that_is_lost(fleet: Fleet) -> None:
    """Is told; what is added later goes its way."""
    host = fleet.world.hosts["b1"]
    host.up = False
    fleet.delivery.add(fleet.b1, [A])
    source, added, error, moved = fleet.next()
    assert source is fleet.b1 and added == [[A]] and moved == 0
    assert isinstance(error, NoInput) and error.holder is fleet.b1 and error.lost
    host.up = True
    fleet.delivery.add(fleet.b1, [A])
    assert fleet.next()[2] is None and A in fleet.world.here.valid


def test_a_destination_that_takes_nothing(fleet: Fleet) -> None:
    fleet.world.here.up = False
    fleet.delivery.add(fleet.b1, [A])
    assert isinstance(fleet.next()[2], MachineTrouble)


def test_what_comes_behind_waits_for_company(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "PAUSE", 60)
    fleet.delivery.add(fleet.b1, [A])
    assert fleet.next()[1] == [[A]]
    for path in (B, C):
        fleet.delivery.add(fleet.b1, [path])
    # Others do not wait for it.
    fleet.delivery.add(fleet.b2, [A])
    assert fleet.next()[:2] == (fleet.b2, [[A]])
    assert fleet.told.empty()
    fleet.delivery.hurry()
    assert fleet.next()[1:] == ([[B], [C]], None, 2 * len(NAR))
    fleet.delivery.add(fleet.b1, [A])
    assert fleet.next()[1] == [[A]]


def test_company_is_not_waited_for_too_long(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "PAUSE", 0.01)
    for path in (A, B):
        fleet.delivery.add(fleet.b1, [path])
        assert fleet.next()[1] == [[path]]
