# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A run: derivations built on the machines that may take them, and what was wanted of them brought back.

plan.py says what is to be built, scheduler.py who builds what next, task_build.py builds one task in a thread of the
machine's (site.py), delivery.py brings results. whereabouts.py knows who answers and has what. Here they meet: one
thread decides, all others only tell it what happened, by functions that they put into its queue.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import queue
import random
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils import plan as planning
from ansible_collections.nixfleet.builders.plugins.module_utils import route
from ansible_collections.nixfleet.builders.plugins.module_utils.delivery import Delivery
from ansible_collections.nixfleet.builders.plugins.module_utils.derivation import ReadFile
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine
from ansible_collections.nixfleet.builders.plugins.module_utils.plan import Plan, Task
from ansible_collections.nixfleet.builders.plugins.module_utils.protocol import RemoteError
from ansible_collections.nixfleet.builders.plugins.module_utils.run_records import (
    TO_CLIENT,
    TO_NOWHERE,
    Attempt,
    DispatchError,
    Event,
    MachineRecord,
    Record,
    Request,
    Run,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.scheduler import (
    Assignment,
    Candidate,
    Outcome,
    Scheduler,
    Status,
    Step,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.site import Opener, Site, Unreachable
from ansible_collections.nixfleet.builders.plugins.module_utils.slots import Lock
from ansible_collections.nixfleet.builders.plugins.module_utils.task_build import (
    Builder,
    BuildFailed,
    Built,
    Job,
    MachineTrouble,
    NoInput,
    Refused,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.transfer import STORE_ERRORS, TransferError
from ansible_collections.nixfleet.builders.plugins.module_utils.whereabouts import Whereabouts

__all__ = [
    "CLIENT",
    "TO_CLIENT",
    "TO_NOWHERE",
    "Attempt",
    "DispatchError",
    "Event",
    "MachineRecord",
    "Record",
    "Request",
    "Run",
    "Stores",
    "candidates",
    "make_plan",
    "run",
]

#: How the client itself is called among the machines.
CLIENT = "local"
#: Lines of the log that are kept of a build that succeeded.
TAIL = 10
#: How often a task may come back because an input is not where it should be.
RETURNS = 20
#: How often results are brought again that were not to be had or not taken, and the pause, in seconds.
DELIVERIES = 10
DELIVERY_PAUSE = 2.0
#: The same where the destination answers that it does not take them, as when its disk is full.
REFUSALS = 2


class Stores(t.Protocol):
    """How stores are reached."""

    def client(self) -> Opener:
        """The client's own store."""

    def machine(self, machine: Machine) -> Opener:
        """A machine's, or any other's that has a URI."""


OnEvent = t.Callable[[Event], None]
#: Is called with the plan before anything starts; what it raises ends the run.
OnPlan = t.Callable[[Plan], object]
Clock = t.Callable[[], float]


def make_plan(request: Request, stores: Stores, read_file: ReadFile) -> Plan:
    """What run() would do, without doing it. Raises as run does."""
    site = Site(CLIENT, "the client", stores.client())
    try:
        return _planned(request, site, read_file)
    finally:
        site.close()


def _planned(request: Request, client: Site, read_file: ReadFile) -> Plan:
    try:
        with client.borrow() as store:
            planned = planning.make(store, request.roots, read_file)
    except (*STORE_ERRORS, Unreachable) as error:
        raise DispatchError(f"this host's own Nix store: {error}") from error
    planning.check_routes(planned, candidates(request), request.client.system)
    return planned


def candidates(request: Request) -> list[route.Candidate]:
    """Who may build: the machines, and the client itself."""
    return [*request.machines, request.client]


def run(
    request: Request,
    stores: Stores,
    read_file: ReadFile,
    clock: Clock,
    on_event: OnEvent,
    on_plan: OnPlan = lambda plan: None,
) -> Run:
    """Builds what is missing. A task that fails is told in the Run. on_event, on_plan: are called in this thread.

    Raises PlanError, DerivationError (nothing was started), DispatchError. Whatever ends it, all connections are closed
    and all locks free.
    """
    return _Run(request, stores, read_file, clock, on_event).go(on_plan)


class _Run:
    """One run. Its methods are called by the deciding thread only, but for those that say otherwise."""

    def __init__(self, request: Request, stores: Stores, read_file: ReadFile, clock: Clock, on_event: OnEvent) -> None:
        self._request = request
        self._stores = stores
        self._read_file = read_file
        self._clock = clock
        self._on_event = on_event
        self._news: queue.SimpleQueue[t.Callable[[], None]] = queue.SimpleQueue()
        self._client = Site(CLIENT, "this host", stores.client())
        self._sites: dict[str, Site] = {CLIENT: self._client}
        self._machines: dict[str, Machine] = {}
        self._jobs: dict[Assignment, tuple[Job, Attempt, Lock | None]] = {}
        #: Who has what these were to build.
        self._found_at: dict[Assignment, Site] = {}
        #: (time, serial, job) of builds that may not take longer.
        self._deadlines: list[tuple[float, int, Job]] = []
        #: (time, number, what to do then).
        self._later: list[tuple[float, int, t.Callable[[], None]]] = []
        self._delivering = 0
        self._delivered: list[str] = []
        self._delivered_bytes = 0
        self._delivery_failures = 0
        self._numbers = itertools.count()
        self._stopping = False

    # ------------------------------------------------------------------------------------------------ the run

    def go(self, on_plan: OnPlan) -> Run:
        started = self._clock()
        try:
            self._plan = _planned(self._request, self._client, self._read_file)
            on_plan(self._plan)
            self._prepare()
            self._tell("plan", text=f"{len(self._plan.tasks)} to build, {len(self._plan.substitute)} to substitute")
            if self._plan.tasks or self._delivery is not None:
                self._loop()
            return self._finished(started)
        finally:
            self._close()

    def _prepare(self) -> None:
        request, tasks = self._request, self._plan.tasks
        self._makers = self._plan.makers
        self._records = {path: Record(task) for path, task in tasks.items()}
        found = [Candidate(CLIENT, request.client.max_jobs, local=True)] if request.client.max_jobs else []
        self._told = {CLIENT: MachineRecord(CLIENT, "this host", request.client.max_jobs, 1.0)}
        takers: dict[str, route.Candidate] = {CLIENT: request.client}
        for machine in request.machines if tasks else ():
            key = machine.uri
            while key in self._sites:
                key += " again"
            label = route.label(machine)
            self._sites[key] = Site(key, label, self._stores.machine(machine))
            self._machines[key] = machine
            takers[key] = machine
            self._told[key] = MachineRecord(key, label, machine.max_jobs, machine.speed_factor)
            found.append(Candidate(key, machine.max_jobs, machine.speed_factor))

        def may_take(candidate: Candidate, requirement: t.Any) -> bool:
            return not route.refusals(takers[candidate.key], requirement, request.client.system)

        self._scheduler = Scheduler(
            found,
            [
                Step(
                    id=path,
                    requirement=task.required,
                    dependencies=task.needs,
                    inputs=task.inputs,
                    prefer_local=task.required.prefer_local,
                    name=task.drv.name,
                )
                for path, task in tasks.items()
            ],
            may_take,
            policy=request.policy,
            keep_going=request.keep_going,
            max_attempts=request.max_attempts,
            jitter=random.random,
        )
        self._whereabouts = Whereabouts(
            self,
            self._client,
            self._plan,
            self._records,
            self._told,
            self._scheduler,
            # Policy nix has no use for it.
            measures=request.policy == "load",
        )
        self._builder = Builder(
            self._client, self._whereabouts.holder, self._plan.substitute, request.builders_substitute, self._clock
        )
        self._delivery = self._make_delivery()
        requirements = {task.required for task in tasks.values()}
        for key, site in self._sites.items():
            if key in self._machines:
                self._scheduler.hold(key)
                if any(may_take(Candidate(key, 1), required) for required in requirements):
                    self._whereabouts.probe(site)

    def _make_delivery(self) -> Delivery | None:
        if self._request.destination == TO_NOWHERE:
            return None
        destination = self._client
        if self._request.destination != TO_CLIENT:
            machine = Machine(self._request.destination)
            # With its keys, if it is one of the builders.
            machine = next((each for each in self._request.machines if each.uri == machine.uri), machine)
            destination = Site("destination", route.label(machine), self._stores.machine(machine))
            self._sites["destination"] = destination
        delivery = Delivery(destination, self._from_thread(self._on_delivered))
        made = self._makers
        there = [path for path in self._plan.wanted_paths if path not in made]
        absent = [path for path in there if path in self._plan.substitute]
        if absent:
            self._delivering += 1
            self._client.do(lambda: self._substitute(absent))
        present = [path for path in there if path not in self._plan.substitute]
        if destination is not self._client and present:
            self._delivering += 1
            delivery.add(self._client, present)
        return delivery

    def _loop(self) -> None:
        while True:
            now = self._clock()
            self._start(now)
            self._end_overdue(now)
            if self._scheduler.done and not self._jobs:
                if not self._delivering:
                    return
                if self._delivery is not None:
                    self._delivery.hurry()
            wake = [self._scheduler.next_wakeup(now)]
            wake += [self._deadlines[0][0]] if self._deadlines else []
            wake += [self._later[0][0]] if self._later else []
            times = [time for time in wake if time is not None]
            try:
                news = self._news.get(timeout=max(0.0, min(times) - now) if times else None)
                while True:
                    news()
                    news = self._news.get_nowait()
            except queue.Empty:
                pass

    def _start(self, now: float) -> None:
        """Gives out what the scheduler says, with the locks that Nix's hook would take."""
        while self._later and self._later[0][0] <= now:
            heapq.heappop(self._later)[2]()
        assignments = self._scheduler.assignments(now)
        locks: dict[Assignment, Lock | None] = dict.fromkeys(assignments)
        remote = [each for each in assignments if each.machine != CLIENT]
        if remote and self._request.slots is not None:
            with self._request.slots.choosing() as choice:
                for each in remote:
                    machine = self._machines[each.machine]
                    lock = choice.take(machine.uri, machine.max_jobs)
                    if lock is None:
                        self._scheduler.full(each, now)
                        del locks[each]
                    else:
                        locks[each] = lock
        for assignment, lock in locks.items():
            site = self._sites[assignment.machine]
            record = self._records[assignment.step]
            job = Job(record.task, site, assignment, given=now)
            attempt = Attempt(site.key, now)
            record.attempts.append(attempt)
            self._jobs[assignment] = (job, attempt, lock)
            site.do(functools.partial(self._work, job))
        for key in self._scheduler.probes(now):
            self._whereabouts.probe(self._sites[key])
        self._note_ended()

    def _note_ended(self) -> None:
        """Takes over what the scheduler says has come to its end."""
        for ended in self._scheduler.ended():
            record = self._records[ended.step]
            record.status = ended.status.value
            if ended.status is Status.BUILT:
                continue
            record.error = record.error or ended.reason
            kind = "failed" if ended.status is Status.FAILED else "cancelled"
            machine = self._sites[ended.machine].label if ended.machine else ""
            self._tell(kind, record.task, machine, ended.reason)
            if ended.status is Status.FAILED and not self._request.keep_going and not self._stopping:
                # As Nix does.
                self._stopping = True
                for job, _attempt, _lock in self._jobs.values():
                    job.abort("another build failed")

    def _end_overdue(self, now: float) -> None:
        while self._deadlines and self._deadlines[0][0] <= now:
            _time, _serial, job = heapq.heappop(self._deadlines)
            limit = self._request.build_timeout
            if limit is None or job.assignment not in self._jobs:
                continue
            end = (job.building or job.ready) + limit
            if end > now:
                heapq.heappush(self._deadlines, (end, job.assignment.serial, job))
            else:
                job.abort(f"the build took longer than {limit:g} s", timed_out=True)

    def _finished(self, started: float) -> Run:
        for site in self._sites.values():
            told = self._told.get(site.key)
            if told is not None:
                told.bytes_in, told.bytes_out = site.bytes_moved()
                told.nix_version = site.nix_version
        machines = [told for told in self._told.values() if told.key != CLIENT or told.slots]
        return Run(
            self._plan,
            self._records,
            machines,
            started,
            self._clock(),
            self._delivered,
            self._delivered_bytes,
        )

    def _close(self) -> None:
        for job, _attempt, lock in self._jobs.values():
            job.abort("the run ended")
            if lock is not None:
                lock.release()
        for site in self._sites.values():
            site.close()

    def _tell(self, kind: str, task: Task | None = None, machine: str = "", text: str = "") -> None:
        counts = {status.value: count for status, count in self._scheduler.counts().items() if count}
        step, name = (task.drv.path, task.drv.name) if task else ("", "")
        self._on_event(Event(self._clock(), kind, step, name, machine, text, counts))

    # ------------------------------------------------------------------------------------------------ in threads

    def _from_thread(self, function: t.Callable[..., None]) -> t.Callable[..., None]:
        """The function, to be called from any thread: the deciding thread then does."""

        def post(*args: t.Any) -> None:
            self._news.put(functools.partial(function, *args))

        return post

    def _work(self, job: Job) -> None:
        """A job, in a thread of its site's."""
        post = self._news.put
        try:
            built = self._builder.run(job, self._from_thread(self._on_building))
        except BuildFailed as error:
            post(functools.partial(self._on_failed, job, error))
        except NoInput as error:
            post(functools.partial(self._on_no_input, job, error))
        except MachineTrouble as error:
            post(functools.partial(self._on_trouble, job, error))
        except BaseException as error:
            post(functools.partial(self._on_bug, error))
        else:
            post(functools.partial(self._on_built, job, built))

    def _substitute(self, paths: list[str]) -> None:
        """Wanted paths that the client can substitute, in a thread of the client's."""
        error: Exception | None = None
        try:
            self._builder.fetch(paths)
        except Exception as raised:
            error = raised
        self._news.put(functools.partial(self._on_substituted, paths, error))

    # ------------------------------------------------------------------------------------------------ what happened

    def _on_bug(self, error: BaseException) -> None:
        raise error

    def _on_building(self, job: Job, begun: bool) -> None:
        if job.assignment not in self._jobs or begun:
            return
        if self._request.build_timeout is not None:
            limit = self._clock() + self._request.build_timeout
            heapq.heappush(self._deadlines, (limit, job.assignment.serial, job))
        self._tell("building", job.task, job.site.label)

    def _take_back(self, job: Job, outcome: str, reason: str = "") -> Record:
        """A job is over: its lock, and what is told of it."""
        _job, attempt, lock = self._jobs.pop(job.assignment)
        if lock is not None:
            lock.release()
        now = self._clock()
        attempt.ready, attempt.building, attempt.stopped = job.ready, job.building, now
        attempt.outcome, attempt.reason, attempt.bytes_copied = outcome, reason, job.bytes_copied
        told = self._told[job.site.key]
        told.busy += now - attempt.given
        if outcome in ("built", "failed", "lost"):
            setattr(told, outcome, getattr(told, outcome) + 1)
        record = self._records[job.task.drv.path]
        record.log = list(job.log)[-(TAIL if outcome == "built" else len(job.log)) :]
        return record

    def _on_built(self, job: Job, built: Built) -> None:
        record = self._take_back(job, "built")
        record.holder = job.site
        record.build_start, record.build_stop = built.result.start_time, built.result.stop_time
        sizes = {info.path: info.nar_size for info in built.infos}
        self._scheduler.finished(job.assignment, Outcome.BUILT, self._clock(), outputs=sizes)
        self._note_ended()
        self._tell("built", job.task, job.site.label)
        self._deliver(record)

    def _on_failed(self, job: Job, error: BuildFailed) -> None:
        record = self._take_back(job, "failed", str(error))
        record.error = str(error)
        self._scheduler.finished(job.assignment, Outcome.FAILED, self._clock(), str(error))

    def _on_trouble(self, job: Job, error: MachineTrouble) -> None:
        reason = str(error)
        if job.aborted:
            self._on_aborted(job)
            return
        record = self._take_back(job, "lost", reason)
        record.error = ""
        self._told[job.site.key].trouble = reason
        if isinstance(error, Refused):
            self._scheduler.finished(job.assignment, Outcome.REFUSED, self._clock(), reason)
            self._tell("lost", job.task, job.site.label, reason)
            return
        self._scheduler.finished(job.assignment, Outcome.LOST, self._clock(), reason)
        self._tell("lost", job.task, job.site.label, reason)
        self._whereabouts.doubt(job.site)

    def _on_aborted(self, job: Job) -> None:
        """A build was ended by us."""
        record = self._take_back(job, "returned", job.aborted)
        self._scheduler.returned(job.assignment)
        site = self._found_at.pop(job.assignment, None)
        if (
            site is not None
            and self._whereabouts.is_up(site)
            and self._scheduler.status(job.task.drv.path) is Status.READY
        ):
            self._whereabouts.found(record, site)

    def _on_no_input(self, job: Job, error: NoInput) -> None:
        holder = error.holder
        record = self._records[job.task.drv.path]
        record.returned += 1
        absent = holder is self._client and not error.lost
        if (absent or record.returned > RETURNS) and not job.aborted:
            self._on_failed(job, BuildFailed(f"an input is not to be had: {error}", "InputRejected"))
            return
        if job.aborted:
            self._on_aborted(job)
            return
        self._take_back(job, "returned", str(error))
        self._scheduler.returned(job.assignment)
        if holder is not None:
            self._whereabouts.doubt(holder)

    # ------------------------------------------------------------------------------------------------ whereabouts.Run

    def clock(self) -> float:
        return self._clock()

    def post(self, function: t.Callable[[], None]) -> None:
        self._news.put(function)

    def later(self, seconds: float, function: t.Callable[[], None]) -> None:
        heapq.heappush(self._later, (self._clock() + seconds, next(self._numbers), function))

    def tell(self, kind: str, *, machine: str, text: str) -> None:
        self._tell(kind, None, machine, text)

    def on_found(self, record: Record) -> None:
        self._note_ended()
        self._deliver(record)

    def on_found_running(self, record: Record, site: Site) -> None:
        """A site that answered late has what is being built on another: that build ends."""
        for job, _attempt, _lock in self._jobs.values():
            if job.task is record.task and job.site is not site and not job.aborted:
                self._found_at[job.assignment] = site
                job.abort(f"{site.label} has it already")

    def is_owed(self, record: Record) -> bool | None:
        if record.delivered and self._delivery is not None and self._delivery.destination is self._client:
            return False
        if record.task.wanted and not record.delivered and self._delivery is not None:
            return True
        return None

    # ------------------------------------------------------------------------------------------------ results

    def _deliver(self, record: Record) -> None:
        """Has the wanted outputs of a task brought, all or those that are wanted."""
        if self._delivery is None or not record.task.wanted or record.delivered or record.holder is None:
            return
        self._delivering += 1
        self._delivery.add(record.holder, [record.task.outputs[name] for name in sorted(record.task.wanted)])

    def _on_delivered(self, source: Site, added: list[list[str]], error: Exception | None, moved: int) -> None:
        made = self._makers
        paths = [path for them in added for path in them]
        records = {made[path]: self._records[made[path]] for path in paths if path in made}
        self._delivering -= len(added)
        if error is None:
            self._delivery_failures = 0
            self._delivered_bytes += moved
            self._delivered += paths
            for record in records.values():
                record.delivered = True
            self._tell("delivered", machine=source.label, text=f"{len(paths)} paths, {moved} bytes")
        elif isinstance(error, (MachineTrouble, NoInput)):
            self._delivery_failures += 1
            patience = REFUSALS if _refused(error) else DELIVERIES
            if isinstance(error, Refused) or self._delivery_failures > patience:
                raise DispatchError(f"what was built cannot be brought: {error}") from error
            if isinstance(error, NoInput) and source is not self._client:
                self._whereabouts.doubt(source)
            self._later_deliver(records)
        else:
            raise error

    def _later_deliver(self, records: t.Mapping[str, Record]) -> None:
        """Tries again after a pause; what is in doubt by then is brought when it is found or built again."""
        self._delivering += 1

        def again() -> None:
            self._delivering -= 1
            for record in records.values():
                if record.status == Status.BUILT.value:
                    self._deliver(record)

        self.later(DELIVERY_PAUSE, again)

    def _on_substituted(self, paths: list[str], error: Exception | None) -> None:
        self._delivering -= 1
        if error is not None:
            raise DispatchError(f"the client's substituters: {error}") from error
        self._delivered += paths
        if self._delivery is not None and self._delivery.destination is not self._client:
            self._delivering += 1
            self._delivery.add(self._client, paths)


def _refused(error: Exception) -> bool:
    """Whether it was the destination's answer, and no lost connection, that ended a delivery."""
    cause = error.__cause__
    return (
        isinstance(error, MachineTrouble)
        and isinstance(cause, TransferError)
        and isinstance(cause.__cause__, RemoteError)
    )
