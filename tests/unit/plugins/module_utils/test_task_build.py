# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One task on played hosts: where its inputs come from, how it is built, and whose fault it is when it is not."""

from __future__ import annotations

import itertools
import typing as t
from collections.abc import Iterator

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import derivation, protocol, task_build
from ansible_collections.nixfleet.builders.plugins.module_utils.channel import ChannelClosed
from ansible_collections.nixfleet.builders.plugins.module_utils.plan import Task
from ansible_collections.nixfleet.builders.plugins.module_utils.protocol import (
    BuildResult,
    BuildStatus,
    Event,
    LogLine,
    Phase,
    RemoteError,
    Started,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.scheduler import Assignment
from ansible_collections.nixfleet.builders.plugins.module_utils.site import Site
from ansible_collections.nixfleet.builders.plugins.module_utils.task_build import (
    Builder,
    BuildFailed,
    Built,
    Job,
    MachineTrouble,
    NoInput,
    bring,
)
from ansible_collections.nixfleet.builders.tests.support.played_fleet import (
    NAR,
    Drv,
    Host,
    PlayedOpener,
    PlayedPending,
    PlayedStore,
    World,
    drv,
    store_path,
)

SOURCE, LIB = store_path("source"), store_path("lib")
LOW = drv("low")
TOP = drv("top", [LOW], [SOURCE])
BUILDS = ("BuildDerivation", "BuildPathsWithResults")


class Store(PlayedStore):
    """Also tells what happens while it builds, and what it was asked for."""

    def __init__(self, fleet: Fleet, host: Host) -> None:
        super().__init__(fleet.world, host)
        self._fleet = fleet

    def queue(self, operation: protocol.Operation[t.Any, t.Any], request: t.Any, on_event: t.Any = None) -> t.Any:
        fleet = self._fleet
        fleet.asked.append((self._host.name, operation.name, request))
        pending = super().queue(operation, request, on_event)
        if operation.name not in BUILDS:
            return pending

        def answer() -> t.Any:
            reply = pending.result()
            for event in fleet.events:
                on_event(event)
            if fleet.result is None:
                return reply
            by_path = operation.name == "BuildPathsWithResults"
            return (protocol.KeyedBuildResult("", fleet.result),) if by_path else fleet.result

        return PlayedPending(answer)


class Opener(PlayedOpener):
    def __init__(self, fleet: Fleet, host: Host) -> None:
        super().__init__(fleet.world, host)
        self._fleet = fleet

    def open(self) -> t.Any:
        super().open()
        return Store(self._fleet, self._host)


class Fleet:
    """The client has SOURCE and LIB; b2 built LOW. asked: host, operation and request of what was queued, in order.

    events: what a build tells. result: of a build, where it is not to be the played one.
    """

    def __init__(self) -> None:
        self.world = World()
        self.here, self.host1, self.host2 = self.world.here, self.world.hosts["b1"], self.world.hosts["b2"]
        self.client, self.b1, self.b2 = (
            Site(host.name, f"builder {host.name}", Opener(self, host)) for host in (self.here, self.host1, self.host2)
        )
        self.world.know([TOP])
        self.here.add(LIB)
        self.here.add(SOURCE, [LIB])
        self.host2.add(LOW.out)
        self.holders: dict[str, Site | None] = {LOW.out: self.b2}
        self.asked: list[tuple[str, str, t.Any]] = []
        self.events: list[Event] = []
        self.result: BuildResult | None = None
        self.told: list[tuple[bool, str]] = []
        self._clock = itertools.count(1.0)

    def builder(self, builders_substitute: bool = False) -> Builder:
        return Builder(
            self.client,
            lambda path: self.holders.get(path, self.client),
            self.world.substitutable,
            builders_substitute,
            lambda: next(self._clock),
        )

    def job(self, site: Site, made: Drv = TOP) -> Job:
        parsed = derivation.read_graph({made.path: ()}, self.world.read_file, {made.path}).derivations[made.path]
        task = Task(
            drv=parsed,
            required=derivation.requirements(parsed),
            outputs=parsed.output_paths,
            wanted=frozenset(),
            inputs=tuple(sorted([*made.sources, *(each.out for each in made.needs)])),
            needs=(),
        )
        return Job(task, site, Assignment(made.path, site.key, 1))

    def run(self, job: Job, builders_substitute: bool = False) -> Built:
        return self.builder(builders_substitute).run(job, lambda told, begins: self.told.append((begins, told.phase)))

    def operations(self, host: str) -> list[str]:
        return [operation for name, operation, _request in self.asked if name == host]


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    fleet = Fleet()
    yield fleet
    for site in (fleet.client, fleet.b1, fleet.b2):
        site.close()


def fail(operation: str, error: Exception) -> t.Callable[[str, t.Any], None]:
    """A fault of a host's: whenever it is asked for this."""

    def fault(name: str, request: t.Any) -> None:
        if name == operation:
            raise error

    return fault


def result(status: BuildStatus, error: str = "") -> BuildResult:
    return BuildResult(status, error, 1, False, 5, 6, None, None, {})


# ---------------------------------------------------------------------------------------------------- as it should be


def test_inputs_come_from_where_they_are(fleet: Fleet) -> None:
    """With what they refer to; nothing by way of the client."""
    job = fleet.job(fleet.b1)
    built = fleet.run(job)
    assert built.result.status is BuildStatus.BUILT and [info.path for info in built.infos] == [TOP.out]
    assert fleet.host1.valid.keys() == {LIB, SOURCE, LOW.out, TOP.out}
    assert LOW.out not in fleet.here.valid and job.bytes_copied == 3 * len(NAR)
    assert fleet.b1.infos[TOP.out].references == (SOURCE, LOW.out)
    assert fleet.b1.presence.known([TOP.out, LOW.out, SOURCE]) == {TOP.out, LOW.out, SOURCE}
    assert job.ready == 1.0 and job.building == 0.0 and fleet.told == [(False, "")]


def test_outputs_are_protected_before_they_are_built(fleet: Fleet) -> None:
    fleet.run(fleet.job(fleet.b1))
    own = [(operation, request) for name, operation, request in fleet.asked if name == "b1"]
    at = [operation for operation, _request in own].index("BuildDerivation")
    assert own[at - 1] == ("AddTempRoot", TOP.out)
    assert own[at][1].drv_path == TOP.path and own[at][1].derivation.input_srcs == tuple(sorted([SOURCE, LOW.out]))
    assert own[at + 1 :] == [("QueryPathInfo", TOP.out)]


def test_inputs_that_are_known_to_be_there_are_not_looked_for(fleet: Fleet) -> None:
    for path in (LIB, SOURCE, LOW.out):
        fleet.host1.add(path)
        fleet.b1.presence.add([path])
    fleet.holders = {SOURCE: None, LOW.out: None}
    fleet.run(fleet.job(fleet.b1))
    assert fleet.here.opened == fleet.host2.opened == 0
    assert fleet.operations("b1") == ["AddTempRoot", "BuildDerivation", "QueryPathInfo"]


def test_the_client_builds_by_path(fleet: Fleet) -> None:
    """As it has the .drv file."""
    fleet.run(fleet.job(fleet.client))
    assert fleet.here.built == [TOP.path]
    requests = [request for _host, operation, request in fleet.asked if operation in BUILDS]
    assert requests == [protocol.BuildRequest((f"{TOP.path}!out",))]
    assert TOP.path not in fleet.here.received


@pytest.mark.parametrize("said", [True, False])
def test_a_builder_without_trust_builds_by_path(fleet: Fleet, said: bool) -> None:
    """Whether it says so when it is opened or refuses."""
    fleet.host1.trusted = False
    if said:
        fleet.b1.trusted = False
    fleet.run(fleet.job(fleet.b1))
    assert fleet.b1.trusted is False and fleet.host1.built == [TOP.path]
    assert TOP.path in fleet.host1.received
    found = [operation for operation in fleet.operations("b1") if operation in BUILDS]
    assert found == (["BuildPathsWithResults"] if said else ["BuildDerivation", "BuildPathsWithResults"])


def test_what_a_build_tells(fleet: Fleet) -> None:
    """Its newest lines, its phase, and when it begins: not the copying before it, and once."""
    fleet.events = [
        Started(1, 3, 100, "copying", (), 0),
        Phase(1, "early"),
        Started(2, 3, 105, "building", (), 0),
        Phase(2, "unpackPhase"),
        *(LogLine(2, f"line {number}") for number in range(task_build.LOG_LINES)),
        LogLine(2, "\x1b[31mred\x1b[0m"),
        LogLine(2, "x" * 5000),
        Phase(2, "buildPhase"),
        Started(3, 3, 105, "building", (), 0),
    ]
    job = fleet.job(fleet.b1)
    fleet.run(job)
    assert fleet.told == [(False, ""), (True, "early")] and (job.ready, job.building) == (1.0, 2.0)
    assert job.phase == "buildPhase"
    assert len(job.log) == task_build.LOG_LINES
    assert (job.log[0], job.log[-2], job.log[-1]) == ("line 2", "red", "x" * task_build.LOG_WIDTH)


# ---------------------------------------------------------------------------------------------------- failed builds


@pytest.mark.parametrize(
    ("status", "word"),
    [
        (BuildStatus.PERMANENT_FAILURE, "PermanentFailure"),
        (BuildStatus.OUTPUT_REJECTED, "OutputRejected"),
        (BuildStatus.CACHED_FAILURE, "CachedFailure"),
        (BuildStatus.TIMED_OUT, "TimedOut"),
        (BuildStatus.DEPENDENCY_FAILED, "DependencyFailed"),
        (BuildStatus.LOG_LIMIT_EXCEEDED, "LogLimitExceeded"),
        (BuildStatus.NOT_DETERMINISTIC, "NotDeterministic"),
        (BuildStatus.TRANSIENT_FAILURE, "TransientFailure"),
        (BuildStatus.MISC_FAILURE, ""),
        (BuildStatus.INPUT_REJECTED, ""),
        (BuildStatus.NO_SUBSTITUTERS, ""),
    ],
)
@pytest.mark.parametrize("here", [False, True])
def test_what_fails_anywhere_and_what_only_there(fleet: Fleet, status: BuildStatus, word: str, here: bool) -> None:
    fleet.result = result(status, "why not")
    with pytest.raises(BuildFailed if word else MachineTrouble, match="^why not$") as caught:
        fleet.run(fleet.job(fleet.client if here else fleet.b1))
    assert getattr(caught.value, "status", "") == word


FULL = "\nnote: build failure may have been caused by lack of free disk space"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (f"builder failed{FULL}", "builder failed"),
        (f"builder failed with exit code 1;\nlast 1 log lines:\n> no space{FULL}", "builder failed with exit code 1"),
        (f"Cannot build.\nReason: exit code 1.\nLast 1 log lines:\n> no{FULL}\n", "Cannot build.\nReason: exit code 1"),
    ],
)
def test_a_full_disk_is_the_machines(fleet: Fleet, message: str, reason: str) -> None:
    """As far as Nix tells: it says so where little is free after a failure."""
    fleet.result = result(BuildStatus.TRANSIENT_FAILURE, message)
    with pytest.raises(MachineTrouble) as caught:
        fleet.run(fleet.job(fleet.b1))
    assert str(caught.value) == f"{reason}; the disk there is full, which may be why"


def test_a_log_that_speaks_of_full_disks_is_no_proof(fleet: Fleet) -> None:
    message = f"builder failed;\nlast 2 log lines:\n> a{FULL}\n> b\nFor full logs, run: nix log"
    fleet.result = result(BuildStatus.TRANSIENT_FAILURE, message)
    with pytest.raises(BuildFailed):
        fleet.run(fleet.job(fleet.b1))
    fleet.result = result(BuildStatus.PERMANENT_FAILURE, f"builder failed{FULL}")
    with pytest.raises(BuildFailed):
        fleet.run(fleet.job(fleet.b1))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            "builder failed;\n       last 2 log lines:\n       > a\n       > b\n       For full logs",
            "builder failed",
        ),
        ("failed with exit code 1; last 1 log line:\n  a", "failed with exit code 1"),
        ("Cannot build.\nReason: exit code 1.\nLast 10 log lines:\n> a", "Cannot build.\nReason: exit code 1"),
        ("\x1b[31mfailed\x1b[0m", "failed"),
        ("", f"build of {TOP.path} on builder b1 failed (PermanentFailure)"),
    ],
)
def test_a_reason_without_the_log(fleet: Fleet, message: str, reason: str) -> None:
    fleet.result = result(BuildStatus.PERMANENT_FAILURE, message)
    with pytest.raises(BuildFailed) as caught:
        fleet.run(fleet.job(fleet.b1))
    assert str(caught.value) == reason


def test_outputs_that_are_not_there(fleet: Fleet) -> None:
    fleet.host1.fault = lambda operation, request: fleet.host1.delete(TOP.out) if operation == "QueryPathInfo" else None
    with pytest.raises(MachineTrouble, match="builder b1 says that it built top, but its outputs are not there"):
        fleet.run(fleet.job(fleet.b1))
    assert not fleet.b1.presence.known([TOP.out])


@pytest.mark.parametrize("phase", ["open", "AddMultipleToStore", "BuildDerivation", "QueryPathInfo"])
def test_a_builder_that_is_lost(fleet: Fleet, phase: str) -> None:
    fleet.host1.fault = fail(phase, ChannelClosed("b1", "gone"))
    with pytest.raises(MachineTrouble, match="b1: gone"):
        fleet.run(fleet.job(fleet.b1))


def test_a_store_that_refuses_is_in_trouble(fleet: Fleet) -> None:
    fleet.host1.fault = fail("BuildDerivation", RemoteError(0, "disk is full"))
    with pytest.raises(MachineTrouble, match="disk is full"):
        fleet.run(fleet.job(fleet.b1))
    assert fleet.b1.trusted is None


# ---------------------------------------------------------------------------------------------------- aborted


@pytest.mark.parametrize("timed_out", [False, True])
@pytest.mark.parametrize("phase", ["AddMultipleToStore", "BuildDerivation"])
def test_abort(fleet: Fleet, phase: str, timed_out: bool) -> None:
    """A build that takes too long has failed; any other may go elsewhere."""
    job = fleet.job(fleet.b1)
    fleet.host1.fault = lambda operation, request: job.abort("after 3 s", timed_out) if operation == phase else None
    with pytest.raises(BuildFailed if timed_out else MachineTrouble) as caught:
        fleet.run(job)
    assert job.aborted == "after 3 s"
    if isinstance(caught.value, BuildFailed):
        assert (str(caught.value), caught.value.status) == ("after 3 s", "TimedOut")


def test_aborted_before_it_began(fleet: Fleet) -> None:
    job = fleet.job(fleet.b1)
    job.abort("not wanted")
    with pytest.raises(MachineTrouble):
        fleet.run(job)
    assert not fleet.host1.built


# ---------------------------------------------------------------------------------------------------- inputs


def test_an_input_that_nobody_has(fleet: Fleet) -> None:
    fleet.holders[LOW.out] = None
    with pytest.raises(NoInput, match=f"nobody has {LOW.out} now") as caught:
        fleet.run(fleet.job(fleet.b1))
    assert (caught.value.path, caught.value.holder, caught.value.lost) == (LOW.out, None, False)


def test_an_input_that_the_builder_itself_should_have(fleet: Fleet) -> None:
    """It is asked, as what is known of it may be forgotten; and protected first."""
    fleet.holders[LOW.out] = fleet.b1
    with pytest.raises(NoInput, match="no longer there") as caught:
        fleet.run(fleet.job(fleet.b1))
    assert (caught.value.path, caught.value.holder, caught.value.lost) == (LOW.out, fleet.b1, False)
    assert fleet.operations("b1")[0] == "AddTempRoot"
    fleet.host1.add(LOW.out)
    fleet.run(fleet.job(fleet.b1))
    assert LOW.out not in fleet.host1.received and fleet.b1.presence.known([LOW.out])


@pytest.mark.parametrize("phase", ["open", "QueryPathInfo", "NarFromPath"])
def test_a_source_that_is_lost(fleet: Fleet, phase: str) -> None:
    """Is not the builder's fault."""
    fleet.host2.fault = fail(phase, ChannelClosed("b2", "gone"))
    with pytest.raises(NoInput, match="b2: gone") as caught:
        fleet.run(fleet.job(fleet.b1))
    assert caught.value.holder is fleet.b2 and caught.value.lost


def test_a_source_that_has_deleted_it(fleet: Fleet) -> None:
    fleet.host2.delete(LOW.out)
    with pytest.raises(NoInput) as caught:
        fleet.run(fleet.job(fleet.b1))
    assert (caught.value.path, caught.value.holder, caught.value.lost) == (LOW.out, fleet.b2, False)


def test_a_source_that_refuses(fleet: Fleet) -> None:
    fleet.host2.fault = fail("QueryPathInfo", RemoteError(0, "database is locked"))
    with pytest.raises(NoInput, match="database is locked") as caught:
        fleet.run(fleet.job(fleet.b1))
    assert caught.value.holder is fleet.b2 and not caught.value.lost


# ---------------------------------------------------------------------------------------------------- substituted


@pytest.fixture
def absent(fleet: Fleet) -> Fleet:
    """Nobody has LOW's output but the substituters."""
    fleet.host2.delete(LOW.out)
    fleet.holders[LOW.out] = fleet.client
    fleet.world.substitutable = {LOW.out}
    return fleet


def test_the_client_substitutes(absent: Fleet) -> None:
    absent.run(absent.job(absent.b1))
    assert LOW.out in absent.here.valid and LOW.out in absent.host1.received
    assert ("client", "AddTempRoot", LOW.out) in absent.asked
    assert absent.client.presence.known([LOW.out])


def test_the_client_substitutes_once(absent: Fleet) -> None:
    absent.here.add(LOW.out)
    absent.client.presence.add([LOW.out])
    absent.here.fault = fail("BuildPathsWithResults", RemoteError(0, "again"))
    absent.run(absent.job(absent.b1))
    assert LOW.out in absent.host1.received
    absent.builder().fetch([LOW.out])
    absent.builder().fetch([])


def test_builders_substitute(absent: Fleet) -> None:
    absent.run(absent.job(absent.b1), builders_substitute=True)
    assert LOW.out not in absent.here.valid and LOW.out not in absent.host1.received
    assert absent.b1.presence.known([LOW.out]) and ("b1", "AddTempRoot", LOW.out) in absent.asked


def test_builders_get_from_the_client_what_their_substituters_lack(absent: Fleet) -> None:
    find = absent.world.substitutable.copy()

    def fault(operation: str, request: t.Any) -> None:
        absent.world.substitutable.clear()

    absent.host1.fault = fault
    absent.here.fault = lambda operation, request: absent.world.substitutable.update(find)
    builder = Builder(absent.client, lambda path: absent.holders.get(path, absent.client), find, True, lambda: 1.0)
    builder.run(absent.job(absent.b1), lambda job, begins: None)
    assert LOW.out in absent.here.valid and LOW.out in absent.host1.received


def test_what_cannot_be_substituted_after_all(absent: Fleet) -> None:
    builder = Builder(absent.client, lambda path: absent.client, {LOW.out}, False, lambda: 1.0)
    absent.world.substitutable = set()
    with pytest.raises(NoInput, match="no substituter has") as caught:
        builder.run(absent.job(absent.b1), lambda job, begins: None)
    assert (caught.value.path, caught.value.holder, caught.value.lost) == (LOW.out, absent.client, False)
    assert not absent.client.presence.known([LOW.out])


@pytest.mark.parametrize(
    ("error", "lost"), [(ChannelClosed("client", "gone"), True), (RemoteError(0, "disk is full"), False)]
)
def test_a_client_that_cannot_substitute(absent: Fleet, error: Exception, lost: bool) -> None:
    absent.here.fault = fail("BuildPathsWithResults", error)
    with pytest.raises(NoInput, match=f"cannot substitute {LOW.out}: .*{error}") as caught:
        absent.builder().fetch([LOW.out])
    assert (caught.value.path, caught.value.holder, caught.value.lost) == (None, absent.client, lost)


# ---------------------------------------------------------------------------------------------------- bring


def test_bring_moves_what_is_not_there(fleet: Fleet) -> None:
    """What is behind a path that is there is there, too: it is not looked for."""
    base = store_path("base")
    fleet.here.add(base)
    fleet.here.add(LIB, [base])
    fleet.host1.add(LIB)
    fleet.b1.presence.add([LIB])
    assert bring(fleet.client, fleet.b1, None, [SOURCE], False) == len(NAR)
    assert fleet.host1.received == [SOURCE]
    opened = fleet.here.opened, fleet.host1.opened
    assert bring(fleet.client, fleet.b1, None, [SOURCE], False) == 0
    assert (fleet.here.opened, fleet.host1.opened) == opened and fleet.host1.received == [SOURCE]


def test_bring_tells_who_failed(fleet: Fleet) -> None:
    fleet.host1.up = False
    with pytest.raises(MachineTrouble, match="no route to host"):
        bring(fleet.client, fleet.b1, None, [SOURCE], False)
    fleet.host1.up = True
    fleet.here.fault = fail("NarFromPath", RemoteError(0, "cannot read it"))
    with pytest.raises(NoInput, match="cannot read it") as caught:
        bring(fleet.client, fleet.b1, None, [SOURCE], False)
    assert caught.value.holder is fleet.client and not caught.value.lost
    fleet.host1.fault = fail("AddMultipleToStore", RemoteError(0, "disk is full"))
    fleet.here.fault = lambda operation, request: None
    with pytest.raises(MachineTrouble, match="disk is full"):
        bring(fleet.client, fleet.b1, None, [SOURCE], False)
