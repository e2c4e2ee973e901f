# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which sites answer, what each of them has, and how busy it says it is; what is in doubt, and what is lost.

What only one builder has is in doubt while that builder cannot be reached: what needs it waits. It is there again when
the builder comes back and still has it; it is built again elsewhere when the builder does not come back at once.

The run's deciding thread calls; other threads call holder() only.
"""

from __future__ import annotations

import functools
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils import load_probe
from ansible_collections.nixfleet.builders.plugins.module_utils.plan import Plan
from ansible_collections.nixfleet.builders.plugins.module_utils.run_records import (
    DispatchError,
    MachineRecord,
    Record,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.scheduler import Load, Scheduler, Status
from ansible_collections.nixfleet.builders.plugins.module_utils.site import Site, Unreachable
from ansible_collections.nixfleet.builders.plugins.module_utils.transfer import STORE_ERRORS

#: Seconds between two looks at how busy a builder is.
LOAD_EVERY = 10.0
#: Seconds for which a builder that fails may come back, before what only it has is built again.
GRACE = 5.0


class Run(t.Protocol):
    """What a run does for it, and with what it finds out."""

    def clock(self) -> float:
        """Seconds."""

    def post(self, function: t.Callable[[], None]) -> None:
        """Any thread may call; the deciding thread then calls the function."""

    def later(self, seconds: float, function: t.Callable[[], None]) -> None:
        """The deciding thread calls the function then."""

    def tell(self, kind: str, *, machine: str, text: str) -> None:
        """News for who watches."""

    def on_found(self, record: Record) -> None:
        """The outputs of a task that does not run are at its holder."""

    def on_found_running(self, record: Record, site: Site) -> None:
        """A site has the outputs of a task that runs."""

    def is_owed(self, record: Record) -> bool | None:
        """Whether outputs are still to be brought from a builder; None where it is others that decide."""


class Whereabouts:
    """See above. plan, records, told, scheduler: of the run. measures: whether sites are asked how busy they are."""

    def __init__(
        self,
        run: Run,
        client: Site,
        plan: Plan,
        records: t.Mapping[str, Record],
        told: t.Mapping[str, MachineRecord],
        scheduler: Scheduler,
        measures: bool,
    ) -> None:
        self._run = run
        self._client = client
        self._makers = plan.makers
        self._dependents = plan.graph.dependents
        self._records = records
        self._told = told
        self._scheduler = scheduler
        self._measures = measures
        #: Sites that answer; sites that are being asked whether they do.
        self._up: set[Site] = {client}
        self._checking: set[Site] = set()
        #: Of these, those that failed since they were asked; those that the scheduler waits for.
        self._stale: set[Site] = set()
        self._probed: set[Site] = set()
        #: Sites that are asked every now and then how busy they are; those that do not say.
        self._measured: set[Site] = set()
        self._unmeasured: set[Site] = set()
        #: Since when what a site has is in doubt.
        self._doubted_since: dict[Site, float] = {}

    def holder(self, path: str) -> Site | None:
        """Who has a path now; any thread may ask. The client rather than a builder: it is half the way."""
        maker = self._makers.get(path)
        if maker is None or self._client.presence.known([path]):
            return self._client
        holder = self._records[maker].holder
        if holder is not None and holder in self._up:
            return holder
        return next((site for site in tuple(self._up) if site.presence.known([path])), None)

    def is_up(self, site: Site) -> bool:
        """Whether it answered last."""
        return site in self._up

    # ------------------------------------------------------------------------------------------------ who answers

    def probe(self, site: Site) -> None:
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

    def _ask(self, site: Site, paths: list[str]) -> None:
        """In a thread of the site's."""
        try:
            site.check()
            valid = site.valid(paths)
        except Unreachable as error:
            self._run.post(functools.partial(self._on_down, site, str(error), error.permanent))
        except STORE_ERRORS as error:
            self._run.post(functools.partial(self._on_down, site, str(error), False))
        except BaseException as error:
            self._run.post(functools.partial(_raise, error))
        else:
            self._run.post(functools.partial(self._on_up, site, valid))

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
            if there and self._scheduler.status(path) is Status.RUNNING:
                self._run.on_found_running(record, site)
            elif record.doubted and record.holder is site and not there:
                self._missing(path)
            elif there and (record.doubted or self._scheduler.status(path) in (Status.WAITING, Status.READY)):
                self.found(record, site)
        if site in self._probed:
            self._probed.discard(site)
            told = self._told.get(site.key)
            if told is not None:
                told.trouble = ""
                if told.slots:
                    self._scheduler.up(site.key, self._run.clock())
            self._look_at_load(site)
            self._run.tell("up", machine=site.label, text=f"Nix {site.nix_version}")

    def _on_down(self, site: Site, reason: str, permanent: bool) -> None:
        self._checking.discard(site)
        self._stale.discard(site)
        self._probed.discard(site)
        if site is self._client:
            raise DispatchError(f"this host's own Nix store cannot be reached any more: {reason}")
        now = self._run.clock()
        self._mark_doubted(site)
        self._scheduler.lost(site.key, now, reason, permanent)
        self._told[site.key].trouble = reason
        self._run.tell("down", machine=site.label, text=reason)
        if permanent or now - self._doubted_since[site] >= GRACE:
            for path, record in self._records.items():
                if record.doubted and record.holder is site:
                    self._missing(path)

    def found(self, record: Record, site: Site) -> None:
        """A site has the outputs of a task that does not run."""
        record.found = record.found or not record.doubted
        record.doubted, record.holder = False, site
        self._scheduler.found(record.task.drv.path)
        self._run.on_found(record)

    # ------------------------------------------------------------------------------------------------ what is lost

    def doubt(self, site: Site) -> None:
        """A site failed: whether it answers and what it has is asked again."""
        if site is not self._client:
            self._mark_doubted(site)
        self._check(site)

    def _mark_doubted(self, site: Site) -> None:
        """What only this site has may be gone."""
        self._up.discard(site)
        self._doubted_since.setdefault(site, self._run.clock())
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

    def _needed(self, path: str, record: Record) -> bool:
        """Whether somebody still needs a task's outputs from a builder."""
        owed = self._run.is_owed(record)
        if owed is not None:
            return owed
        open_ones = (Status.WAITING, Status.READY, Status.RUNNING)
        return any(self._scheduler.status(above) in open_ones for above in self._dependents[path])

    def _missing(self, path: str) -> None:
        """A task's outputs are not where they were: it is built again."""
        record = self._records[path]
        if not record.doubted and record.status == Status.BUILT.value:
            self._scheduler.doubt(path)
        elif not record.doubted:
            return
        record.doubted, record.holder, record.status = False, None, "waiting"
        self._scheduler.again(path)

    # ------------------------------------------------------------------------------------------------ how busy

    def _look_at_load(self, site: Site) -> None:
        """From now on, every now and then."""
        if self._measures and site not in self._measured | self._unmeasured:
            self._measured.add(site)
            site.do(functools.partial(self._measure, site))

    def _measure(self, site: Site) -> None:
        """In a thread of the site's."""
        try:
            load = load_probe.parse(site.measure())
        except STORE_ERRORS:
            self._run.post(functools.partial(self._on_load, site, None, True))
        except BaseException as error:
            self._run.post(functools.partial(_raise, error))
        else:
            self._run.post(functools.partial(self._on_load, site, load, False))

    def _on_load(self, site: Site, load: Load | None, later: bool) -> None:
        """later: it could not be asked this time."""
        self._measured.discard(site)
        told = self._told[site.key]
        if load is not None:
            told.load = load
            self._scheduler.observe(site.key, load)
        elif not later and told.load is None:
            self._unmeasured.add(site)
            return
        if site in self._up:
            self._measured.add(site)
            self._run.later(LOAD_EVERY, lambda: site.do(lambda: self._measure(site)))


def _raise(error: BaseException) -> None:
    raise error
