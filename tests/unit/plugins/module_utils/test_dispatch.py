# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs over played hosts, with faults at every phase."""

from __future__ import annotations

import random
import threading
import time
import typing as t

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import dispatch, scheduler, whereabouts
from ansible_collections.nixfleet.builders.plugins.module_utils.channel import ChannelClosed
from ansible_collections.nixfleet.builders.plugins.module_utils.plan import PlanError
from ansible_collections.nixfleet.builders.plugins.module_utils.protocol import RemoteError
from ansible_collections.nixfleet.builders.plugins.module_utils.route import LocalMachine
from ansible_collections.nixfleet.builders.plugins.module_utils.slots import Slots
from ansible_collections.nixfleet.builders.tests.support.played_fleet import Drv, Host, World, drv, store_path

LIMIT = 20.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that are short."""
    for name, seconds in (("BACKOFF_FIRST", 0.02), ("BACKOFF_MOST", 0.1), ("FULL_FIRST", 0.01), ("FULL_MOST", 0.02)):
        monkeypatch.setattr(scheduler, name, seconds)
    monkeypatch.setattr(dispatch, "DELIVERY_PAUSE", 0.02)
    monkeypatch.setattr(whereabouts, "GRACE", 0.15)


def run(world: World, wanted: t.Iterable[Drv], local_jobs: int = 0, **options: t.Any) -> dispatch.Run:
    """A run; one that hangs fails the test."""
    wanted = list(wanted)
    world.know(wanted)
    events: list[dispatch.Event] = []
    options.setdefault("machines", world.machines())
    request = dispatch.Request(
        roots={each.path: () for each in wanted},
        client=LocalMachine("x86_64-linux", max_jobs=local_jobs),
        **options,
    )
    result: list[t.Any] = []

    def go() -> None:
        try:
            result.append(dispatch.run(request, world, world.read_file, time.monotonic, events.append))
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    thread.join(LIMIT)
    assert result, f"the run hangs; {events[-5:]}"
    if isinstance(result[0], BaseException):
        raise result[0]
    found: dispatch.Run = result[0]
    return found


def once(name: str, action: t.Callable[[], None]) -> t.Callable[[str, t.Any], None]:
    """A fault of a host's: at the first such operation."""
    left = [name]
    lock = threading.Lock()

    def fault(operation: str, request: t.Any) -> None:
        with lock:
            hit = operation in left
            if hit:
                left.remove(operation)
        if hit:
            action()

    return fault


def chain(*names: str, **options: t.Any) -> Drv:
    """Each needs the one before; the last one."""
    made: tuple[Drv, ...] = ()
    for name in names:
        made = (drv(name, made, [store_path("source")], **options),)
    return made[0]


# ---------------------------------------------------------------------------------------------------- without faults


def test_builds_on_all_and_brings_the_wanted_outputs() -> None:
    world = World()
    low = [drv(f"low{number}", sources=[store_path("source")]) for number in range(6)]
    top = drv("top", low, outputs=("out", "dev"))
    found = run(world, [top])
    assert found.success and found.changed
    assert sorted(world.built) == sorted(each.path for each in (*low, top))
    assert set(top.outputs.values()) <= world.here.valid.keys()
    # Each path travels at most once to a host.
    for host in (world.here, *world.hosts.values()):
        assert len(host.received) == len(set(host.received))
    again = run(world, [top])
    assert again.success and not again.changed and len(world.built) == 7


def test_only_wanted_outputs_come_back() -> None:
    world = World(["b1"])
    low = drv("low")
    top = drv("top", [low])
    for host in (world.here, *world.hosts.values()):
        host.fault = lambda operation, request: None
    found = run(world, [top])
    # top refers to low, so low comes as well.
    assert found.success and {low.out, top.out} <= world.here.valid.keys()
    alone = World(["b1"])
    assert run(alone, [top], destination="none").success
    assert top.out not in alone.here.valid and top.out in alone.hosts["b1"].valid


def test_what_builders_have_is_not_built_again() -> None:
    world = World()
    top = chain("a", "b", "c")
    assert run(world, [top], destination="none").changed
    found = run(world, [top], destination="none")
    assert found.success and not found.changed
    assert len(world.built) == 3
    assert run(world, [top]).success and len(world.built) == 3 and top.out in world.here.valid


def test_results_go_to_another_store() -> None:
    world = World()
    world.hosts["cache"] = Host("cache")
    top = chain("a", "b")
    found = run(world, [top], destination="ssh-ng://cache", machines=world.machines()[:2])
    assert found.success and top.out in world.hosts["cache"].valid and top.out not in world.here.valid


def test_the_client_builds_too() -> None:
    world = World([])
    top = chain("a", "b")
    found = run(world, [top], local_jobs=1)
    assert found.success and len(world.here.built) == 2
    assert [machine.label for machine in found.machines] == ["this host"]


def test_substitutable_paths_are_not_built() -> None:
    world = World(["b1"])
    low = drv("low")
    top = drv("top", [low])
    world.substitutable = {low.out}
    found = run(world, [top])
    assert found.success and world.built == [top.path] and low.out in world.here.valid
    world = World(["b1"])
    world.substitutable = {low.out, top.out}
    found = run(world, [top])
    assert found.success and found.changed and not world.built and top.out in world.here.valid


def test_builders_substitute_inputs_themselves() -> None:
    world = World(["b1"])
    low = drv("low")
    top = drv("top", [low])
    world.substitutable = {low.out}
    found = run(world, [top], builders_substitute=True, destination="none")
    assert found.success and low.out not in world.here.valid and low.out in world.hosts["b1"].valid


def test_features_decide_where() -> None:
    world = World()
    first, second = world.machines()
    machines = [first, type(second)(**{**vars(second), "supported_features": ("kvm",)})]
    needy = [drv(f"needy{number}", features="kvm") for number in range(4)]
    assert run(world, needy, machines=machines).success
    assert len(world.hosts["b2"].built) == 4


def test_what_nobody_takes_is_told_before_anything_is_built() -> None:
    world = World()
    with pytest.raises(PlanError, match="kvm"):
        run(world, [drv("fine"), drv("needy", features="kvm")])
    assert not world.built


@pytest.mark.parametrize("silent", [False, True])
def test_builders_without_trust_build_by_path(silent: bool) -> None:
    world = World(["b1"])
    world.hosts["b1"].trusted = None if silent else False
    world.hosts["b1"].silent_mistrust = silent  # type: ignore[attr-defined]
    top = chain("a", "b")
    assert run(world, [top]).success
    assert top.path in world.hosts["b1"].valid


# ---------------------------------------------------------------------------------------------------- failures


def test_a_failed_build_is_not_tried_elsewhere() -> None:
    world = World()
    bad = drv("bad", fails=True)
    top = drv("top", [bad])
    other = chain("x", "y")
    found = run(world, [top, other], keep_going=True)
    assert [record.task.drv.name for record in found.failed] == ["bad"]
    assert len(found.records[bad.path].attempts) == 1
    assert found.records[top.path].status == "cancelled" and not found.records[top.path].attempts
    assert other.out in world.here.valid and not found.success


def test_without_keep_going_the_others_end() -> None:
    world = World(["b1"])
    held = threading.Event()

    def fault(operation: str, request: t.Any) -> None:
        if operation == "BuildDerivation" and "slow" in request.drv_path:
            channels = list(world.hosts["b1"].channels)
            held.set()
            while not any(channel.aborted.wait(0.01) for channel in channels):
                pass
        if operation == "BuildDerivation" and "bad" in request.drv_path:
            held.wait(5)

    world.hosts["b1"].fault = fault
    slow, bad = drv("slow"), drv("bad", fails=True)
    found = run(world, [slow, bad])
    assert found.records[bad.path].status == "failed" and found.records[slow.path].status == "cancelled"


def test_a_build_that_takes_too_long_fails() -> None:
    world = World(["b1"])

    def fault(operation: str, request: t.Any) -> None:
        if operation == "BuildDerivation":
            channels = list(world.hosts["b1"].channels)
            while not any(channel.aborted.wait(0.01) for channel in channels):
                pass

    world.hosts["b1"].fault = fault
    slow = drv("slow")
    found = run(world, [slow], build_timeout=0.1)
    assert found.records[slow.path].status == "failed" and "0.1 s" in found.records[slow.path].error
    assert len(found.records[slow.path].attempts) == 1


# ---------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    "phase",
    ["open", "QueryValidPaths", "AddMultipleToStore", "BuildDerivation", "QueryPathInfo", "NarFromPath", "AddTempRoot"],
)
def test_a_builder_that_is_lost_at_any_phase(phase: str) -> None:
    world = World()
    host = world.hosts["b1"]
    host.fault = once(phase, host.down)
    wanted = [chain(f"a{number}", f"b{number}", f"c{number}") for number in range(4)]
    found = run(world, wanted)
    assert found.success, [record.error for record in found.records.values()]
    assert {each.out for each in wanted} <= world.here.valid.keys()


@pytest.mark.parametrize("phase", ["AddMultipleToStore", "BuildDerivation", "QueryPathInfo", "NarFromPath"])
@pytest.mark.parametrize("kept", [True, False])
def test_a_builder_that_comes_back(phase: str, kept: bool) -> None:
    """With what it had, or empty; alone, so that nobody else can do its work."""
    world = World(["b1"])
    host = world.hosts["b1"]

    def fault() -> None:
        host.down()
        if not kept:
            host.valid.clear()
        threading.Timer(0.1, lambda: setattr(host, "up", True)).start()

    host.fault = once(phase, fault)
    wanted = [chain(f"a{number}", f"b{number}", f"c{number}") for number in range(3)]
    found = run(world, wanted, max_attempts=8)
    assert found.success, [record.error for record in found.records.values()]
    if kept:
        assert len(world.built) == len(set(world.built))


def test_what_only_a_lost_builder_had_is_built_again() -> None:
    world = World(["b1", "b2"])
    gone = world.hosts["b1"]
    low = drv("low", features="one")
    top = drv("top", [low], features="two")
    first, second = world.machines()
    machines = [
        type(first)(**{**vars(first), "supported_features": ("one",)}),
        type(second)(**{**vars(second), "supported_features": ("one", "two"), "speed_factor": 0.1}),
    ]
    # It is lost when its output is fetched.
    gone.fault = once("NarFromPath", gone.down)
    found = run(world, [top], machines=machines)
    assert found.success
    assert gone.built == [low.path] and world.hosts["b2"].built == [low.path, top.path]


def test_an_output_that_a_builder_deleted_is_built_again() -> None:
    world = World(["b1", "b2"])
    low = drv("low", features="one")
    top = drv("top", [low], features="two")
    first, second = world.machines()
    machines = [
        type(first)(**{**vars(first), "supported_features": ("one",)}),
        type(second)(**{**vars(second), "supported_features": ("two",)}),
    ]
    host = world.hosts["b1"]
    host.fault = once("NarFromPath", lambda: host.delete(low.out))
    found = run(world, [top], machines=machines)
    assert found.success and host.built == [low.path, low.path]


def test_attempts_come_to_an_end() -> None:
    world = World(["b1", "b2", "b3"])

    def fault(operation: str, request: t.Any) -> None:
        if operation == "BuildDerivation":
            raise ChannelClosed("it", "killed")

    for host in world.hosts.values():
        host.fault = fault
    found = run(world, [drv("a")], max_attempts=3)
    record = next(iter(found.records.values()))
    assert record.status == "failed" and len(record.attempts) == 3 and "3 attempts" in record.error


def test_no_builder_can_be_reached() -> None:
    world = World()
    for host in world.hosts.values():
        host.up = False
    found = run(world, [chain("a", "b")])
    assert not found.success and "no route to host" in found.failed[0].error


def test_an_unreachable_builder_costs_the_others_nothing() -> None:
    world = World()
    world.hosts["b1"].fault = lambda operation, request: time.sleep(30)
    start = time.monotonic()
    assert run(world, [drv(f"a{number}") for number in range(5)]).success
    assert time.monotonic() - start < 5


def test_the_clients_store_fails_for_a_moment() -> None:
    world = World()
    here = world.here
    here.fault = once("AddMultipleToStore", lambda: [channel.abort() for channel in here.channels] and None)  # type: ignore[func-returns-value]
    wanted = [drv(f"a{number}") for number in range(4)]
    assert run(world, wanted).success
    assert {each.out for each in wanted} <= here.valid.keys()


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (RemoteError(0, "No space left on device"), dispatch.REFUSALS + 1),
        (ChannelClosed("client", "No space left on device"), dispatch.DELIVERIES + 1),
    ],
)
def test_the_clients_store_takes_nothing(error: Exception, tries: int) -> None:
    """What it answers is believed sooner than a lost connection."""
    world = World()
    asked = []

    def fault(operation: str, request: t.Any) -> None:
        if operation == "AddMultipleToStore":
            asked.append(request)
            raise error

    world.here.fault = fault
    with pytest.raises(dispatch.DispatchError, match="cannot be brought: .*No space left"):
        run(world, [drv("a")])
    assert len(asked) == tries


def test_slots_that_others_hold_are_waited_for(tmp_path: t.Any) -> None:
    world = World(["b1"])
    machines = world.machines(max_jobs=1)
    others = Slots(str(tmp_path))
    with others.choosing() as choice:
        lock = choice.take(machines[0].uri, 1)
    assert lock is not None
    threading.Timer(0.3, lock.release).start()
    start = time.monotonic()
    found = run(world, [chain("a", "b")], machines=machines, slots=Slots(str(tmp_path)))
    assert found.success and time.monotonic() - start > 0.25
    with others.choosing() as choice:
        assert choice.take(machines[0].uri, 1) is not None


# ---------------------------------------------------------------------------------------------------- signatures


UNSIGNED = "cannot add path '{}' because it lacks a signature by a trusted key"


def refuses(host: Host) -> None:
    """A builder that takes nothing without a signature."""

    def fault(operation: str, request: t.Any) -> None:
        if operation == "AddMultipleToStore":
            raise RemoteError(0, UNSIGNED.format(request))

    host.fault = fault


def test_an_unsigned_input_goes_to_who_takes_it() -> None:
    world = World()
    refuses(world.hosts["b1"])
    made = drv("made", sources=[store_path("source")])
    first, second = world.machines()
    found = run(world, [made], machines=[type(first)(**{**vars(first), "speed_factor": 10.0}), second])
    assert found.success and world.hosts["b2"].built == [made.path]
    (refused, built) = found.records[made.path].attempts
    assert refused.outcome == "lost" and "lacks a signature" in refused.reason and built.outcome == "built"
    # The builder is not left alone for it.
    assert world.hosts["b1"].opened == 1


def test_an_unsigned_input_that_nobody_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "BACKOFF_FIRST", 60)
    world = World()
    for host in world.hosts.values():
        refuses(host)
    source = store_path("source")
    made = drv("made", sources=[source])
    world.know([made])
    world.here.valid[source] = world.here.valid[source]._replace(signatures=("client1-client-1:c2ln",))
    found = run(world, [made], max_attempts=5)
    (failed,) = found.failed
    assert [each.machine for each in failed.attempts] in (
        ["ssh-ng://b1", "ssh-ng://b2"],
        ["ssh-ng://b2", "ssh-ng://b1"],
    )
    assert "refused by every machine that may take it" in failed.error
    assert source in failed.error and "signed by client1-client-1: trust that key there" in failed.error


def test_results_that_the_client_refuses() -> None:
    world = World()
    refuses(world.here)
    start = time.monotonic()
    with pytest.raises(
        dispatch.DispatchError, match="what was built cannot be brought: .* has no signature of that path"
    ):
        run(world, [drv("made")])
    assert time.monotonic() - start < LIMIT / 2 and len(world.built) == 1


# ---------------------------------------------------------------------------------------------------- late answers


def test_a_builder_that_answers_late_and_has_it_already() -> None:
    """What is being built elsewhere for want of its answer ends there."""
    world = World()
    made = drv("made")
    top = drv("top", [made])
    late, other = world.hosts["b1"], world.hosts["b2"]
    world.know([top])
    late.add(made.out)
    building = threading.Event()

    def slow(operation: str, request: t.Any) -> None:
        if operation == "open":
            assert building.wait(LIMIT)

    def long(operation: str, request: t.Any) -> None:
        if operation == "BuildDerivation" and request.drv_path == made.path:
            building.set()
            for _each in range(1000):
                time.sleep(0.01)
                if any(channel.aborted.is_set() for channel in other.channels):
                    return

    late.fault, other.fault = slow, long
    found = run(world, [top])
    assert found.success and made.path not in world.built and world.built == [top.path]
    record = found.records[made.path]
    assert record.found and [each.outcome for each in record.attempts] == ["returned"]
    assert record.attempts[0].reason == "b1 has it already"


# ---------------------------------------------------------------------------------------------------- load


IDLE = b'{"load": [0, 0, 0], "cpus": 4, "pressure": {"cpu": 0}}'
BUSY = b'{"load": [40, 0, 0], "cpus": 4, "pressure": {"cpu": 90}}'
FULL = b'{"store": {"free": 1000, "total": 2000}}'


def asked(host: Host) -> list[float]:
    """When the host's load probe is asked."""
    times: list[float] = []

    def fault(operation: str, request: t.Any) -> None:
        if operation == "measure":
            times.append(time.monotonic())

    host.fault = fault
    return times


@pytest.mark.parametrize("trouble", [BUSY, FULL])
def test_builders_that_are_busy_get_less(trouble: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whereabouts, "LOAD_EVERY", 0.02)
    world = World()
    first, second = world.hosts.values()
    first.load, second.load = trouble, IDLE
    asked(first)
    machines = world.machines(max_jobs=1)

    def slow(operation: str, request: t.Any) -> None:
        if operation == "BuildDerivation":
            time.sleep(0.1)

    second.fault = slow
    # At first it is not known.
    top = chain(*(f"a{number}" for number in range(6)))
    found = run(world, [top], machines=machines)
    assert found.success and len(second.built) >= 5
    loads = {machine.label: machine.load for machine in found.machines}
    assert loads["b2"] == scheduler.Load(load_average=0, cpus=4, pressure=0)
    assert loads["b1"] is not None and (loads["b1"].slowdown == pytest.approx(10) or loads["b1"].starved)


def test_a_builder_without_a_load_probe_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whereabouts, "LOAD_EVERY", 0.01)
    world = World()
    times = {name: asked(host) for name, host in world.hosts.items()}
    world.hosts["b1"].load = IDLE
    world.hosts["b2"].load = b"nixfleet-load: not found"
    wait = world.here
    wait.fault = lambda operation, request: time.sleep(0.2) if operation == "AddMultipleToStore" else None
    found = run(world, [chain("a", "b", "c")])
    assert found.success and len(times["b1"]) > 3 and len(times["b2"]) == 1
    assert {machine.label: machine.load is None for machine in found.machines} == {"b1": False, "b2": True}


def test_a_load_probe_that_fails_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whereabouts, "LOAD_EVERY", 0.01)
    world = World(["b1"])
    host = world.hosts["b1"]
    times = asked(host)
    noted = host.fault

    def fault(operation: str, request: t.Any) -> None:
        noted(operation, request)
        if operation == "measure":
            host.load = b"" if len(times) == 2 else IDLE
            if len(times) == 3:
                raise ChannelClosed("b1", "no room")

    host.fault = fault
    world.here.fault = lambda operation, request: time.sleep(0.2) if operation == "AddMultipleToStore" else None
    assert run(world, [drv("a")]).success and len(times) > 4


def test_policy_nix_asks_no_load_probe() -> None:
    world = World()
    times = [asked(host) for host in world.hosts.values()]
    assert run(world, [drv("a")], policy="nix").success and times == [[], []]


def test_a_silent_load_probe_costs_the_others_nothing() -> None:
    world = World()

    def fault(operation: str, request: t.Any) -> None:
        if operation == "measure":
            time.sleep(30)

    for host in world.hosts.values():
        host.fault = fault
    start = time.monotonic()
    assert run(world, [chain("a", "b")]).success and time.monotonic() - start < 5


@pytest.mark.parametrize("seed", range(25))
def test_a_storm(seed: int) -> None:
    """Builders fail and come back all the time, some of them empty; all is built in the end."""
    chance = random.Random(seed)
    world = World(["b1", "b2", "b3"])
    layers: list[list[Drv]] = [[drv(f"{seed}-0-{number}") for number in range(5)]]
    for layer in range(1, 5):
        below = [each for them in layers for each in them]
        layers.append([drv(f"{seed}-{layer}-{number}", chance.sample(below, 3)) for number in range(5)])
    left = [12]

    def storm(host: Host) -> t.Callable[[str, t.Any], None]:
        def fault(operation: str, request: t.Any) -> None:
            with world.lock:
                if left[0] <= 0 or chance.random() > 0.05:
                    return
                left[0] -= 1
                kind = chance.choice(["down", "channel", "empty", "delete"])
            if kind == "channel":
                raise ChannelClosed(host.name, "one channel broke")
            if kind == "delete" and host.valid:
                host.delete(chance.choice(sorted(host.valid)))
            elif kind in ("down", "empty"):
                host.down()
                if kind == "empty":
                    host.valid.clear()
                threading.Timer(0.05, lambda: setattr(host, "up", True)).start()

        return fault

    for host in world.hosts.values():
        host.fault = storm(host)
    found = run(world, layers[-1], max_attempts=20)
    assert found.success, {record.task.drv.name: record.error for record in found.records.values() if record.error}
    assert {each.out for each in layers[-1]} <= world.here.valid.keys()
