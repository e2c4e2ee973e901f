# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who has what, on played hosts; whole runs are test_dispatch.py's."""

from __future__ import annotations

import queue
import threading
import typing as t
from collections.abc import Iterator

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import plan, whereabouts
from ansible_collections.nixfleet.builders.plugins.module_utils.run_records import (
    DispatchError,
    MachineRecord,
    Record,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.scheduler import (
    Assignment,
    Candidate,
    Outcome,
    Scheduler,
    Status,
    Step,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.site import Site
from ansible_collections.nixfleet.builders.plugins.module_utils.whereabouts import Whereabouts
from ansible_collections.nixfleet.builders.tests.support.played_fleet import Host, PlayedOpener, World, drv

LOW = drv("low")
TOP = drv("top", [LOW])
LIMIT = 20.0


class Fleet:
    """A run that wants TOP of two builders. What it is told is kept in told, what it is to do later in timers."""

    def __init__(self) -> None:
        self.world = World()
        self.world.know([TOP])
        self.now = 0.0
        self.news: queue.Queue[t.Callable[[], None]] = queue.Queue()
        self.timers: list[tuple[float, t.Callable[[], None]]] = []
        self.told: list[tuple[str, str]] = []
        self.owed: bool | None = None
        self.client = self._site(self.world.here)
        self.b1, self.b2 = (self._site(host) for host in self.world.hosts.values())
        client = t.cast("t.Any", PlayedOpener(self.world, self.world.here).open())
        planned = plan.make(client, {TOP.path: ()}, self.world.read_file)
        self.records = {path: Record(task) for path, task in planned.tasks.items()}
        self.machines = {name: MachineRecord(name, name, 1, 1.0) for name in ("b1", "b2")}
        self.scheduler = Scheduler(
            [Candidate("b1", 1), Candidate("b2", 1)],
            [Step(path, "", task.needs) for path, task in planned.tasks.items()],
            lambda candidate, requirement: True,
        )
        self.room = Whereabouts(self, self.client, planned, self.records, self.machines, self.scheduler, measures=True)

    def _site(self, host: Host) -> Site:
        return Site(host.name, host.name, PlayedOpener(self.world, host))

    def work(self, count: int = 1) -> None:
        """What threads have posted."""
        for _each in range(count):
            self.news.get(timeout=LIMIT)()

    def build(self, site: Site, made: t.Any = LOW) -> Assignment:
        """It is built there."""
        host = self.world.hosts[site.key]
        for path in made.outputs.values():
            host.add(path)
        (assignment,) = (each for each in self.scheduler.assignments(self.now) if each.step == made.path)
        self.scheduler.finished(assignment, Outcome.BUILT, self.now)
        self.records[made.path].status = "built"
        self.records[made.path].holder = site
        return assignment

    def status(self, made: t.Any = LOW) -> Status:
        return self.scheduler.status(made.path)

    # whereabouts.Run

    def clock(self) -> float:
        return self.now

    def post(self, function: t.Callable[[], None]) -> None:
        self.news.put(function)

    def later(self, seconds: float, function: t.Callable[[], None]) -> None:
        self.timers.append((seconds, function))

    def tell(self, kind: str, *, machine: str, text: str) -> None:
        self.told.append((kind, machine))

    def on_found(self, record: Record) -> None:
        self.told.append(("found", record.task.drv.name))

    def on_found_running(self, record: Record, site: Site) -> None:
        self.told.append(("running", site.key))

    def is_owed(self, record: Record) -> bool | None:
        return self.owed


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    fleet = Fleet()
    yield fleet
    for site in (fleet.client, fleet.b1, fleet.b2):
        site.close()


def up(fleet: Fleet, *sites: Site) -> None:
    """They answer, and say nothing of their load."""
    for site in sites:
        fleet.room.probe(site)
        fleet.work(2)
    del fleet.told[:]


def test_a_builder_that_has_something(fleet: Fleet) -> None:
    fleet.world.hosts["b1"].add(LOW.out)
    fleet.room.probe(fleet.b1)
    fleet.work(2)
    assert fleet.told == [("found", "low"), ("up", "b1")] and fleet.status() is Status.BUILT
    assert fleet.records[LOW.path].found and fleet.room.is_up(fleet.b1) and not fleet.room.is_up(fleet.b2)
    assert fleet.room.holder(LOW.out) is fleet.b1
    # Who has a path that nobody makes, and one that nobody has made.
    assert fleet.room.holder(LOW.path) is fleet.client and fleet.room.holder(TOP.out) is None
    fleet.client.presence.add([LOW.out])
    assert fleet.room.holder(LOW.out) is fleet.client


def test_a_builder_that_has_what_runs(fleet: Fleet) -> None:
    fleet.world.hosts["b2"].add(LOW.out)
    up(fleet, fleet.b1)
    fleet.scheduler.assignments(0)
    assert fleet.status() is Status.RUNNING
    fleet.room.probe(fleet.b2)
    fleet.work(2)
    assert fleet.told == [("running", "b2"), ("up", "b2")] and fleet.status() is Status.RUNNING


def test_a_builder_that_comes_back(fleet: Fleet) -> None:
    """With what it had, or without."""
    up(fleet, fleet.b1)
    fleet.build(fleet.b1)
    for there in (True, False):
        fleet.room.doubt(fleet.b1)
        record = fleet.records[LOW.path]
        assert record.doubted and not fleet.room.is_up(fleet.b1) and fleet.room.holder(LOW.out) is None
        assert fleet.status() is fleet.status(TOP) is Status.WAITING
        if not there:
            fleet.world.hosts["b1"].delete(LOW.out)
        fleet.work()
        assert not record.doubted and fleet.room.is_up(fleet.b1)
        assert (fleet.status(), fleet.status(TOP)) == (
            (Status.BUILT, Status.READY) if there else (Status.READY, Status.WAITING)
        )
        assert record.found is False
        record.status = "built"


def test_a_builder_that_does_not_come_back(fleet: Fleet) -> None:
    up(fleet, fleet.b1)
    fleet.build(fleet.b1)
    fleet.world.hosts["b1"].up = False
    for after, status in ((0.0, Status.WAITING), (1.0, Status.WAITING), (whereabouts.GRACE, Status.READY)):
        fleet.now = after
        fleet.room.doubt(fleet.b1)
        fleet.work()
        assert fleet.status() is status and fleet.told[-1] == ("down", "b1")
    assert "no route to host" in fleet.machines["b1"].trouble


@pytest.mark.parametrize("owed", [True, False])
def test_what_nobody_needs_of_a_lost_builder(fleet: Fleet, owed: bool) -> None:
    """Is not built again; what is to be brought is."""
    up(fleet, fleet.b1)
    fleet.build(fleet.b1)
    fleet.build(fleet.b1, TOP)
    fleet.owed = owed
    fleet.room.doubt(fleet.b1)
    assert fleet.records[TOP.path].doubted is owed
    fleet.work()


def test_what_another_has_too(fleet: Fleet) -> None:
    up(fleet, fleet.b1, fleet.b2)
    fleet.build(fleet.b1)
    fleet.b2.presence.add([LOW.out])
    fleet.room.doubt(fleet.b1)
    assert not fleet.records[LOW.path].doubted and fleet.room.holder(LOW.out) is fleet.b2
    fleet.work()


def test_a_builder_that_fails_while_it_is_asked_is_asked_again(fleet: Fleet) -> None:
    asked = []
    go_on = threading.Event()

    def fault(operation: str, request: t.Any) -> None:
        if operation == "open":
            asked.append(operation)
            assert go_on.wait(LIMIT)

    fleet.world.hosts["b1"].fault = fault
    fleet.room.probe(fleet.b1)
    fleet.room.doubt(fleet.b1)
    fleet.room.doubt(fleet.b1)
    go_on.set()
    fleet.work()
    assert not fleet.room.is_up(fleet.b1)
    fleet.work(2)
    assert fleet.room.is_up(fleet.b1) and len(asked) == 2


def test_a_client_that_is_lost(fleet: Fleet) -> None:
    fleet.world.here.up = False
    fleet.room.doubt(fleet.client)
    with pytest.raises(DispatchError, match="this host's own Nix store"):
        fleet.work()


def test_how_busy_builders_are(fleet: Fleet) -> None:
    host = fleet.world.hosts["b1"]
    host.load = b'{"cpus": 4}'
    up(fleet, fleet.b1, fleet.b2)
    assert fleet.machines["b1"].load is not None and fleet.machines["b2"].load is None
    ((seconds, again),) = fleet.timers
    assert seconds == whereabouts.LOAD_EVERY
    # What has answered once is asked again whatever it says.
    host.load = b""
    again()
    fleet.work()
    assert len(fleet.timers) == 2 and fleet.machines["b1"].load is not None
    # Not while it is away.
    host.up = False
    fleet.room.doubt(fleet.b1)
    fleet.work()
    fleet.timers[1][1]()
    fleet.work()
    assert len(fleet.timers) == 2
    host.up = True
    fleet.room.probe(fleet.b1)
    fleet.work(2)
    assert len(fleet.timers) == 3


@pytest.mark.parametrize("operation", ["open", "measure"])
def test_what_should_not_happen_ends_the_run(fleet: Fleet, operation: str) -> None:
    def fault(name: str, request: t.Any) -> None:
        if name == operation:
            raise RuntimeError("a bug")

    fleet.world.hosts["b1"].fault = fault
    fleet.room.probe(fleet.b1)
    with pytest.raises(RuntimeError, match="a bug"):
        fleet.work(2)
