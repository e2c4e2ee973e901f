# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A run: derivations built on the machines that may take them, and what was wanted of them brought back.

plan.py says what is to be built, scheduler.py who builds what next, task_build.py builds one task in a thread of the
machine's (site.py), delivery.py brings results. Here they meet: one thread decides, all others only tell it what
happened, by functions that they put into its queue.

What only one builder has is in doubt while that builder cannot be reached: what needs it waits. It is there again when
the builder comes back and still has it; it is built again elsewhere when the builder does not come back at once.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import queue
import random
import typing as t
from dataclasses import dataclass, field

from ansible_collections.nixfleet.builders.plugins.module_utils import plan as planning
from ansible_collections.nixfleet.builders.plugins.module_utils import route
from ansible_collections.nixfleet.builders.plugins.module_utils.delivery import Delivery
from ansible_collections.nixfleet.builders.plugins.module_utils.derivation import ReadFile
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine
from ansible_collections.nixfleet.builders.plugins.module_utils.plan import Plan, Task
from ansible_collections.nixfleet.builders.plugins.module_utils.protocol import RemoteError
from ansible_collections.nixfleet.builders.plugins.module_utils.scheduler import (
    Assignment,
    Candidate,
    Outcome,
    Policy,
    Scheduler,
    Status,
    Step,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.site import Opener, Site, Unreachable
from ansible_collections.nixfleet.builders.plugins.module_utils.slots import Lock, Slots
from ansible_collections.nixfleet.builders.plugins.module_utils.task_build import (
    Builder,
    BuildFailed,
    Built,
    Job,
    MachineTrouble,
    NoInput,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.transfer import STORE_ERRORS, TransferError

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

#: Seconds for which a builder that fails may come back, before what only it has is built again.
GRACE = 5.0

#: Where wanted outputs go: to the client's store, nowhere, or to another store.
TO_CLIENT = "client"
TO_NOWHERE = "none"


class DispatchError(Exception):
    """The run as a whole cannot go on. The text says why."""


class Stores(t.Protocol):
    """How stores are reached."""

    def client(self) -> Opener:
        """The client's own store."""

    def machine(self, machine: Machine) -> Opener:
        """A machine's, or any other's that has a URI."""


@dataclass(frozen=True)
class Request:
    """What is asked for.

    roots: wanted outputs by .drv path, none named: all. machines: in the order of the machines file. client: what it
    may build itself. destination: TO_CLIENT, TO_NOWHERE, or the URI of a store. build_timeout: seconds, None: no limit.
    builders_substitute: builders ask their own substituters before anything is copied to them. slots: Nix's locks,
    None: not shared with Nix.
    """

    roots: t.Mapping[str, t.Collection[str]]
    machines: t.Sequence[Machine]
    client: route.LocalMachine
    policy: Policy = "load"
    keep_going: bool = False
    max_attempts: int = 3
    build_timeout: float | None = None
    builders_substitute: bool = False
    destination: str = TO_CLIENT
    slots: Slots | None = None


@dataclass
class Attempt:
    """One attempt at a task, with times by the run's clock (0.0: it did not come so far).

    outcome: built, failed, lost (the machine's fault), returned (nobody's fault), or empty while it runs.
    """

    machine: str
    given: float
    ready: float = 0.0
    building: float = 0.0
    stopped: float = 0.0
    outcome: str = ""
    reason: str = ""
    bytes_copied: int = 0


@dataclass
class Record:
    """What is known of one task. status: as the scheduler's at the end. error, log: of the last attempt.

    found: it was valid on a machine, or at the client, without being built. delivered: its wanted outputs are where
    they are wanted. holder: the site that has its outputs.
    """

    task: Task
    status: str = "waiting"
    attempts: list[Attempt] = field(default_factory=list)
    error: str = ""
    log: list[str] = field(default_factory=list)
    build_start: int = 0
    build_stop: int = 0
    found: bool = False
    delivered: bool = False
    doubted: bool = False
    returned: int = 0
    holder: Site | None = None


@dataclass
class MachineRecord:
    """What a machine did. busy: seconds in which a slot was used. bytes_in, bytes_out: as the client sees it."""

    key: str
    label: str
    slots: int
    speed_factor: float
    built: int = 0
    failed: int = 0
    lost: int = 0
    busy: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    nix_version: str = ""
    trouble: str = ""


@dataclass
class Run:
    """A finished run. Times by the run's clock. delivered_bytes: of NARs. outputs: of what was wanted, by .drv path."""

    plan: Plan
    records: dict[str, Record]
    machines: list[MachineRecord]
    started: float
    stopped: float
    delivered: list[str]
    delivered_bytes: int

    @property
    def failed(self) -> list[Record]:
        """The tasks that failed, not those that were cancelled because of them."""
        return [record for record in self.records.values() if record.status == Status.FAILED.value]

    @property
    def success(self) -> bool:
        return all(record.status == Status.BUILT.value for record in self.records.values())

    @property
    def changed(self) -> bool:
        """Whether anything was built, substituted or brought."""
        built = any(each.outcome == "built" for record in self.records.values() for each in record.attempts)
        return built or bool(self.delivered)


class Event(t.NamedTuple):
    """News for who watches. kind: plan, up, down, inputs, building, built, failed, lost, cancelled, delivered.

    name: of the task. machine: its label. text: more, in words. counts: by status.
    """

    time: float
    kind: str
    name: str = ""
    machine: str = ""
    text: str = ""
    counts: t.Mapping[str, int] = {}


OnEvent = t.Callable[[Event], None]
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


def run(request: Request, stores: Stores, read_file: ReadFile, clock: Clock, on_event: OnEvent) -> Run:
    """Builds what is missing. A task that fails is told in the Run. on_event: is called in this thread.

    Raises PlanError, DerivationError (nothing was started), DispatchError. Whatever ends it, all connections are closed
    and all locks free.
    """
    return _Run(request, stores, read_file, clock, on_event).go()


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
        #: Sites that answer; sites that are being asked whether they do.
        self._up: set[Site] = {self._client}
        self._checking: set[Site] = set()
        #: Of these, those that failed since they were asked; those that the scheduler waits for.
        self._stale: set[Site] = set()
        self._probed: set[Site] = set()
        #: Since when what a site has is in doubt.
        self._doubted_since: dict[Site, float] = {}
        self._jobs: dict[Assignment, tuple[Job, Attempt, Lock | None]] = {}
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

    def go(self) -> Run:
        started = self._clock()
        try:
            self._plan = _planned(self._request, self._client, self._read_file)
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
        self._builder = Builder(
            self._client, self._holder, self._plan.substitute, request.builders_substitute, self._clock
        )
        self._delivery = self._make_delivery()
        requirements = {task.required for task in tasks.values()}
        for key, site in self._sites.items():
            if key in self._machines:
                self._scheduler.hold(key)
                if any(may_take(Candidate(key, 1), required) for required in requirements):
                    self._probe(site)

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
            if self._scheduler.done and not self._delivering and not self._jobs:
                return
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
            self._probe(self._sites[key])
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
        name = task.drv.name if task else ""
        self._on_event(Event(self._clock(), kind, name, machine, text, counts))

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
            post(functools.partial(self._on_trouble, job, str(error)))
        except BaseException as error:
            post(functools.partial(self._on_bug, error))
        else:
            post(functools.partial(self._on_built, job, built))

    def _ask(self, site: Site, paths: list[str]) -> None:
        """Whether a site answers and has paths, in a thread of its own."""
        try:
            site.check()
            valid = site.valid(paths)
        except Unreachable as error:
            self._news.put(functools.partial(self._on_down, site, str(error), error.permanent))
        except STORE_ERRORS as error:
            self._news.put(functools.partial(self._on_down, site, str(error), False))
        except BaseException as error:
            self._news.put(functools.partial(self._on_bug, error))
        else:
            self._news.put(functools.partial(self._on_up, site, valid))

    def _substitute(self, paths: list[str]) -> None:
        """Wanted paths that the client can substitute, in a thread of the client's."""
        error: Exception | None = None
        try:
            self._builder.fetch(paths)
        except Exception as raised:
            error = raised
        self._news.put(functools.partial(self._on_substituted, paths, error))

    def _holder(self, path: str) -> Site | None:
        """Who has a path now; any thread may ask. The client rather than a builder: it is half the way."""
        maker = self._makers.get(path)
        if maker is None or self._client.presence.known([path]):
            return self._client
        holder = self._records[maker].holder
        if holder is not None and holder in self._up:
            return holder
        return next((site for site in tuple(self._up) if site.presence.known([path])), None)

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

    def _on_trouble(self, job: Job, reason: str) -> None:
        if job.aborted:
            self._take_back(job, "returned", job.aborted)
            self._scheduler.returned(job.assignment)
            return
        record = self._take_back(job, "lost", reason)
        record.error = ""
        self._scheduler.finished(job.assignment, Outcome.LOST, self._clock(), reason)
        self._told[job.site.key].trouble = reason
        self._tell("lost", job.task, job.site.label, reason)
        self._doubt(job.site)

    def _on_no_input(self, job: Job, error: NoInput) -> None:
        holder = error.holder
        record = self._records[job.task.drv.path]
        record.returned += 1
        absent = holder is self._client and not error.lost
        if (absent or record.returned > RETURNS) and not job.aborted:
            self._on_failed(job, BuildFailed(f"an input is not to be had: {error}", "InputRejected"))
            return
        self._take_back(job, "returned", job.aborted or str(error))
        self._scheduler.returned(job.assignment)
        if job.aborted or holder is None:
            return
        self._doubt(holder)

    def _probe(self, site: Site) -> None:
        """Asks for the scheduler whether a site answers."""
        self._probed.add(site)
        self._check(site)

    def _check(self, site: Site) -> None:
        """Asks in the background whether a site answers, and what it has of what is to be built."""
        if site in self._checking:
            self._stale.add(site)
            return
        self._checking.add(site)
        paths = [
            path
            for record in self._records.values()
            if record.doubted or record.status == "waiting"
            for path in record.task.outputs.values()
        ]
        site.do(functools.partial(self._ask, site, paths))

    def _on_up(self, site: Site, valid: set[str]) -> None:
        self._checking.discard(site)
        if site in self._stale:
            self._stale.discard(site)
            self._check(site)
            return
        self._up.add(site)
        self._doubted_since.pop(site, None)
        for path, record in self._records.items():
            there = valid.issuperset(record.task.outputs.values())
            if record.doubted and record.holder is site and not there:
                self._missing(path)
            elif there and (record.doubted or self._scheduler.status(path) in (Status.WAITING, Status.READY)):
                record.found = record.found or not record.doubted
                record.doubted, record.holder = False, site
                self._scheduler.found(path)
                self._note_ended()
                self._deliver(record)
        if site in self._probed:
            self._probed.discard(site)
            if site.key in self._told and self._told[site.key].slots:
                self._scheduler.up(site.key, self._clock())
            self._told[site.key].trouble = ""
            self._tell("up", machine=site.label, text=f"Nix {site.nix_version}")

    def _on_down(self, site: Site, reason: str, permanent: bool) -> None:
        self._checking.discard(site)
        self._stale.discard(site)
        self._probed.discard(site)
        if site is self._client:
            raise DispatchError(f"this host's own Nix store cannot be reached any more: {reason}")
        now = self._clock()
        self._mark_doubted(site)
        self._scheduler.lost(site.key, now, reason, permanent)
        self._told[site.key].trouble = reason
        self._tell("down", machine=site.label, text=reason)
        if permanent or now - self._doubted_since[site] >= GRACE:
            for path, record in self._records.items():
                if record.doubted and record.holder is site:
                    self._missing(path)

    # ------------------------------------------------------------------------------------------------ what is lost

    def _needed(self, path: str, record: Record) -> bool:
        """Whether somebody still needs a task's outputs from a builder."""
        if record.delivered and self._delivery is not None and self._delivery.destination is self._client:
            return False
        if record.task.wanted and not record.delivered and self._delivery is not None:
            return True
        open_ones = (Status.WAITING, Status.READY, Status.RUNNING)
        return any(self._scheduler.status(above) in open_ones for above in self._plan.graph.dependents[path])

    def _doubt(self, site: Site) -> None:
        """A site failed: whether it answers and what it has is asked again."""
        if site is not self._client:
            self._mark_doubted(site)
        self._check(site)

    def _mark_doubted(self, site: Site) -> None:
        """What only this site has may be gone."""
        self._up.discard(site)
        self._doubted_since.setdefault(site, self._clock())
        for path, record in self._records.items():
            if record.holder is site and not record.doubted and record.status == Status.BUILT.value:
                other = self._elsewhere(record)
                if other is not None:
                    record.holder = other
                elif self._needed(path, record):
                    record.doubted = True
                    record.status = "waiting"
                    self._scheduler.doubt(path)

    def _elsewhere(self, record: Record) -> Site | None:
        """Another site that has all outputs of a task."""
        paths = set(record.task.outputs.values())
        sites = [self._client, *self._up]
        return next((site for site in sites if site.presence.known(paths) == paths), None)

    def _missing(self, path: str) -> None:
        """A task's outputs are not where they were: it is built again."""
        record = self._records[path]
        if not record.doubted and record.status == Status.BUILT.value:
            self._scheduler.doubt(path)
        elif not record.doubted:
            return
        record.doubted, record.holder, record.status = False, None, "waiting"
        self._scheduler.again(path)

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
            if self._delivery_failures > (REFUSALS if _refused(error) else DELIVERIES):
                raise DispatchError(f"what was built cannot be brought: {error}") from error
            if isinstance(error, NoInput) and source is not self._client:
                self._doubt(source)
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

        heapq.heappush(self._later, (self._clock() + DELIVERY_PAUSE, next(self._numbers), again))

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
