# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who builds what next: steps, machines with slots, and what happens to them.

Pure: time, load and jitter are handed in. Times and durations are seconds, sizes bytes. One thread at a time may call.

The caller tells what happened (finished, full, lost, up, observe, holds), then asks for assignments(now), for the
machines to try again, probes(now), for the steps that came to their end, ended(), and when to ask again without news,
next_wakeup().

What is kept makes an event cost about O(log n). Steps that the same machines may take share a queue; machines that may
take the same queues share a kind, whose free machines stand in a heap. A step so looks at one machine for each kind
that may take it, and at the few that hold its inputs.
"""

from __future__ import annotations

import enum
import heapq
import math
import struct
import typing as t
from dataclasses import dataclass

#: What a class of steps asks of a machine; any hashable value. Many steps share few.
Requirement = t.Hashable

#: C(load): the default. C(nix): the choice of Nix's own hook, 2.20 and newer.
Policy = t.Literal["load", "nix"]

#: A machine that failed is left alone for this long, then twice as long each time it fails again, at most the second.
BACKOFF_FIRST = 1.0
BACKOFF_MOST = 60.0
#: A machine that failed this often in a row is not tried again: about a minute, with the times above.
MACHINE_ATTEMPTS = 7
#: A machine that had no place is asked again after the first, then after twice as long each time, at most the second.
FULL_FIRST = 0.25
FULL_MOST = 4.0
#: A builder below either gets nothing while another that is not may take the step.
LOW_MEMORY = 256 << 20
LOW_DISK = 1 << 30
#: What is taken for the speed of a network when bytes are weighed against seconds of building.
BYTES_PER_SECOND = 100e6
#: How much slower a machine is taken to be when all its slots but one are busy.
CROWDING = 0.25
#: Paths that more machines hold say little about where to build; their holders are not looked at one by one.
FEW_HOLDERS = 8
#: How much longer a chain takes than if each step had the fastest machine at once; tried on tests/bench/simulation.py.
CHAIN_STRETCH = 4.0
#: How many steps start between two looks at which machines are in demand.
DEMAND_EVERY = 64
#: Machines whose speeds differ by less than this factor are of one kind.
SAME_SPEED = 1.25
#: How many steps of a queue are passed over in one round, because they wait for a better machine.
ASIDE_MOST = 8
#: How many machines a message names.
TOLD_MOST = 5


class SchedulerError(ValueError):
    """The steps are no graph: an id twice, a dependency that is not there, a cycle."""


@dataclass(frozen=True)
class Candidate:
    """A machine as the scheduler sees it. slots 0: never. local: the client itself, its slots are the local jobs."""

    key: str
    slots: int
    speed_factor: float = 1.0
    local: bool = False


@dataclass(frozen=True)
class Step:
    """One derivation to build. dependencies: ids of steps that come before. inputs: paths; direct ones are enough.

    duration: expected seconds on a machine of speed 1, None: not known, counts as 1. name: the derivation's, which
    orders the steps under policy C(nix).
    """

    id: str
    requirement: Requirement
    dependencies: t.Sequence[str] = ()
    duration: float | None = None
    inputs: t.Sequence[str] = ()
    prefer_local: bool = False
    name: str = ""


@dataclass(frozen=True)
class Load:
    """How busy a builder really is; None: not known.

    load_average: of the last minute. pressure: percent of the last ten seconds in which something waited for a CPU
    (PSI, cpu, some, avg10). free_memory: what the kernel says is available. free_disk: of the file system that is built
    on, or of the store's, whichever has less.
    """

    load_average: float | None = None
    cpus: int | None = None
    pressure: float | None = None
    free_memory: int | None = None
    free_disk: int | None = None

    @property
    def slowdown(self) -> float:
        """How many times slower a further build is taken to run than on the idle machine, 1 to 10."""
        if self.pressure is not None:
            return 1 / max(0.1, 1 - self.pressure / 100)
        if self.load_average is not None and self.cpus:
            return min(10.0, max(1.0, self.load_average / self.cpus))
        return 1.0

    @property
    def starved(self) -> bool:
        """Whether there is too little memory or disk left to build."""
        return (self.free_memory is not None and self.free_memory < LOW_MEMORY) or (
            self.free_disk is not None and self.free_disk < LOW_DISK
        )


class Outcome(enum.Enum):
    """How an assignment ended."""

    BUILT = "built"
    #: The build itself failed: it would fail elsewhere too.
    FAILED = "failed"
    #: The machine or the way to it failed; the step may go elsewhere.
    LOST = "lost"
    #: The machine is well, but never takes this step; another may.
    REFUSED = "refused"


class Status(enum.Enum):
    """Where a step stands."""

    WAITING = "waiting"
    READY = "ready"
    RUNNING = "running"
    BUILT = "built"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Assignment(t.NamedTuple):
    """A step given to a machine. serial: never the same twice, so late news of an earlier attempt is known as such."""

    step: str
    machine: str
    serial: int


class Ended(t.NamedTuple):
    """A step that came to its end: built, failed or cancelled. machine: where it ended, or empty. reason: in words."""

    step: str
    status: Status
    machine: str
    reason: str


#: A rank of a machine within its kind: the smallest comes first.
_Rank = tuple[float, ...]


class _Queue:
    """Steps that the same machines may take; counts are of those machines."""

    def __init__(self, requirement: Requirement, prefer_local: bool) -> None:
        self.requirement = requirement
        self.prefer_local = prefer_local
        self.kinds: list[_Kind] = []
        #: The queues, this one too, whose machines are all among those of this one.
        self.within: list[_Queue] = []
        self.steps: list[int] = []
        #: A heap of (order..., step); entries of steps that are not ready any more are dropped when they come up.
        self.ready: list[tuple[t.Any, ...]] = []
        #: Seconds at speed 1 of all steps that did not start yet.
        self.work = 0.0
        #: Slots times speed of the machines that were not given up.
        self.capacity = 0.0
        self.fastest = 0.0
        #: Machines that were not given up; of these, those that are not starved.
        self.live = 0
        self.sound = 0
        #: Machines with a free slot, not starved and starved.
        self.free = 0
        self.free_starved = 0

    @property
    def usable(self) -> bool:
        """Whether a machine is free; a starved one counts only when there are no others, not even busy ones."""
        return self.free > 0 or (self.free_starved > 0 and self.sound == 0)

    @property
    def demand(self) -> float:
        """The seconds that its waiting steps need at least, were all its machines there for them alone."""
        return self.work / self.capacity if self.capacity else 0.0


class _Kind:
    """Machines that may take the same queues and are about as fast."""

    def __init__(self, queues: tuple[_Queue, ...], local: bool) -> None:
        self.queues = queues
        self.local = local
        self.size = 0
        self.slowest = 0.0
        #: Free machines as (rank, index, version): those not starved, those starved. Old versions do not count.
        self.heaps: tuple[list[tuple[_Rank, int, int]], list[tuple[_Rank, int, int]]] = ([], [])
        #: When what runs there should end, as (time, serial), a heap.
        self.ends: list[tuple[float, int]] = []
        #: The two queues that need these machines most, as (demand, queue).
        self.demands: list[tuple[float, _Queue]] = []

    def demand_beside(self, queue: _Queue) -> float:
        """The demand of the queue, other than this one, that needs these machines most."""
        for demand, other in self.demands:
            if other is not queue:
                return demand
        return 0.0


class _Machine:
    """What is known of one candidate."""

    def __init__(self, candidate: Candidate, index: int, kind: _Kind) -> None:
        self.candidate = candidate
        self.index = index
        self.kind = kind
        #: The steps that run there; slots that others hold.
        self.running: dict[int, None] = {}
        self.held = 0
        self.load = Load()
        self.up = True
        #: Given up for good.
        self.gone = False
        #: It had no place when it was last asked; how often in a row.
        self.full = False
        self.full_waits = 0
        #: Failures in a row; after one it gets a single step, until that ends well.
        self.failures = 0
        self.reason = ""
        #: The number of the timer that counts for it, 0: none.
        self.timer = 0
        self.version = 0
        #: What it adds to the counts of its queues: free, free but starved, live, sound.
        self.counted = (0, 0, 0, 0)
        self.paths: set[str] = set()

    @property
    def free(self) -> bool:
        limit = 1 if self.failures else self.candidate.slots
        return self.up and not self.gone and not self.full and len(self.running) + self.held < limit


class Scheduler:
    """The state of one run.

    candidates: in the order of the machines file. may_take: whether this candidate may build what asks for this
    requirement; asked once for each pair. keep_going: others go on after a step failed. sizes: of paths, as far as
    known. jitter: gives 0 to 1, the part of a waiting time that is added to it.

    Steps that no candidate may take have failed from the start. Raises SchedulerError.
    """

    def __init__(
        self,
        candidates: t.Sequence[Candidate],
        steps: t.Iterable[Step],
        may_take: t.Callable[[Candidate, Requirement], bool],
        *,
        policy: Policy = "load",
        keep_going: bool = False,
        max_attempts: int = 3,
        sizes: t.Mapping[str, int] | None = None,
        jitter: t.Callable[[], float] | None = None,
    ) -> None:
        self._nix = policy == "nix"
        self._keep_going = keep_going
        self._max_attempts = max(1, max_attempts)
        self._jitter = jitter
        self._sizes: dict[str, int] = dict(sizes or {})
        self._holders: dict[str, list[int]] = {}
        self._steps = list(steps)
        self._ended: list[Ended] = []
        self._open = len(self._steps)
        self._stopped = False
        self._serial = 0
        self._starts = 0
        self._longest = 0
        self._most_demand = 0.0
        #: What runs: step -> its assignment.
        self._running: dict[int, Assignment] = {}
        self._serials: set[int] = set()
        #: Built steps that have been taken back until found or again is called.
        self._doubted: set[int] = set()
        #: Attempts that were used, as (machine, reason), of steps that lost any.
        self._tried: dict[int, list[tuple[int, str]]] = {}
        #: (time, number, machine), a heap; a timer counts while its machine names its number.
        self._timers: list[tuple[float, int, int]] = []
        self._timer = 0
        self._probes: list[int] = []
        self._read_graph()
        self._group(candidates, may_take)
        self._rank_steps()
        for step, waits in enumerate(self._waits):
            if not waits and self._status[step] is Status.WAITING:
                self._make_ready(step)

    # ------------------------------------------------------------------------------------------------ questions

    @property
    def done(self) -> bool:
        """Whether every step has come to its end."""
        return not self._open

    @property
    def running(self) -> list[Assignment]:
        """What was assigned and has not ended."""
        return list(self._running.values())

    def status(self, step: str) -> Status:
        """Where a step stands."""
        return self._status[self._ids[step]]

    def counts(self) -> dict[Status, int]:
        """How many steps stand where."""
        return dict(self._counts)

    def attempts(self, step: str) -> list[tuple[str, str]]:
        """The attempts of a step that were lost, as (machine, reason)."""
        return [(self._machines[m].candidate.key, why) for m, why in self._tried.get(self._ids[step], ())]

    def priority(self, step: str) -> float:
        """The seconds of the longest chain that starts with this step, each on the fastest machine that may take it."""
        return self._priority[self._ids[step]]

    # ------------------------------------------------------------------------------------------------ what to do

    def assignments(self, now: float) -> list[Assignment]:
        """What is to start now; each counts as running from here on, until finished, full or lost says otherwise."""
        self._tick(now)
        found: list[Assignment] = []
        if self._stopped:
            return found
        aside: list[tuple[_Queue, tuple[t.Any, ...]]] = []
        queues = {queue: 0 for queue in self._queues if queue.ready and queue.usable}
        while queues:
            best: tuple[t.Any, ...] = ()
            chosen: _Queue | None = None
            for queue in list(queues):
                entry = self._first(queue) if queue.usable else None
                if entry is None:
                    del queues[queue]
                    continue
                key = entry
                if not self._nix:
                    # Of steps that are as urgent, first those that fewer machines may take.
                    priority, step = entry
                    key = (-max(-priority * CHAIN_STRETCH, queue.demand), priority, queue.capacity, step)
                if chosen is None or key < best:
                    best, chosen = key, queue
            if chosen is None:
                break
            step = best[-1]
            machine = (self._choose_as_nix if self._nix else self._choose)(chosen, step, now)
            entry = heapq.heappop(chosen.ready)
            if machine is not None:
                found.append(self._start(step, machine, now))
                continue
            aside.append((chosen, entry))
            queues[chosen] += 1
            if queues[chosen] == ASIDE_MOST:
                del queues[chosen]
        for queue, entry in aside:
            heapq.heappush(queue.ready, entry)
        return found

    def probes(self, now: float) -> list[str]:
        """The machines that were left alone long enough: try to reach them, then say up or lost. Each is named once."""
        self._tick(now)
        probes, self._probes = self._probes, []
        machines = [self._machines[index] for index in probes]
        return [machine.candidate.key for machine in machines if not (machine.up or machine.gone or machine.timer)]

    def next_wakeup(self, now: float) -> float | None:
        """When assignments or probes may have more to say though nothing happens; None: only after news."""
        if self._probes:
            return now
        while self._timers and self._machines[self._timers[0][2]].timer != self._timers[0][1]:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def ended(self) -> list[Ended]:
        """The steps that came to their end since this was last asked, in that order."""
        ended, self._ended = self._ended, []
        return ended

    # ------------------------------------------------------------------------------------------------ what happened

    def finished(
        self,
        assignment: Assignment,
        outcome: Outcome,
        now: float,
        reason: str = "",
        outputs: t.Mapping[str, int] | None = None,
    ) -> bool:
        """An assignment ended. outputs: sizes of the paths that are now there.

        Gives whether it counts: late news of an attempt that was taken back does not.
        """
        taken = self._take(assignment)
        if taken is None:
            return False
        step, machine = taken
        if outcome is Outcome.LOST:
            if machine.up and not machine.gone:
                self._leave_alone(machine, now, reason)
            self._give_back(step, machine, reason)
        elif outcome is Outcome.REFUSED:
            self._works(machine)
            self._give_back(step, machine, reason, refused=True)
        else:
            self._works(machine)
            if outcome is Outcome.BUILT:
                self._built(step, machine, outputs or {})
            else:
                self._fail(step, machine.candidate.key, reason)
        self._refresh(machine)
        return True

    def full(self, assignment: Assignment, now: float) -> bool:
        """The machine had no place for it (others have taken its locks or sessions): the step goes back.

        No attempt is used. The machine is not asked again before one of its own steps ends, or for a time. Gives
        whether it counts.
        """
        taken = self._take(assignment)
        if taken is None:
            return False
        step, machine = taken
        if machine.up and not machine.full:
            machine.full = True
            self._wait(machine, now, min(FULL_MOST, FULL_FIRST * 2**machine.full_waits))
            machine.full_waits = min(machine.full_waits + 1, 10)
        self._return(step)
        self._refresh(machine)
        return True

    def returned(self, assignment: Assignment) -> bool:
        """It did not run, and neither the step nor the machine is to blame (an input was not to be had): it goes back.

        Gives whether it counts.
        """
        taken = self._take(assignment)
        if taken is None:
            return False
        self._return(taken[0])
        self._refresh(taken[1])
        return True

    def doubt(self, step: str) -> None:
        """What a built step made may be lost: what needs it and did not start waits, until found or again is called."""
        number = self._ids[step]
        if self._status[number] is not Status.BUILT:
            return
        self._mark(number, Status.WAITING)
        self._open += 1
        self._doubted.add(number)
        self._waits[number] += 1
        self._queue_of[number].work += self._seconds[number]
        self._longest = min(self._longest, self._place[number])
        for dependent in self._dependents[number]:
            self._waits[dependent] += 1
            if self._status[dependent] is Status.READY:
                self._mark(dependent, Status.WAITING)

    def again(self, step: str) -> None:
        """What a doubted step made is lost: it is built again."""
        number = self._ids[step]
        if number not in self._doubted:
            return
        self._doubted.remove(number)
        self._waits[number] -= 1
        if self._status[number] is not Status.WAITING:
            return  # It was cancelled meanwhile.
        if self._stopped:
            self._end(number, Status.CANCELLED, "", "what it made was lost, and the run was stopped")
        elif not self._queue_of[number].live:
            self._abandon(self._queue_of[number])
        elif not self._waits[number]:
            self._make_ready(number)

    def found(self, step: str, machine: str = "") -> None:
        """What a step makes is there: it was built before, or a doubt is over."""
        number = self._ids[step]
        if self._status[number] not in (Status.WAITING, Status.READY):
            return
        if number in self._doubted:
            self._doubted.remove(number)
            self._waits[number] -= 1
        self._end(number, Status.BUILT, machine, "")
        self._release(number)

    def lost(self, machine: str, now: float, reason: str, for_good: bool = False) -> None:
        """The machine cannot be reached (any more): its steps go back, each with an attempt used.

        probes() names it later. for_good: trying again is no use (its host key is wrong, say).
        """
        that = self._by_key[machine]
        if that.gone:
            return
        if for_good:
            that.failures = MACHINE_ATTEMPTS
        if for_good or that.up or not that.timer:
            self._leave_alone(that, now, reason)
        for step in list(that.running):
            self._take(self._running[step])
            self._give_back(step, that, reason)
        self._refresh(that)

    def hold(self, machine: str) -> None:
        """The machine is not to be used before up says so (it is being connected)."""
        that = self._by_key[machine]
        that.up = False
        self._refresh(that)

    def up(self, machine: str, now: float) -> None:
        """The machine can be reached. After a failure it gets a single step until one ends there."""
        that = self._by_key[machine]
        if not that.gone and not that.up:
            that.up, that.full, that.timer = True, False, 0
            self._refresh(that)

    def observe(self, machine: str, load: Load | None = None, held: int | None = None) -> None:
        """What was measured on the machine, and how many of its slots others hold; None: as before."""
        that = self._by_key[machine]
        if load is not None and not self._nix:
            that.load = load
        if held is not None:
            that.held = held
        self._refresh(that)

    def holds(self, machine: str, paths: t.Iterable[str]) -> None:
        """The machine has these paths."""
        that = self._by_key[machine]
        for path in paths:
            if path not in that.paths:
                that.paths.add(path)
                holders = self._holders.setdefault(path, [])
                if len(holders) <= FEW_HOLDERS:
                    holders.append(that.index)

    def stop(self, reason: str) -> None:
        """Nothing new starts; what runs may end."""
        if self._stopped:
            return
        self._stopped = True
        for step, status in enumerate(self._status):
            if status in (Status.WAITING, Status.READY):
                self._end(step, Status.CANCELLED, "", reason)

    # ------------------------------------------------------------------------------------------------ the choice

    def _choose(self, queue: _Queue, step: int, now: float) -> _Machine | None:
        """Policy load: where the step would end first, bytes to move counted, among machines that others need less.

        None: a machine that is busy now would still end it sooner, and the whole run waits for it; or all that are free
        have lost it before.
        """
        avoided = self._avoided(queue, step)
        starved = queue.sound == 0
        if queue.prefer_local and self._may_start_locally(queue, avoided):
            return self._local
        urgency = max(self._priority[step] * CHAIN_STRETCH, queue.demand)
        wanted = [(path, size) for path in self._steps[step].inputs for size in (self._sizes.get(path, 0),) if size]
        tops = [self._top(kind, starved, avoided) for kind in queue.kinds if kind.heaps[starved]]
        found = {machine.index: machine for machine in tops if machine is not None}
        for path, _size in wanted:
            holders = self._holders.get(path, ())
            if len(holders) <= FEW_HOLDERS:
                for index in holders:
                    machine = self._machines[index]
                    fits = machine.free and machine.load.starved is starved and index not in avoided
                    if fits and queue in machine.kind.queues:
                        found[index] = machine
        best: _Machine | None = None
        best_key: tuple[t.Any, ...] = ()
        for index, machine in found.items():
            seconds = self._seconds[step] * self._rank(machine)[0]
            missing = sum(size for path, size in wanted if path not in machine.paths)
            key = (machine.kind.demand_beside(queue) > urgency, seconds + missing / BYTES_PER_SECOND, index)
            if best is None or key < best_key:
                best, best_key = machine, key
        if best is not None and self._better_later(queue, step, best, now):
            return None
        return best

    def _better_later(self, queue: _Queue, step: int, machine: _Machine, now: float) -> bool:
        """Whether the run would end later with the step on this machine, and a faster one should soon be free."""
        duration = self._steps[step].duration
        if duration is None:
            return False
        takes = duration / _speed(machine.candidate)
        if takes + self._priority[step] - duration / queue.fastest <= self._horizon():
            return False
        for kind in queue.kinds:
            if kind.ends and duration / kind.slowest < takes:
                while kind.ends and kind.ends[0][1] not in self._serials:
                    heapq.heappop(kind.ends)
                if kind.ends and max(now, kind.ends[0][0]) + duration / kind.slowest < now + takes:
                    return True
        return False

    def _horizon(self) -> float:
        """The seconds that what did not start needs at least: its longest chain, or its work for the machines."""
        order = self._by_priority
        while self._longest < len(order) and self._status[order[self._longest]] not in (Status.WAITING, Status.READY):
            self._longest += 1
        chain = self._priority[order[self._longest]] if self._longest < len(order) else 0.0
        return max(chain, self._most_demand)

    def _choose_as_nix(self, queue: _Queue, step: int, now: float) -> _Machine | None:
        """Policy nix: C(build-remote.cc) of Nix 2.20 and newer; C(derivation-building-goal.cc) of 2.34 for the client.

        The machine of the smallest load / speed (in the float of C++), then of the largest speed, then of the smallest
        load, then the first of the file. The client itself comes first for preferLocalBuild, else after all machines.
        """
        avoided = self._avoided(queue, step)
        if queue.prefer_local and self._may_start_locally(queue, avoided):
            return self._local
        best: _Machine | None = None
        for kind in queue.kinds:
            machine = None if kind.local else self._top(kind, False, avoided)
            if machine is not None and (
                best is None or (self._rank(machine), machine.index) < (self._rank(best), best.index)
            ):
                best = machine
        return best or (self._local if self._may_start_locally(queue, avoided) else None)

    def _may_start_locally(self, queue: _Queue, avoided: t.Collection[int]) -> bool:
        local = self._local
        return (
            local is not None
            and local.free
            and (queue.sound == 0 or not local.load.starved)
            and queue in local.kind.queues
            and local.index not in avoided
        )

    def _avoided(self, queue: _Queue, step: int) -> t.Collection[int]:
        """The machines on which the step was lost, unless no other is left."""
        if step not in self._tried:
            return ()
        tried = {machine for machine, _reason in self._tried[step]}
        machines = [self._machines[index] for index in tried]
        return tried if queue.live > sum(1 for one in machines if not one.gone) else ()

    def _rank(self, machine: _Machine) -> _Rank:
        """Load: seconds for one second of work. Nix: its own order."""
        busy = len(machine.running) + machine.held
        speed = _speed(machine.candidate)
        if self._nix:
            return _float(busy / _float(speed)), -_float(speed), busy
        return ((1 + CROWDING * busy / machine.candidate.slots) * machine.load.slowdown / speed,)

    def _top(self, kind: _Kind, starved: bool, avoided: t.Collection[int]) -> _Machine | None:
        """The first free machine of a kind that is not to be avoided."""
        heap = kind.heaps[starved]
        aside = []
        found = None
        while heap:
            machine = self._machines[heap[0][1]]
            if machine.version != heap[0][2]:
                heapq.heappop(heap)
            elif machine.index in avoided:
                aside.append(heapq.heappop(heap))
            else:
                found = machine
                break
        for entry in aside:
            heapq.heappush(heap, entry)
        return found

    def _first(self, queue: _Queue) -> tuple[t.Any, ...] | None:
        """The entry of the queue's first step that is ready."""
        while queue.ready and self._status[queue.ready[0][-1]] is not Status.READY:
            heapq.heappop(queue.ready)
        return queue.ready[0] if queue.ready else None

    # ------------------------------------------------------------------------------------------------ the states

    def _mark(self, step: int, status: Status) -> None:
        self._counts[self._status[step]] -= 1
        self._counts[status] += 1
        self._status[step] = status

    def _start(self, step: int, machine: _Machine, now: float) -> Assignment:
        self._serial += 1
        assignment = Assignment(self._steps[step].id, machine.candidate.key, self._serial)
        self._mark(step, Status.RUNNING)
        self._running[step] = assignment
        self._serials.add(self._serial)
        self._queue_of[step].work -= self._seconds[step]
        machine.running[step] = None
        heapq.heappush(machine.kind.ends, (now + self._seconds[step] / _speed(machine.candidate), self._serial))
        self.holds(machine.candidate.key, self._steps[step].inputs)
        if self._starts % DEMAND_EVERY == 0:
            self._look_at_demand()
        self._starts += 1
        self._refresh(machine)
        return assignment

    def _take(self, assignment: Assignment) -> tuple[int, _Machine] | None:
        """Takes an assignment off its machine; None when it is none any more."""
        step = self._ids[assignment.step]
        if self._running.get(step) != assignment:
            return None
        machine = self._by_key[assignment.machine]
        del self._running[step]
        del machine.running[step]
        self._serials.discard(assignment.serial)
        return step, machine

    def _return(self, step: int) -> None:
        """A step that ran is ready again, or has come too late."""
        queue = self._queue_of[step]
        queue.work += self._seconds[step]
        self._longest = min(self._longest, self._place[step])
        self._mark(step, Status.WAITING)
        if not self._waits[step]:
            self._make_ready(step)
        if self._stopped:
            self._end(step, Status.CANCELLED, "", "the run was stopped")
        elif not queue.live:
            self._abandon(queue)
        elif self._waits[step]:
            # What it needs was lost while it ran, and may have failed since.
            for dependency in self._steps[step].dependencies:
                if self._status[self._ids[dependency]] in (Status.FAILED, Status.CANCELLED):
                    self._end(step, Status.CANCELLED, "", f"{dependency}, which it needs, failed")
                    return

    def _give_back(self, step: int, machine: _Machine, reason: str, refused: bool = False) -> None:
        """A step was lost with its machine, or refused: it goes elsewhere, or was tried often enough."""
        tried = self._tried.setdefault(step, [])
        tried.append((machine.index, reason))
        hopeless = refused and not self._avoided(self._queue_of[step], step)
        if self._stopped or (len(tried) < self._max_attempts and not hopeless):
            self._return(step)
            return
        told = "; ".join(f"{self._machines[index].candidate.key}: {why}" for index, why in tried)
        why = "refused by every machine that may take it" if hopeless else f"given up after {len(tried)} attempts"
        self._fail(step, machine.candidate.key, f"{why}: {told}")

    def _make_ready(self, step: int) -> None:
        self._mark(step, Status.READY)
        made = self._steps[step]
        order = (made.name, made.id) if self._nix else (-self._priority[step],)
        heapq.heappush(self._queue_of[step].ready, (*order, step))

    def _built(self, step: int, machine: _Machine, outputs: t.Mapping[str, int]) -> None:
        self._sizes.update(outputs)
        self.holds(machine.candidate.key, outputs)
        self._end(step, Status.BUILT, machine.candidate.key, "")
        self._release(step)

    def _release(self, step: int) -> None:
        """A step was built: what waited for it only is ready."""
        for dependent in self._dependents[step]:
            self._waits[dependent] -= 1
            if not self._waits[dependent] and self._status[dependent] is Status.WAITING:
                self._make_ready(dependent)

    def _fail(self, step: int, machine: str, reason: str) -> None:
        """A step failed for good, and so all that waits for it is cancelled; without keep_going everything."""
        self._end(step, Status.FAILED, machine, reason)
        why = f"{self._steps[step].id}, which it needs, failed"
        reached = list(self._dependents[step])
        while reached:
            dependent = reached.pop()
            if self._status[dependent] is Status.WAITING:
                self._end(dependent, Status.CANCELLED, "", why)
                reached.extend(self._dependents[dependent])
        if not self._keep_going:
            self.stop(f"{self._steps[step].id} failed")

    def _end(self, step: int, status: Status, machine: str, reason: str) -> None:
        if self._status[step] in (Status.WAITING, Status.READY):
            self._queue_of[step].work -= self._seconds[step]
        self._mark(step, status)
        self._open -= 1
        self._ended.append(Ended(self._steps[step].id, status, machine, reason))

    def _abandon(self, queue: _Queue) -> None:
        """No machine is left for a queue: what did not start fails."""
        gone = [m for m in self._machines if m.gone and queue in m.kind.queues]
        told = "; ".join(f"{m.candidate.key}: {m.reason}" for m in gone[:TOLD_MOST])
        more = f"; and {len(gone) - TOLD_MOST} more" if len(gone) > TOLD_MOST else ""
        reason = f"no machine is left that may take it ({told}{more})" if gone else "no machine may take it"
        for step in queue.steps:
            if self._status[step] in (Status.WAITING, Status.READY):
                self._fail(step, "", reason)

    def _leave_alone(self, machine: _Machine, now: float, reason: str) -> None:
        """A machine failed: it is tried again later, or given up."""
        machine.up, machine.full, machine.reason = False, False, reason
        machine.failures += 1
        if machine.failures < MACHINE_ATTEMPTS:
            self._wait(machine, now, min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** (machine.failures - 1)))
            return
        machine.gone, machine.timer = True, 0
        self._refresh(machine)
        for queue in machine.kind.queues:
            if not queue.live:
                self._abandon(queue)

    def _works(self, machine: _Machine) -> None:
        """A step came to its end there."""
        machine.up, machine.failures, machine.timer = True, 0, 0
        machine.full, machine.full_waits = False, 0

    def _wait(self, machine: _Machine, now: float, seconds: float) -> None:
        if self._jitter is not None:
            seconds *= 1 + self._jitter()
        self._timer += 1
        machine.timer = self._timer
        heapq.heappush(self._timers, (now + seconds, self._timer, machine.index))

    def _tick(self, now: float) -> None:
        """Acts on the timers that have run out."""
        while self._timers and self._timers[0][0] <= now:
            _time, number, index = heapq.heappop(self._timers)
            machine = self._machines[index]
            if machine.timer != number:
                continue
            machine.timer = 0
            if machine.full:
                machine.full = False
                self._refresh(machine)
            else:
                self._probes.append(index)

    def _refresh(self, machine: _Machine) -> None:
        """A machine changed: its place among the free ones, and the counts of its queues."""
        kind = machine.kind
        machine.version += 1
        free, starved, live = machine.free, machine.load.starved, not machine.gone
        if free:
            heap = kind.heaps[starved]
            if len(heap) > 2 * kind.size + 64:
                heap[:] = [entry for entry in heap if self._machines[entry[1]].version == entry[2]]
                heapq.heapify(heap)
            heapq.heappush(heap, (self._rank(machine), machine.index, machine.version))
        counts = (int(free and not starved), int(free and starved), int(live), int(live and not starved))
        if counts == machine.counted:
            return
        fresh, spare, lives, sounds = (new - old for new, old in zip(counts, machine.counted))
        machine.counted = counts
        for queue in kind.queues:
            queue.free += fresh
            queue.free_starved += spare
            if lives:
                queue.live += lives
                queue.capacity += lives * machine.candidate.slots * _speed(machine.candidate)
            queue.sound += sounds

    def _look_at_demand(self) -> None:
        """Which queues need which machines most; what changes between two looks does not matter."""
        demands = {queue: queue.demand for queue in self._queues}
        shares = (sum(one.work for one in queue.within) / (queue.capacity or 1.0) for queue in self._queues)
        self._most_demand = max(shares, default=0.0)
        for kind in self._kinds:
            kind.demands = heapq.nlargest(2, ((demands[q], q) for q in kind.queues), key=_first_item)

    # ------------------------------------------------------------------------------------------------ the beginning

    def _read_graph(self) -> None:
        steps = self._steps
        self._ids = {step.id: number for number, step in enumerate(steps)}
        if len(self._ids) != len(steps):
            raise SchedulerError("a step is there twice")
        self._status = [Status.WAITING] * len(steps)
        self._counts = {**dict.fromkeys(Status, 0), Status.WAITING: len(steps)}
        self._waits = [0] * len(steps)
        self._dependents: list[list[int]] = [[] for _step in steps]
        for number, step in enumerate(steps):
            before = set(step.dependencies)
            self._waits[number] = len(before)
            for dependency in before:
                if dependency not in self._ids:
                    raise SchedulerError(f"{step.id} needs {dependency}, which is not among the steps")
                self._dependents[self._ids[dependency]].append(number)
        #: Every step after those it needs.
        self._order = [number for number, waits in enumerate(self._waits) if not waits]
        waits = list(self._waits)
        for number in self._order:
            for dependent in self._dependents[number]:
                waits[dependent] -= 1
                if not waits[dependent]:
                    self._order.append(dependent)
        if len(self._order) != len(steps):
            left = next(step.id for step, count in zip(steps, waits) if count)
            raise SchedulerError(f"{left} and others need each other")

    def _group(self, candidates: t.Sequence[Candidate], may_take: t.Callable[[Candidate, Requirement], bool]) -> None:
        """Queues of steps, kinds of machines."""
        queues: dict[tuple[Requirement, bool], _Queue] = {}
        self._queue_of: list[_Queue] = []
        #: Seconds at speed 1.
        self._seconds = [1.0 if step.duration is None else max(0.0, step.duration) for step in self._steps]
        for number, step in enumerate(self._steps):
            key = (step.requirement, step.prefer_local)
            queue = queues.get(key)
            if queue is None:
                queue = queues[key] = _Queue(step.requirement, step.prefer_local)
            queue.steps.append(number)
            queue.work += self._seconds[number]
            self._queue_of.append(queue)
        self._queues = list(queues.values())
        kinds: dict[tuple[t.Any, ...], _Kind] = {}
        self._machines: list[_Machine] = []
        requirements = list(dict.fromkeys(queue.requirement for queue in self._queues))
        for index, candidate in enumerate(candidates):
            takes = {one for one in requirements if candidate.slots > 0 and may_take(candidate, one)}
            served = tuple(queue for queue in self._queues if queue.requirement in takes)
            speed = _speed(candidate)
            place = (tuple(map(id, served)), candidate.local, round(math.log(speed, SAME_SPEED)))
            kind = kinds.get(place)
            if kind is None:
                kind = kinds[place] = _Kind(served, candidate.local)
                for queue in served:
                    queue.kinds.append(kind)
            kind.size += 1
            kind.slowest = min(kind.slowest, speed) if kind.slowest else speed
            for queue in served:
                queue.fastest = max(queue.fastest, speed)
            self._machines.append(_Machine(candidate, index, kind))
        self._kinds = list(kinds.values())
        kinds_of = {queue: set(map(id, queue.kinds)) for queue in self._queues}
        for queue in self._queues:
            queue.within = [one for one in self._queues if kinds_of[one] <= kinds_of[queue]]
        self._by_key = {machine.candidate.key: machine for machine in self._machines}
        if len(self._by_key) != len(self._machines):
            raise SchedulerError("a machine is there twice")
        self._local = next((machine for machine in self._machines if machine.candidate.local), None)
        for machine in self._machines:
            self._refresh(machine)

    def _rank_steps(self) -> None:
        """The longest chain behind each step, from the ends of the graph to its beginnings."""
        self._priority = [0.0] * len(self._steps)
        for step in reversed(self._order):
            behind = max((self._priority[dependent] for dependent in self._dependents[step]), default=0.0)
            self._priority[step] = self._seconds[step] / (self._queue_of[step].fastest or 1.0) + behind
        #: Steps, the longest chain first; the place of each; the first that may not have started.
        self._by_priority = sorted(range(len(self._steps)), key=lambda step: -self._priority[step])
        self._place = [0] * len(self._steps)
        for place, step in enumerate(self._by_priority):
            self._place[step] = place
        self._look_at_demand()
        for queue in self._queues:
            if not queue.live:
                self._abandon(queue)


def _speed(candidate: Candidate) -> float:
    """Nix takes speed 0 for 1 (machines.cc)."""
    return candidate.speed_factor if candidate.speed_factor > 0 else 1.0


def _float(value: float) -> float:
    """As a C++ float, in which Nix keeps and divides speeds (machines.hh)."""
    return t.cast(float, struct.unpack("f", struct.pack("f", value))[0])


def _first_item(pair: tuple[float, _Queue]) -> float:
    return pair[0]
