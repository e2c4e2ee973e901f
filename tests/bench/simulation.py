# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real scheduler in virtual time: 100,000 derivations over 1,000 machines with features, as JSON.

Planning is what the scheduler itself uses of one core: its construction and every call. The makespan stands beside a
lower bound, which no schedule can beat: the longest chain with each step on the fastest machine that may take it, or,
for each set of up to four classes, their work shared without loss by all machines that may take any of them. Moving
inputs counts as time in the makespan, not in the bound.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import random
import sys
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests/unit"))
    # Makes this checkout importable.
    __import__("conftest")

from ansible_collections.nixfleet.builders.plugins.module_utils.scheduler import (
    BYTES_PER_SECOND,
    Candidate,
    Outcome,
    Policy,
    Requirement,
    Scheduler,
    Step,
)

DERIVATIONS = 100_000
MACHINES = 1_000
SEED = 3
PLANNING_SECONDS = 60.0
STRETCH = 1.10

Json = dict[str, t.Any]
#: A class of steps: a system and the features it requires.
Class = tuple[str, frozenset[str]]


@dataclass(frozen=True)
class Host:
    """What a simulated machine offers."""

    systems: frozenset[str]
    features: frozenset[str]
    mandatory: frozenset[str]

    def takes(self, asked: Class) -> bool:
        """Nix's rule (reference 2.4)."""
        system, features = asked
        return system in self.systems and features <= self.features | self.mandatory and self.mandatory <= features


@dataclass(frozen=True)
class World:
    """A fleet and a graph."""

    candidates: list[Candidate]
    hosts: dict[str, Host]
    steps: list[Step]
    sizes: dict[str, int]
    outputs: dict[str, dict[str, int]]

    def may_take(self, candidate: Candidate, requirement: Requirement) -> bool:
        """For the scheduler."""
        return self.hosts[candidate.key].takes(t.cast(Class, requirement))


def make_fleet(chance: random.Random, machines: int) -> tuple[list[Candidate], dict[str, Host]]:
    """Machines of two systems, four speeds, four sizes; a part with kvm, big-parallel or a mandatory benchmark."""
    candidates, hosts = [], {}
    for number in range(machines):
        key = f"ssh-ng://builder{number}"
        systems = {"x86_64-linux", "i686-linux"} if chance.random() < 0.75 else {"aarch64-linux"}
        shares = (("kvm", 0.4), ("big-parallel", 0.5), ("nixos-test", 0.3))
        features = {name for name, share in shares if chance.random() < share}
        mandatory = {"benchmark"} if chance.random() < 0.02 else set()
        hosts[key] = Host(frozenset(systems), frozenset(features), frozenset(mandatory))
        candidates.append(Candidate(key, chance.choice((2, 4, 4, 8)), chance.choice((0.5, 1.0, 1.0, 1.5, 2.0))))
    return candidates, hosts


CLASSES: tuple[tuple[float, Class], ...] = tuple(
    (weight * share, (system, frozenset(features)))
    for system, share in (("x86_64-linux", 0.7), ("aarch64-linux", 0.25), ("i686-linux", 0.05))
    for weight, features in (
        (0.80, ()),
        (0.10, ("big-parallel",)),
        (0.04, ("kvm",)),
        (0.04, ("kvm", "nixos-test")),
        (0.02, ("benchmark",)),
    )
)


def make_world(derivations: int, machines: int, layers: int, seed: int = SEED) -> World:
    """Random layers: each step needs one to four steps of the two before; durations are long-tailed, 5 to 600 s."""
    chance = random.Random(seed)
    candidates, hosts = make_fleet(chance, machines)
    weights = [weight for weight, _class in CLASSES]
    possible = [any(host.takes(asked) for host in hosts.values()) for _weight, asked in CLASSES]
    weights = [weight if fits else 0.0 for weight, fits in zip(weights, possible)]
    steps: list[Step] = []
    outputs: dict[str, dict[str, int]] = {}
    previous: list[int] = []
    width = max(1, derivations // layers)
    for first in range(0, derivations, width):
        layer = range(first, min(first + width, derivations))
        kinds = chance.choices(CLASSES, weights, k=len(layer))
        for number, (_weight, asked) in zip(layer, kinds):
            needs = {chance.choice(previous) for _unused in range(chance.randint(1, 4))} if previous else set()
            name = f"step{number}"
            path = f"/nix/store/{number:032d}-{name}"
            steps.append(
                Step(
                    id=f"{path}.drv",
                    requirement=asked,
                    dependencies=[steps[one].id for one in sorted(needs)],
                    duration=min(600.0, 5 + chance.expovariate(1 / 40)),
                    inputs=[steps[one].id[: -len(".drv")] for one in sorted(needs)],
                    name=name,
                )
            )
            outputs[steps[-1].id] = {path: int(chance.expovariate(1 / 20e6))}
        # Some of the layer before that one, so that chains do not all have the same number of steps.
        previous = [*layer, *previous[: width // 4]][: width + width // 4]
    return World(candidates, hosts, steps, {}, outputs)


def lower_bound(world: World) -> Json:
    """What no schedule can beat, in seconds."""
    classes = {t.cast(Class, step.requirement) for step in world.steps}
    takers = {one: [c for c in world.candidates if c.slots and world.hosts[c.key].takes(one)] for one in classes}
    fastest = {one: max(c.speed_factor for c in takers[one]) for one in classes}
    chains: dict[str, float] = {}
    work = dict.fromkeys(classes, 0.0)
    for step in world.steps:
        asked = t.cast(Class, step.requirement)
        before = max((chains[one] for one in step.dependencies), default=0.0)
        chains[step.id] = before + (step.duration or 1.0) / fastest[asked]
        work[asked] += step.duration or 1.0
    share = 0.0
    for size in range(1, min(4, len(classes)) + 1):
        for some in itertools.combinations(sorted(classes, key=str), size):
            machines = {c.key: c.slots * c.speed_factor for one in some for c in takers[one]}
            share = max(share, sum(work[one] for one in some) / sum(machines.values()))
    everything = {c.key: c.slots * c.speed_factor for one in classes for c in takers[one]}
    share = max(share, sum(work.values()) / sum(everything.values()))
    return {"chain": max(chains.values()), "work": share, "bound": max(*chains.values(), share)}


def run(world: World, policy: Policy) -> Json:
    """One run: the makespan in virtual seconds, the CPU seconds of planning, bytes moved."""
    clock = time.process_time
    start = clock()
    scheduler = Scheduler(world.candidates, world.steps, world.may_take, policy=policy)
    prepared = clock() - start
    planning = prepared
    by_id = {step.id: step for step in world.steps}
    speeds = {candidate.key: candidate.speed_factor for candidate in world.candidates}
    sizes: dict[str, int] = {}
    there: dict[str, set[str]] = {candidate.key: set() for candidate in world.candidates}
    now, moved, slowest_call = 0.0, 0, 0.0
    events: list[tuple[float, int, t.Any]] = []
    while not scheduler.done:
        start = clock()
        started = scheduler.assignments(now)
        taken = clock() - start
        planning, slowest_call = planning + taken, max(slowest_call, taken)
        for assignment in started:
            step = by_id[assignment.step]
            missing = sum(sizes[path] for path in step.inputs if path not in there[assignment.machine])
            there[assignment.machine].update(step.inputs)
            moved += missing
            takes = (step.duration or 1.0) / speeds[assignment.machine] + missing / BYTES_PER_SECOND
            heapq.heappush(events, (now + takes, assignment.serial, assignment))
        now, _serial, assignment = heapq.heappop(events)
        outputs = world.outputs[assignment.step]
        sizes.update(outputs)
        there[assignment.machine].update(outputs)
        start = clock()
        scheduler.finished(assignment, Outcome.BUILT, now, outputs=outputs)
        planning += clock() - start
    return {
        "makespan": round(now, 1),
        "planning_seconds": round(planning, 2),
        "prepare_seconds": round(prepared, 2),
        "slowest_call_seconds": round(slowest_call, 3),
        "moved_gigabytes": round(moved / 1e9, 1),
    }


def measure(derivations: int, machines: int, layers: int) -> Json:
    """Both policies on one world."""
    world = make_world(derivations, machines, layers)
    bound = lower_bound(world)
    result: Json = {
        "derivations": derivations,
        "machines": machines,
        "slots": sum(candidate.slots for candidate in world.candidates),
        "layers": layers,
        "classes": len({step.requirement for step in world.steps}),
        "lower_bound": {name: round(value, 1) for name, value in bound.items()},
    }
    policies: tuple[Policy, ...] = ("load", "nix")
    for policy in policies:
        result[policy] = run(world, policy)
        result[policy]["stretch"] = round(result[policy]["makespan"] / bound["bound"], 3)
    return result


def simulation(derivations: int = DERIVATIONS, machines: int = MACHINES) -> Json:
    """A wide graph, whose bound is the work, and a deep one, whose bound is the longest chain, beside the targets."""
    graphs = {"wide": measure(derivations, machines, 10), "deep": measure(derivations, machines, 100)}
    return {
        "graphs": graphs,
        "planning_target": PLANNING_SECONDS,
        "stretch_target": STRETCH,
        "ok": all(
            graph["load"]["planning_seconds"] <= PLANNING_SECONDS and graph["load"]["stretch"] <= STRETCH
            for graph in graphs.values()
        ),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--derivations", type=int, default=DERIVATIONS)
    parser.add_argument("--machines", type=int, default=MACHINES)
    parser.add_argument("--layers", type=int, help="one graph of so many layers instead of the two")
    given = parser.parse_args()
    if given.layers:
        print(json.dumps(measure(given.derivations, given.machines, given.layers), indent=2))
        return 0
    result = simulation(given.derivations, given.machines)
    print(json.dumps(result, indent=2))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
