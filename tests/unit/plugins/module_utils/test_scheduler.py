# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who builds what next: the choice, failures, and random runs played to their end."""

from __future__ import annotations

import random
import struct
import typing as t

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import scheduler as room
from ansible_collections.nixfleet.builders.plugins.module_utils.scheduler import (
    Assignment,
    Candidate,
    Load,
    Outcome,
    Scheduler,
    SchedulerError,
    Status,
    Step,
)
from hypothesis import given, settings
from hypothesis import strategies as st

BUILT, FAILED, LOST = Outcome.BUILT, Outcome.FAILED, Outcome.LOST


def anything(_candidate: Candidate, _requirement: object) -> bool:
    return True


def by_name(candidate: Candidate, requirement: object) -> bool:
    """A requirement is the set of the machines that may take it."""
    return candidate.key in t.cast("frozenset[str]", requirement)


def machines(*slots: int, **speeds: float) -> list[Candidate]:
    """m0, m1... with so many slots each, or the named ones with one slot and their speed."""
    return [Candidate(f"m{number}", count) for number, count in enumerate(slots)] + [
        Candidate(name, 1, speed) for name, speed in speeds.items()
    ]


def chain(*names: str) -> list[Step]:
    """Each needs the one before."""
    return [Step(name, "any", names[number - 1 : number] if number else ()) for number, name in enumerate(names)]


def loose(*names: str, **more: t.Any) -> list[Step]:
    return [Step(name, "any", name=name, **more) for name in names]


def pairs(assignments: t.Iterable[Assignment]) -> list[tuple[str, str]]:
    return [(one.step, one.machine) for one in assignments]


# ---------------------------------------------------------------------------------------------------- the graph


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ([Step("a", "x"), Step("a", "x")], "a step is there twice"),
        ([Step("a", "x", ["b"])], "a needs b, which is not among the steps"),
        ([Step("c", "x"), Step("a", "x", ["b"]), Step("b", "x", ["a"])], "a and others need each other"),
        ([Step("a", "x", ["a"])], "a and others need each other"),
    ],
)
def test_what_is_no_graph_is_refused(steps: list[Step], text: str) -> None:
    with pytest.raises(SchedulerError, match=text):
        Scheduler(machines(1), steps, anything)


def test_a_machine_may_not_be_there_twice() -> None:
    with pytest.raises(SchedulerError, match="a machine is there twice"):
        Scheduler([Candidate("m", 1), Candidate("m", 1)], [], anything)


def test_nothing_to_do_is_done() -> None:
    run = Scheduler(machines(1), [], anything)
    assert run.done and run.assignments(0) == [] and run.next_wakeup(0) is None


def test_a_step_starts_after_what_it_needs() -> None:
    run = Scheduler(machines(4), chain("a", "b"), anything)
    (first,) = run.assignments(0)
    assert first[:2] == ("a", "m0") and run.assignments(0) == []
    assert run.finished(first, BUILT, 1)
    assert pairs(run.assignments(1)) == [("b", "m0")]
    assert not run.done


def test_a_chain_of_20_000_steps_needs_no_deep_stack() -> None:
    run = Scheduler(machines(1), chain(*map(str, range(20_000))), anything)
    assert run.priority("0") == 20_000
    (first,) = run.assignments(0)
    run.finished(first, FAILED, 1, "no")
    assert run.done and run.counts()[Status.CANCELLED] == 19_999


def test_the_longest_chain_comes_first() -> None:
    steps = [Step("short", "any", duration=3), *chain("a", "b", "c"), Step("long", "any", duration=2)]
    run = Scheduler(machines(2), steps, anything)
    assert run.priority("a") == 3 and run.priority("c") == 1
    (one,) = chain("a")
    assert {step for step, _machine in pairs(run.assignments(0))} == {"short", one.id}


def test_chains_are_counted_on_the_fastest_machine() -> None:
    steps = [Step("a", "any", duration=4), Step("b", "any", ["a"], duration=6)]
    assert Scheduler(machines(slow=0.5, fast=2.0), steps, anything).priority("a") == 5


def test_a_step_that_nobody_may_take_has_failed_from_the_start() -> None:
    steps = [Step("a", frozenset()), Step("b", frozenset({"m0"}), ["a"]), Step("c", frozenset({"m0"}))]
    run = Scheduler(machines(1), steps, by_name, keep_going=True)
    assert [(one.step, one.status, one.reason) for one in run.ended()] == [
        ("a", Status.FAILED, "no machine may take it"),
        ("b", Status.CANCELLED, "a, which it needs, failed"),
    ]
    assert pairs(run.assignments(0)) == [("c", "m0")]


def test_a_machine_without_slots_takes_nothing() -> None:
    run = Scheduler(machines(0), loose("a"), anything)
    assert run.done and run.status("a") is Status.FAILED


# ---------------------------------------------------------------------------------------------------- the choice: load


def test_the_fastest_comes_first_then_the_less_crowded() -> None:
    run = Scheduler([Candidate("slow", 2), Candidate("fast", 2, 2.0)], loose(*"abcd"), anything)
    assert [machine for _step, machine in pairs(run.assignments(0))] == ["fast", "fast", "slow", "slow"]
    run = Scheduler(machines(2, 2), loose(*"abcd"), anything)
    assert [machine for _step, machine in pairs(run.assignments(0))] == ["m0", "m1", "m0", "m1"]


@pytest.mark.parametrize(
    ("load", "slowdown"),
    [
        (Load(), 1),
        (Load(load_average=2, cpus=4), 1),
        (Load(load_average=8, cpus=4), 2),
        (Load(load_average=8), 1),
        (Load(load_average=1000, cpus=1), 10),
        (Load(pressure=50), 2),
        (Load(pressure=0, load_average=8, cpus=4), 1),
        (Load(pressure=100), 10),
    ],
)
def test_real_load_slows_down(load: Load, slowdown: float) -> None:
    assert load.slowdown == pytest.approx(slowdown)


def test_a_loaded_machine_comes_last() -> None:
    run = Scheduler(machines(1, 1), loose("a"), anything)
    run.observe("m0", Load(load_average=9, cpus=1))
    assert pairs(run.assignments(0)) == [("a", "m1")]


@pytest.mark.parametrize("load", [Load(free_memory=1 << 20), Load(free_disk=1 << 20)])
def test_a_starved_machine_gets_nothing_while_another_may_take_it(load: Load) -> None:
    run = Scheduler(machines(2, 1), loose("a", "b"), anything)
    run.observe("m0", load)
    assert [machine for _step, machine in pairs(run.assignments(0))] == ["m1"]
    run.lost("m1", 0, "gone", for_good=True)
    assert [machine for _step, machine in pairs(run.assignments(0))] == ["m0", "m0"]


def test_slots_that_others_hold_are_not_free() -> None:
    run = Scheduler(machines(3), loose(*"abc"), anything)
    run.observe("m0", held=2)
    assert len(run.assignments(0)) == 1
    run.observe("m0", held=0)
    assert len(run.assignments(0)) == 2


def test_a_step_goes_where_its_inputs_are() -> None:
    steps = [Step("a", "any", inputs=["/p", "/q"])]
    run = Scheduler(machines(1, 1, 1), steps, anything, sizes={"/p": 10**9, "/q": 10**8})
    run.holds("m1", ["/q"])
    run.holds("m2", ["/p"])
    assert pairs(run.assignments(0)) == [("a", "m2")]


def test_a_step_goes_where_what_it_needs_was_built() -> None:
    steps = [Step("a", "any"), Step("b", "any", ["a"], inputs=["/a"])]
    run = Scheduler(machines(1, 1, 1), steps, anything)
    run.observe("m0", Load(pressure=10))
    run.observe("m1", Load(pressure=5))
    (first,) = run.assignments(0)
    assert first.machine == "m2"
    run.observe("m2", Load(pressure=20))
    run.finished(first, BUILT, 1, outputs={"/a": 10**9})
    assert pairs(run.assignments(1)) == [("b", "m2")]


def test_few_bytes_do_not_outweigh_a_fast_machine() -> None:
    run = Scheduler(machines(slow=1, fast=4), [Step("a", "any", inputs=["/p"])], anything, sizes={"/p": 1000})
    run.holds("slow", ["/p"])
    assert pairs(run.assignments(0)) == [("a", "fast")]


def test_a_machine_that_others_need_is_left_to_them() -> None:
    fleet = [Candidate("fast", 2, 2.0), Candidate("slow", 1)]
    both, special = frozenset({"fast", "slow"}), frozenset({"fast"})
    assert pairs(Scheduler(fleet, [Step("a", both)], by_name).assignments(0)) == [("a", "fast")]
    waiting = [Step(f"k{n}", special, ["first"], duration=50) for n in range(10)]
    run = Scheduler(fleet, [Step("a", both), Step("first", special), *waiting], by_name)
    assert pairs(run.assignments(0)) == [("first", "fast"), ("a", "slow")]


def test_of_steps_as_urgent_those_that_fewer_machines_may_take_come_first() -> None:
    both, special = frozenset({"m0", "m1"}), frozenset({"m1"})
    behind = [Step("end", both, ["a", "b", "c", "d"])]
    steps = [Step("a", both), Step("b", both), Step("c", special), Step("d", special), *behind]
    run = Scheduler(machines(2, 2), steps, by_name)
    assert set(pairs(run.assignments(0))) == {("a", "m0"), ("b", "m0"), ("c", "m1"), ("d", "m1")}


def test_the_longest_chain_waits_for_a_much_faster_machine() -> None:
    steps = [Step("before", "any", duration=1), Step("long", "any", ["before"], duration=100)]
    steps += [Step("other", "any", duration=1.5)]
    run = Scheduler(machines(slow=0.1, fast=1), steps, anything)
    started = run.assignments(0)
    assert pairs(started) == [("before", "fast"), ("other", "slow")]
    run.finished(started[1], BUILT, 0.5)
    run.finished(started[0], BUILT, 1)
    assert pairs(run.assignments(1)) == [("long", "fast")]
    busy = Scheduler(
        machines(slow=0.1, fast=1), [Step("x", "any", duration=101), Step("y", "any", duration=100)], anything
    )
    assert pairs(busy.assignments(0)) == [("x", "fast")], "y ends sooner after x on the fast one than on the slow one"
    unknown = Scheduler(machines(slow=0.1, fast=1), loose("x", "y"), anything)
    assert len(unknown.assignments(0)) == 2, "nothing waits where durations are not known"


def test_local_is_one_of_the_machines_and_first_for_what_prefers_it() -> None:
    local = Candidate("local", 1, 1.0, local=True)
    fast = Candidate("fast", 2, 2.0)
    run = Scheduler([fast, local], [*loose("a"), *loose("p", "q", prefer_local=True)], anything)
    assert dict(pairs(run.assignments(0))) == {"p": "local", "a": "fast", "q": "fast"}


# ---------------------------------------------------------------------------------------------------- the choice: nix


def as_nix(load: list[int], slots: list[int], speeds: list[float], takes: list[bool]) -> int | None:
    """The reading of reference 2.4, with a plain loop; speeds and quotients are C++ floats."""

    def cfloat(value: float) -> float:
        return t.cast(float, struct.unpack("<f", struct.pack("<f", value))[0])

    best: int | None = None
    for number in range(len(load)):
        if not takes[number] or load[number] >= slots[number]:
            continue
        if best is None:
            best = number
            continue
        mine, its = cfloat(speeds[number]), cfloat(speeds[best])
        mine_share, its_share = cfloat(load[number] / mine), cfloat(load[best] / its)
        tie = mine_share == its_share
        if mine_share < its_share or (tie and (mine > its or (mine == its and load[number] < load[best]))):
            best = number
    return best


@pytest.mark.parametrize(
    ("speeds", "slots", "expected"),
    [
        ([1, 1], [2, 2], ["m0", "m1", "m0", "m1"]),
        ([1, 3, 2], [1, 1, 1], ["m1", "m2", "m0"]),
        ([1, 2], [2, 4], ["m1", "m0", "m1", "m1"]),
    ],
)
def test_nix_by_load_and_speed(speeds: list[float], slots: list[int], expected: list[str]) -> None:
    fleet = [Candidate(f"m{n}", count, speed) for n, (count, speed) in enumerate(zip(slots, speeds))]
    run = Scheduler(fleet, loose(*map(str, range(len(expected)))), anything, policy="nix")
    assert [machine for _step, machine in pairs(run.assignments(0))] == expected


def test_nix_compares_in_the_float_of_its_language() -> None:
    fleet = [Candidate("m0", 1, 16777216.0), Candidate("m1", 1, 16777217.0)]
    run = Scheduler(fleet, loose("a"), anything, policy="nix")
    assert pairs(run.assignments(0)) == [("a", "m0")], "both speeds are the same float"


def test_nix_builds_in_order_of_names() -> None:
    steps = [Step("/1-zebra.drv", "any", name="zebra", duration=99), Step("/2-ant.drv", "any", name="ant")]
    run = Scheduler(machines(1), steps, anything, policy="nix")
    assert pairs(run.assignments(0)) == [("/2-ant.drv", "m0")]


def test_nix_asks_machines_first_and_itself_when_all_are_full() -> None:
    fleet = [Candidate("local", 1, 9.0, local=True), Candidate("m", 1)]
    run = Scheduler(fleet, loose("a", "b", "c"), anything, policy="nix")
    assert pairs(run.assignments(0)) == [("a", "m"), ("b", "local")]
    run = Scheduler(fleet, loose("a", "b", prefer_local=True), anything, policy="nix")
    assert pairs(run.assignments(0)) == [("a", "local"), ("b", "m")]


def test_nix_knows_no_load_but_counts_slots_that_others_hold() -> None:
    run = Scheduler(machines(2, 2), loose("a", "b"), anything, policy="nix")
    run.observe("m0", Load(pressure=99, free_disk=0))
    assert pairs(run.assignments(0)) == [("a", "m0"), ("b", "m1")]
    run = Scheduler(machines(2, 2), loose("a"), anything, policy="nix")
    run.observe("m0", held=1)
    assert pairs(run.assignments(0)) == [("a", "m1")]


SPEEDS = st.sampled_from([0.1, 0.3, 0.5, 1.0, 1.5, 2.0, 3.0, 6.0, 7.0, 1e-3, 16777217.0]) | st.floats(0.01, 100)


@given(st.data())
@settings(max_examples=100)
def test_nix_agrees_with_a_plain_reading_of_its_rule(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 6))
    speeds = data.draw(st.lists(SPEEDS, min_size=size, max_size=size))
    slots = data.draw(st.lists(st.integers(1, 5), min_size=size, max_size=size))
    held = data.draw(st.lists(st.integers(0, 2), min_size=size, max_size=size))
    subsets = st.sets(st.integers(0, size - 1), min_size=1)
    steps = [
        Step(f"{n:02d}", frozenset(f"m{m}" for m in data.draw(subsets)), name=f"{n:02d}")
        for n in range(data.draw(st.integers(1, 15)))
    ]
    fleet = [Candidate(f"m{n}", count, speed) for n, (count, speed) in enumerate(zip(slots, speeds))]
    run = Scheduler(fleet, steps, by_name, policy="nix")
    for number, count in enumerate(held):
        run.observe(f"m{number}", held=count)
    loads = list(held)
    waiting = list(steps)
    running: list[Assignment] = []
    now = 0.0
    while waiting:
        expected = []
        for step in list(waiting):
            takes = [by_name(candidate, step.requirement) for candidate in fleet]
            chosen = as_nix(loads, slots, speeds, takes)
            if chosen is not None:
                loads[chosen] += 1
                expected.append((step.id, f"m{chosen}"))
                waiting.remove(step)
        found = run.assignments(now)
        assert pairs(found) == expected
        running += found
        if not running:
            break  # what is left waits for slots that others hold
        ends = running.pop(data.draw(st.integers(0, len(running) - 1)))
        loads[int(ends.machine[1:])] -= 1
        now += 1
        run.finished(ends, BUILT, now)


# ---------------------------------------------------------------------------------------------------- failures


def test_a_build_failure_stops_what_did_not_start() -> None:
    run = Scheduler(machines(2), [*loose("a", "b", "c"), Step("d", "any", ["a"])], anything)
    a, b = run.assignments(0)
    run.finished(a, FAILED, 1, "exit code 1")
    assert run.assignments(1) == [] and not run.done
    run.finished(b, BUILT, 2)
    assert run.done
    ended = {one.step: (one.status, one.reason) for one in run.ended()}
    assert ended[a.step] == (Status.FAILED, "exit code 1") and ended[b.step][0] is Status.BUILT
    assert {status for step, (status, _why) in ended.items() if step not in (a.step, b.step)} == {Status.CANCELLED}
    assert run.ended() == []


def test_keep_going_builds_what_does_not_need_the_failed_one() -> None:
    steps = [*chain("a", "b", "c"), *loose("x", "y")]
    run = Scheduler(machines(1), steps, anything, keep_going=True)
    (a,) = run.assignments(0)
    run.finished(a, FAILED, 1)
    assert run.status("b") is run.status("c") is Status.CANCELLED
    for now in (1, 2):
        run.finished(run.assignments(now)[0], BUILT, now)
    assert run.done and run.counts()[Status.BUILT] == 2


def test_a_refused_step_goes_to_another_machine_that_may_take_it() -> None:
    """The machine that refuses it goes on with others; nothing waits."""
    refused = Outcome.REFUSED
    run = Scheduler(machines(1, 1), loose("a", "b"), anything, max_attempts=5)
    first, second = run.assignments(0)
    run.finished(first, refused, 0, "no signature")
    run.finished(second, BUILT, 1)
    (again,) = run.assignments(1)
    assert (again.step, again.machine) == (first.step, second.machine)
    run.finished(again, refused, 1, "nor here")
    assert run.done
    assert [ended.reason for ended in run.ended() if ended.step == first.step] == [
        f"refused by every machine that may take it: {first.machine}: no signature; {second.machine}: nor here"
    ]


def test_a_lost_step_goes_to_another_machine_while_there_is_one() -> None:
    run = Scheduler(machines(1, 1), loose("a"), anything, max_attempts=3)
    (first,) = run.assignments(0)
    run.finished(first, LOST, 0, "broken pipe")
    (second,) = run.assignments(0)
    assert (first.machine, second.machine) == ("m0", "m1")
    run.finished(second, LOST, 0, "no route")
    assert run.assignments(0) == [] and run.next_wakeup(0) == 1
    assert run.probes(1) == ["m0", "m1"]
    run.up("m0", 1)
    (third,) = run.assignments(1)
    run.finished(third, LOST, 2, "reset")
    assert run.done
    (ended,) = run.ended()
    assert ended.reason == "given up after 3 attempts: m0: broken pipe; m1: no route; m0: reset"
    assert run.attempts("a") == [("m0", "broken pipe"), ("m1", "no route"), ("m0", "reset")]


def test_a_step_lost_on_a_machine_waits_for_another_that_is_busy() -> None:
    run = Scheduler(machines(1, 1), loose("a", "b"), anything)
    a, b = run.assignments(0)
    run.finished(a, LOST, 0, "x")
    run.up(a.machine, 0.5)
    assert run.assignments(0.5) == []
    run.finished(b, BUILT, 1)
    assert pairs(run.assignments(1)) == [(a.step, b.machine)]


def test_a_lost_machine_gives_its_steps_back_and_late_news_do_not_count() -> None:
    run = Scheduler(machines(2, 1), loose("a", "b"), anything)
    started = run.assignments(0)
    on_m0 = next(one for one in started if one.machine == "m0")
    run.lost("m0", 1, "gone")
    assert run.status(on_m0.step) is Status.READY
    assert not run.finished(on_m0, BUILT, 2)
    assert not run.full(on_m0, 2)
    assert [one.machine for one in run.running] == ["m1"]


def test_a_machine_is_left_alone_for_a_growing_time_then_given_up() -> None:
    run = Scheduler(machines(1), loose("a"), anything)
    now, waits = 0.0, []
    run.lost("m0", now, "timeout")
    while (wake := run.next_wakeup(now)) is not None:
        assert run.probes(wake - 0.01) == [] and run.assignments(wake) == []
        assert run.probes(wake) == ["m0"] and run.probes(wake) == []
        waits.append(wake - now)
        now = wake
        run.lost("m0", now, "timeout")
    assert waits == [1, 2, 4, 8, 16, 32]
    assert run.done and run.ended()[0].reason == "no machine is left that may take it (m0: timeout)"


def test_jitter_lengthens_the_wait() -> None:
    run = Scheduler(machines(1), loose("a"), anything, jitter=lambda: 0.25)
    run.lost("m0", 10, "timeout")
    assert run.next_wakeup(10) == 11.25


def test_slots_that_break_together_are_one_failure() -> None:
    run = Scheduler(machines(3), loose(*"abc"), anything)
    for one in run.assignments(0):
        run.finished(one, LOST, 0, "reset")
    run.lost("m0", 0.5, "reset")
    assert run.next_wakeup(0) == 1


def test_after_a_failure_a_machine_gets_a_single_step_until_one_ends() -> None:
    run = Scheduler(machines(3), loose(*"abcd"), anything)
    run.lost("m0", 0, "timeout")
    assert run.probes(1) == ["m0"]
    run.up("m0", 1)
    (one,) = run.assignments(1)
    assert run.assignments(1) == []
    run.finished(one, BUILT, 2)
    assert len(run.assignments(2)) == 3
    run.lost("m0", 3, "again")
    assert run.next_wakeup(3) == 4, "a success begins the count anew"


def test_a_machine_that_is_wrong_for_good_is_not_tried_again() -> None:
    run = Scheduler(machines(1, 1), loose("a"), anything)
    run.lost("m0", 0, "host key changed", for_good=True)
    run.up("m0", 1)
    assert run.next_wakeup(0) is None
    assert pairs(run.assignments(1)) == [("a", "m1")]
    run.lost("m1", 1, "no login", for_good=True)
    assert run.done
    assert run.ended()[0].reason == "no machine is left that may take it (m0: host key changed; m1: no login)"


def test_a_held_machine_gets_nothing_before_it_is_up() -> None:
    run = Scheduler(machines(1), loose("a"), anything)
    run.hold("m0")
    assert run.assignments(0) == [] and run.next_wakeup(0) is None and run.probes(0) == []
    run.up("m0", 1)
    assert len(run.assignments(1)) == 1


def test_a_full_machine_is_asked_again_later_and_no_attempt_is_used() -> None:
    run = Scheduler(machines(2), loose("a", "b"), anything, max_attempts=1)
    now, waits = 0.0, []
    for _round in range(6):
        one, other = run.assignments(now)
        run.full(one, now)
        run.full(other, now)
        assert run.assignments(now) == []
        wake = run.next_wakeup(now)
        assert wake is not None
        waits.append(wake - now)
        now = wake
    assert waits == [0.25, 0.5, 1, 2, 4, 4]
    assert run.attempts("a") == [] and not run.ended()


def test_a_full_machine_is_asked_again_when_one_of_its_steps_ends() -> None:
    run = Scheduler(machines(2), loose("a", "b"), anything)
    one, other = run.assignments(0)
    run.full(other, 0)
    run.finished(one, BUILT, 0.1)
    assert pairs(run.assignments(0.1)) == [(other.step, "m0")]


def test_stopping_lets_end_what_runs_and_a_lost_one_is_not_tried_again() -> None:
    run = Scheduler(machines(2), loose(*"abc"), anything)
    one, other = run.assignments(0)
    run.stop("interrupted")
    assert run.assignments(0) == [] and not run.done
    run.finished(one, BUILT, 1)
    run.finished(other, LOST, 1, "x")
    assert run.done
    assert {one.reason for one in run.ended() if one.status is Status.CANCELLED} == {
        "interrupted",
        "the run was stopped",
    }


# ---------------------------------------------------------------------------------------------------- lost outputs


def test_what_is_there_already_is_not_built() -> None:
    run = Scheduler(machines(1), chain("a", "b", "c"), anything)
    run.found("a")
    (b,) = run.assignments(0)
    assert b.step == "b"
    run.found("b")
    assert run.status("b") is Status.RUNNING, "what runs is not taken back"
    run.found("c", "m0")
    assert [(one.step, one.machine) for one in run.ended()] == [("a", ""), ("c", "m0")]
    run.finished(b, BUILT, 1)
    assert run.done


def test_a_returned_step_uses_no_attempt_and_blames_nobody() -> None:
    run = Scheduler(machines(1), loose("a"), anything, max_attempts=1)
    (first,) = run.assignments(0)
    assert run.returned(first) and not run.returned(first)
    (second,) = run.assignments(0)
    assert second.serial != first.serial and run.attempts("a") == []


def test_a_doubted_step_holds_up_what_needs_it_until_it_is_found_or_built_again() -> None:
    for again in (False, True):
        run = Scheduler(machines(1), chain("a", "b"), anything)
        (a,) = run.assignments(0)
        run.finished(a, BUILT, 1)
        run.doubt("a")
        assert run.assignments(1) == [] and not run.done
        if again:
            run.again("a")
            (a,) = run.assignments(1)
            assert a.step == "a"
            run.finished(a, BUILT, 2)
        else:
            run.found("a", "m0")
        assert pairs(run.assignments(2)) == [("b", "m0")]


def test_a_doubt_that_comes_with_a_stop_ends_once() -> None:
    run = Scheduler(machines(1), chain("a", "b"), anything)
    (a,) = run.assignments(0)
    run.finished(a, BUILT, 1)
    run.doubt("a")
    run.stop("interrupted")
    run.again("a")
    assert run.done and [one.step for one in run.ended()] == ["a", "a", "b"]


def test_a_doubted_step_that_was_cancelled_is_not_built_again() -> None:
    run = Scheduler(machines(1), chain("a", "b", "c"), anything, keep_going=True)
    for now in (0, 1):
        run.finished(run.assignments(now)[0], BUILT, now)
    run.doubt("b")
    run.doubt("a")
    run.again("a")
    (a,) = run.assignments(2)
    run.finished(a, FAILED, 3)
    assert run.status("b") is Status.CANCELLED
    run.again("b")
    assert run.done and run.assignments(3) == []


# ---------------------------------------------------------------------------------------------------- random runs


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Candidate], list[Step]]:
    size = draw(st.integers(1, 5))
    fleet = [
        Candidate(f"m{n}", draw(st.integers(1, 3)), draw(st.sampled_from([0.5, 1.0, 2.0])), local=n == 3)
        for n in range(size)
    ]
    steps: list[Step] = []
    for number in range(draw(st.integers(0, 25))):
        before = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        steps.append(
            Step(
                f"s{number}",
                frozenset(f"m{m}" for m in draw(st.sets(st.integers(0, size - 1), min_size=1))),
                [f"s{one}" for one in before],
                draw(st.sampled_from([None, 0.0, 1.0, 5.0, 50.0])),
                [f"/s{one}" for one in before],
                draw(st.booleans()),
                f"name{number % 3}",
            )
        )
    return fleet, steps


POLICIES = st.sampled_from(["load", "nix"])


@given(worlds(), POLICIES, st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_without_failures_every_step_is_built_once(
    world: tuple[list[Candidate], list[Step]], policy: room.Policy, chance: random.Random
) -> None:
    fleet, steps = world
    run = Scheduler(fleet, steps, by_name, policy=policy)
    slots = {candidate.key: candidate.slots for candidate in fleet}
    by_id = {step.id: step for step in steps}
    running: list[Assignment] = []
    built: list[str] = []
    now = 0.0
    while not run.done:
        for one in run.assignments(now):
            running.append(one)
            assert one.machine in t.cast("frozenset[str]", by_id[one.step].requirement)
            assert set(by_id[one.step].dependencies) <= set(built)
            assert sum(other.machine == one.machine for other in running) <= slots[one.machine]
        assert running, "nothing runs, nothing fails, and it is not done"
        one = running.pop(chance.randrange(len(running)))
        built.append(one.step)
        now += 1
        run.finished(one, BUILT, now, outputs={f"/{one.step}": chance.randrange(10**9)})
    assert sorted(built) == sorted(by_id) and not running
    assert all(run.status(step) is Status.BUILT for step in by_id)


@given(worlds(), POLICIES, st.booleans(), st.integers(1, 4), st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_with_losses_and_failures_a_run_ends_and_its_accounts_are_right(
    world: tuple[list[Candidate], list[Step]],
    policy: room.Policy,
    keep_going: bool,
    max_attempts: int,
    chance: random.Random,
) -> None:
    fleet, steps = world
    run = Scheduler(fleet, steps, by_name, policy=policy, keep_going=keep_going, max_attempts=max_attempts)
    slots = {candidate.key: candidate.slots for candidate in fleet}
    by_id = {step.id: step for step in steps}
    running: dict[str, Assignment] = {}
    attempts = dict.fromkeys(by_id, 0)
    ended: dict[str, room.Ended] = {}
    down: set[str] = set()
    doubted: list[str] = []
    ever_doubted: set[str] = set()
    failed_build = False
    now = 0.0
    for _round in range(5000):
        if run.done:
            break
        for machine in run.probes(now):
            if chance.random() < 0.5:
                down.discard(machine)
                run.up(machine, now)
            else:
                run.lost(machine, now, "still away")
        for one in run.assignments(now):
            assert one.step not in running and one.machine not in down
            assert one.machine in t.cast("frozenset[str]", by_id[one.step].requirement)
            assert keep_going or not failed_build
            running[one.step] = one
            assert sum(other.machine == one.machine for other in running.values()) <= slots[one.machine]
        assert {one.step: one for one in run.running} == running
        dice = chance.random()
        if running and dice < 0.8:
            one = running.pop(chance.choice(sorted(running)))
            if dice < 0.5:
                run.finished(one, BUILT, now, outputs={f"/{one.step}": 10**6})
                down.discard(one.machine)
            elif dice < 0.6:
                run.finished(one, FAILED, now, "exit 1")
                down.discard(one.machine)
                failed_build = True
            elif dice < 0.7:
                attempts[one.step] += 1
                run.finished(one, LOST, now, "reset")
                down.add(one.machine)
            elif dice < 0.75:
                run.full(one, now)
            else:
                run.returned(one)
        elif dice < 0.85 and ended:
            built = sorted(step for step in ended if run.status(step) is Status.BUILT)
            if built:
                doubted.append(chance.choice(built))
                ever_doubted.add(doubted[-1])
                run.doubt(doubted[-1])
        elif dice < 0.92:
            machine = chance.choice(fleet).key
            for step in [step for step, one in running.items() if one.machine == machine]:
                attempts[step] += 1
                del running[step]
            run.lost(machine, now, "away", for_good=chance.random() < 0.1)
            down.add(machine)
        else:
            run.observe(
                chance.choice(fleet).key, Load(free_disk=chance.choice([0, 1 << 40])), held=chance.choice([0, 0, 1])
            )
        while doubted and (not running or chance.random() < 0.3):
            chance.choice([run.again, run.found])(doubted.pop())
        wake = run.next_wakeup(now)
        now += 0.1
        if not running:
            if wake is None and not run.done and not run.assignments(now):
                # Only what others hold can be in the way.
                for candidate in fleet:
                    run.observe(candidate.key, Load(), held=0)
            else:
                for one in run.running:
                    running[one.step] = one
            now = max(now, wake or now)
        for news in run.ended():
            assert news.step not in ended or ended[news.step].status is Status.BUILT
            ended[news.step] = news
    assert run.done, "it never ends"
    for news in run.ended():
        ended[news.step] = news
    assert set(ended) == set(by_id) and not run.running
    for step in by_id.values():
        status = run.status(step.id)
        assert ended[step.id].status is status
        assert len(run.attempts(step.id)) == attempts[step.id] <= max_attempts
        if status is Status.BUILT:
            # What was built of something that was lost later stays built.
            assert all(run.status(one) is Status.BUILT or one in ever_doubted for one in step.dependencies)
        else:
            assert ended[step.id].reason


# ---------------------------------------------------------------------------------------------------- many


def test_a_large_run_plans_quickly_and_close_to_the_bound() -> None:
    """A small sister of tests/bench/simulation.py; what it prints is what this room is held to."""
    from ansible_collections.nixfleet.builders.tests.bench.simulation import measure

    result = measure(5000, 60, 8)
    assert result["load"]["stretch"] <= 1.2 < result["nix"]["stretch"]
    assert result["load"]["planning_seconds"] <= 10
