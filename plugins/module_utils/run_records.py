# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is asked of a run, and what is known of it, by task and by machine. Pure."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.nixfleet.builders.plugins.module_utils import route
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine
from ansible_collections.nixfleet.builders.plugins.module_utils.plan import Plan, Task
from ansible_collections.nixfleet.builders.plugins.module_utils.scheduler import Load, Policy, Status
from ansible_collections.nixfleet.builders.plugins.module_utils.site import Site
from ansible_collections.nixfleet.builders.plugins.module_utils.slots import Slots

#: Where wanted outputs go: to the client's store, nowhere, or to another store.
TO_CLIENT = "client"
TO_NOWHERE = "none"


class DispatchError(Exception):
    """The run as a whole cannot go on. The text says why."""


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

    @property
    def only_found(self) -> bool:
        """Whether nothing had to be built for it."""
        return self.found and not any(each.outcome == "built" for each in self.attempts)


@dataclass
class MachineRecord:
    """What a machine did. busy: seconds in which a slot was used. bytes_in, bytes_out: as the client sees it.

    load: what its load probe said last, None where it has none.
    """

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
    load: Load | None = None


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

    step: the task's .drv path. name: the task's. machine: its label. text: more, in words. counts: by status.
    """

    time: float
    kind: str
    step: str = ""
    name: str = ""
    machine: str = ""
    text: str = ""
    counts: t.Mapping[str, int] = {}
