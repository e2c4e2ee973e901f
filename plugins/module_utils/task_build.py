# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One task on one site: its inputs brought there, built, and what became of it. Runs in a thread of the site's."""

from __future__ import annotations

import collections
import contextlib
import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.nixfleet.builders.plugins.module_utils import protocol
from ansible_collections.nixfleet.builders.plugins.module_utils.channel import ChannelError
from ansible_collections.nixfleet.builders.plugins.module_utils.derivation import basic
from ansible_collections.nixfleet.builders.plugins.module_utils.plan import Task
from ansible_collections.nixfleet.builders.plugins.module_utils.protocol import (
    BuildResult,
    BuildStatus,
    PathInfo,
    RemoteError,
    derived_path,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.scheduler import Assignment
from ansible_collections.nixfleet.builders.plugins.module_utils.site import Site, Unreachable
from ansible_collections.nixfleet.builders.plugins.module_utils.store import Pending, Store
from ansible_collections.nixfleet.builders.plugins.module_utils.transfer import (
    STORE_ERRORS,
    TransferError,
    closure,
    copy,
)

#: What of a build's log is kept: the newest lines, and of each line so many characters.
LOG_LINES = 50
LOG_WIDTH = 2000

#: logging.hh: actBuild.
_BUILDS = 105
#: How daemon.cc refuses BuildDerivation to accounts that it does not trust.
_NOT_PRIVILEGED = "not privileged to build"
#: Nix repeats the end of the log, which we have, and says how to see all of it where it was built.
_LOG_IN_MESSAGE = re.compile(r"[;.]?\s*last \d+ log lines?:.*", re.DOTALL | re.IGNORECASE)
#: How a transient failure ends where that may be why the builder failed (derivation-goal.cc, buildDone).
_DISK_FULL = "note: build failure may have been caused by lack of free disk space"
#: What failed there would fail anywhere. Any other transient failure is that of a fixed-output derivation's builder.
_FINAL = (
    BuildStatus.PERMANENT_FAILURE,
    BuildStatus.TRANSIENT_FAILURE,
    BuildStatus.OUTPUT_REJECTED,
    BuildStatus.CACHED_FAILURE,
    BuildStatus.TIMED_OUT,
    BuildStatus.DEPENDENCY_FAILED,
    BuildStatus.LOG_LIMIT_EXCEEDED,
    BuildStatus.NOT_DETERMINISTIC,
)


#: Is called when a build is asked for, and once more (True) when the store says that it begins.
OnBuilding = t.Callable[["Job", bool], None]


class MachineTrouble(Exception):
    """The site, or the way to it, failed; the task may go elsewhere."""


class Refused(MachineTrouble):
    """The site is well, but takes no input of ours that it cannot trust; another site may."""


class BuildFailed(Exception):
    """The build itself failed. status: Nix's word for it."""

    def __init__(self, reason: str, status: str) -> None:
        super().__init__(reason)
        self.status = status


class NoInput(Exception):
    """An input cannot be had from where it should be. path: which, None where that is not known.

    holder: the site that should have it; None: nobody has it now. lost: whether it is the connection that failed.
    """

    def __init__(self, path: str | None, holder: Site | None, reason: str, lost: bool) -> None:
        super().__init__(reason)
        self.path = path
        self.holder = holder
        self.lost = lost


@dataclass
class Job:
    """One attempt at a task. Times are what the clock gave, 0.0 where it did not come so far.

    given: to the site; ready: its inputs are there; building: the store said that it builds; stopped.
    """

    task: Task
    site: Site
    assignment: Assignment
    given: float = 0.0
    ready: float = 0.0
    building: float = 0.0
    stopped: float = 0.0
    bytes_copied: int = 0
    phase: str = ""
    log: collections.deque[str] = field(default_factory=lambda: collections.deque(maxlen=LOG_LINES))
    #: Why it was aborted by us: in words, and whether that is the build's fault.
    aborted: str = ""
    timed_out: bool = False
    _store: Store | None = None

    def abort(self, reason: str, timed_out: bool = False) -> None:
        """Ends it, from any thread."""
        self.aborted, self.timed_out = reason, timed_out
        store = self._store
        if store is not None:
            store.channel.abort()

    def uses(self, store: Store) -> None:
        """The store that is working for it."""
        self._store = store
        if self.aborted:
            store.channel.abort()


class Built(t.NamedTuple):
    """What a successful build gave. infos: of all outputs. status: Nix's word."""

    infos: tuple[PathInfo, ...]
    result: BuildResult


class Builder:
    """Does jobs.

    client: the site of the client's own store. holder: where a path is, None for nowhere now. substitutable: paths that
    the client's substituters have. builders_substitute: builders are to ask their own first. clock: seconds.
    """

    def __init__(
        self,
        client: Site,
        holder: t.Callable[[str], Site | None],
        substitutable: t.AbstractSet[str],
        builders_substitute: bool,
        clock: t.Callable[[], float],
    ) -> None:
        self._client = client
        self._holder = holder
        self._substitutable = substitutable
        self._builders_substitute = builders_substitute
        self._clock = clock

    def run(self, job: Job, on_building: OnBuilding) -> Built:
        """Brings the inputs and builds. on_building: see OnBuilding.

        Raises MachineTrouble, BuildFailed, NoInput.
        """
        site, task = job.site, job.task
        try:
            with site.borrow() as store:
                job.uses(store)
                self._bring(job, store, task.inputs)
                if site is not self._client and site.trusted is False:
                    self._bring(job, store, [task.drv.path])
                job.ready = self._clock()
                on_building(job, False)
                return self._build(job, store, on_building)
        except (MachineTrouble, BuildFailed, NoInput) as error:
            if job.timed_out:
                raise BuildFailed(job.aborted, "TimedOut") from error
            raise
        except (*STORE_ERRORS, Unreachable) as error:
            if job.timed_out:
                raise BuildFailed(job.aborted, "TimedOut") from error
            raise MachineTrouble(str(error)) from error

    # ------------------------------------------------------------------------------------------------ building

    def _build(self, job: Job, store: Store, on_building: OnBuilding) -> Built:
        site, task = job.site, job.task

        def on_event(event: protocol.Event) -> None:
            if isinstance(event, protocol.LogLine):
                job.log.append(protocol.plain(event.text[:LOG_WIDTH]))
            elif isinstance(event, protocol.Phase):
                job.phase = event.name
            elif isinstance(event, protocol.Started) and event.kind == _BUILDS and not job.building:
                job.building = self._clock()
                on_building(job, True)

        outputs = sorted(task.outputs.values())
        by_path = site is self._client or site.trusted is False
        for path in outputs:
            store.queue(protocol.ADD_TEMP_ROOT, path)
        target = derived_path(task.drv.path, task.outputs)
        build: Pending[t.Any]
        if by_path:
            build = store.queue(protocol.BUILD_PATHS_WITH_RESULTS, protocol.BuildRequest((target,)), on_event)
        else:
            request = protocol.BuildDerivationRequest(task.drv.path, basic(task.drv, task.inputs))
            build = store.queue(protocol.BUILD_DERIVATION, request, on_event)
        asked = [store.queue(protocol.QUERY_PATH_INFO, path) for path in outputs]
        try:
            reply = build.result()
        except RemoteError as error:
            if not by_path and _NOT_PRIVILEGED in str(error):
                # Nix before 2.15 does not say beforehand whether it trusts us.
                site.trusted = False
                self._bring(job, store, [task.drv.path])
                return self._build(job, store, on_building)
            raise
        result: BuildResult = reply[0].result if by_path else reply
        if not result.success:
            raise _failure(result, task, site)
        infos = [pending.result() for pending in asked]
        found = tuple(info for info in infos if info is not None)
        if len(found) < len(outputs):
            raise MachineTrouble(f"{site.label} says that it built {task.drv.name}, but its outputs are not there")
        site.infos.update((info.path, info) for info in found)
        site.presence.add(outputs)
        return Built(found, result)

    # ------------------------------------------------------------------------------------------------ inputs

    def _bring(self, job: Job, store: Store, paths: t.Iterable[str]) -> None:
        """Makes the paths and all they refer to valid at the job's site."""
        site = job.site
        lacking = set(paths)
        lacking -= site.presence.known(lacking)
        if not lacking:
            return
        lacking -= self._substituted(site, store, lacking)
        groups: dict[Site, set[str]] = {}
        for path in sorted(lacking):
            source = self._holder(path)
            if source is None:
                raise NoInput(path, None, f"nobody has {path} now", lost=False)
            groups.setdefault(source, set()).add(path)
        own = groups.pop(site, None)
        if own:
            for path in own:
                store.queue(protocol.ADD_TEMP_ROOT, path)
            valid = store.valid_paths(own)
            site.presence.add(valid)
            for path in sorted(own - valid):
                raise NoInput(path, site, f"{path} is no longer there", lost=False)
        for source, group in groups.items():
            job.bytes_copied += bring(source, site, store, group, self._builders_substitute)

    def _substituted(self, site: Site, store: Store, paths: set[str]) -> set[str]:
        """Those of the paths that the site got from its own substituters; the rest of them the client has then."""
        absent = paths & self._substitutable
        absent -= self._client.presence.known(absent)
        if not absent:
            return set()
        found: set[str] = set()
        if self._builders_substitute and site is not self._client:
            for path in sorted(absent):
                store.queue(protocol.ADD_TEMP_ROOT, path)
            found = store.valid_paths(absent, substitute=True)
            site.presence.add(found)
        self.fetch(absent - found)
        return found

    def fetch(self, paths: t.Collection[str]) -> None:
        """Has the client substitute paths. Raises NoInput."""
        if not paths:
            return
        client = self._client
        try:
            with client.presence.lease(paths) as lease:
                mine = sorted(lease.mine)
                if not mine:
                    return
                with client.borrow() as store:
                    for path in mine:
                        store.queue(protocol.ADD_TEMP_ROOT, path)
                    for path, result in store.build_paths(mine).items():
                        if not result.success:
                            raise NoInput(path, client, result.message or f"{path} cannot be substituted", lost=False)
                lease.arrived(mine)
        except (*STORE_ERRORS, Unreachable) as error:
            lost = isinstance(error, (ChannelError, Unreachable))
            raise NoInput(None, client, f"cannot substitute {', '.join(sorted(paths)[:3])}: {error}", lost) from error


def bring(source: Site, destination: Site, store: Store | None, paths: t.Collection[str], substitute: bool) -> int:
    """Copies the paths with all they refer to, as far as the destination lacks them; each path travels once.

    store: one of the destination's that is in use already. The bytes of NARs that were moved. Raises NoInput where the
    source fails, MachineTrouble where the destination does.
    """
    try:
        wanted = _lacking_closure(source, destination, paths)
        with destination.presence.lease(wanted) as lease:
            if not lease.mine:
                return 0
            with contextlib.ExitStack() as stack:
                origin = stack.enter_context(source.borrow())
                target = stack.enter_context(destination.borrow()) if store is None else store
                return _copy(source, origin, target, lease.mine, substitute, lease.arrived)
    except Unreachable as error:
        if error.site is source:
            raise NoInput(None, source, str(error), lost=True) from error
        raise MachineTrouble(str(error)) from error
    except STORE_ERRORS as error:
        raise NoInput(None, source, str(error), lost=isinstance(error, ChannelError)) from error


def _copy(
    source: Site,
    origin: Store,
    store: Store,
    paths: t.Collection[str],
    substitute: bool,
    arrived: t.Callable[[t.Collection[str]], None],
) -> int:
    try:
        return copy(origin, store, set(paths), source.infos, substitute=substitute, on_arrived=arrived).nar_bytes
    except TransferError as error:
        if error.unsigned:
            raise Refused(f"{error}. {_signers(source, error.path)}") from error
        if error.at_source:
            lost = isinstance(error.__cause__, ChannelError)
            raise NoInput(error.path, source, str(error), lost) from error
        raise MachineTrouble(str(error)) from error


def _signers(source: Site, path: str | None) -> str:
    """Whose signatures a path has."""
    info = source.infos.get(path or "")
    if info is None:
        return "Which path it is, it does not say"
    keys = sorted({signature.partition(":")[0] for signature in info.signatures})
    if not keys:
        return f"{source.label} has no signature of that path"
    return f"{source.label} has that path signed by {', '.join(keys)}: trust that key there"


def _lacking_closure(source: Site, destination: Site, paths: t.Collection[str]) -> set[str]:
    """The paths and what they refer to, but for what is behind paths that the destination has: it has that, too."""
    infos = source.infos
    found: set[str] = set()
    level = set(paths)
    while level:
        unknown = level - infos.keys()
        if unknown:
            with source.borrow() as store:
                try:
                    closure(store, unknown, infos)
                except TransferError as error:
                    raise NoInput(error.path, source, str(error), lost=False) from error
        found |= level
        level = {reference for path in level for reference in infos[path].references} - found
        level -= destination.presence.known(level)
    return found


def _failure(result: BuildResult, task: Task, site: Site) -> Exception:
    """What a build that did not succeed means."""
    status = "".join(word.capitalize() for word in result.status.name.split("_"))
    reason = _LOG_IN_MESSAGE.sub("", result.message) or f"build of {task.drv.path} on {site.label} failed ({status})"
    if result.status is BuildStatus.TRANSIENT_FAILURE and result.message.rstrip().endswith(_DISK_FULL):
        return MachineTrouble(f"{reason.replace(_DISK_FULL, '').rstrip()}; the disk there is full, which may be why")
    if result.status in _FINAL:
        return BuildFailed(reason, status)
    return MachineTrouble(reason)
