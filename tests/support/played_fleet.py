# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts that are played, for tests of a dispatch: stores in memory, builds that take no time, faults at will."""

from __future__ import annotations

import hashlib
import threading
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils import protocol
from ansible_collections.nixfleet.builders.plugins.module_utils.channel import ChannelClosed, ChannelError
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine
from ansible_collections.nixfleet.builders.plugins.module_utils.protocol import (
    BuildResult,
    BuildStatus,
    Missing,
    PathInfo,
    RemoteError,
)

NAR = b"the same for all"


def digest(text: str) -> str:
    """32 characters that a store path may begin with."""
    table = str.maketrans("0123456789abcdef", "0123456789abcdfg")
    return hashlib.sha256(text.encode()).hexdigest()[:32].translate(table)


def store_path(name: str) -> str:
    return f"/nix/store/{digest(name)}-{name}"


def info(path: str, references: t.Iterable[str] = ()) -> PathInfo:
    return PathInfo(
        path, None, hashlib.sha256(path.encode()).hexdigest(), tuple(references), 1, len(NAR), False, (), ""
    )


class Drv(t.NamedTuple):
    """A derivation of the played world."""

    path: str
    outputs: dict[str, str]
    needs: tuple[Drv, ...]
    sources: tuple[str, ...]
    features: str
    fails: bool

    @property
    def out(self) -> str:
        return self.outputs["out"]

    @property
    def text(self) -> bytes:
        outputs = ",".join(f'("{name}","{path}","","")' for name, path in sorted(self.outputs.items()))
        inputs = ",".join(f'("{each.path}",["out"])' for each in sorted(self.needs, key=lambda each: each.path))
        sources = ",".join(f'"{path}"' for path in sorted(self.sources))
        env = f'("requiredSystemFeatures","{self.features}")' if self.features else ""
        return f'Derive([{outputs}],[{inputs}],[{sources}],"x86_64-linux","/bin/sh",[],[{env}])'.encode()


def drv(
    name: str,
    needs: t.Iterable[Drv] = (),
    sources: t.Iterable[str] = (),
    features: str = "",
    fails: bool = False,
    outputs: t.Iterable[str] = ("out",),
) -> Drv:
    paths = {each: store_path(name if each == "out" else f"{name}-{each}") for each in outputs}
    return Drv(store_path(name) + ".drv", paths, tuple(needs), tuple(sources), features, fails)


class Host:
    """One store. fault: is called before each operation with its name and its request, and may raise or wait."""

    def __init__(self, name: str, trusted: bool | None = True) -> None:
        self.name = name
        self.trusted = trusted
        self.valid: dict[str, PathInfo] = {}
        self.up = True
        self.fault: t.Callable[[str, t.Any], None] = lambda operation, request: None
        self.built: list[str] = []
        self.received: list[str] = []
        self.roots: list[str] = []
        self.opened = 0
        #: What the load probe says.
        self.load = b""
        self.channels: set[PlayedChannel] = set()

    def down(self) -> None:
        """All connections break, no new ones are made."""
        self.up = False
        for channel in list(self.channels):
            channel.abort()

    def add(self, path: str, references: t.Iterable[str] = ()) -> None:
        self.valid[path] = info(path, references)

    def delete(self, path: str) -> None:
        """With all that refers to it."""
        if self.valid.pop(path, None):
            for other in [each for each in self.valid.values() if path in each.references]:
                self.delete(other.path)


class PlayedChannel:
    bytes_in = bytes_out = 0

    def __init__(self, host: Host) -> None:
        self.name = host.name
        self.aborted = threading.Event()
        host.channels.add(self)

    def abort(self) -> None:
        self.aborted.set()


class PlayedPending:
    def __init__(self, answer: t.Callable[[], t.Any]) -> None:
        self._answer = answer
        self._value: t.Any = None
        self._asked = False

    @property
    def done(self) -> bool:
        return self._asked

    def result(self) -> t.Any:
        if not self._asked:
            self._value = self._answer()
            self._asked = True
        return self._value


class PlayedStore:
    """As much of a Store as a dispatch uses."""

    def __init__(self, world: World, host: Host) -> None:
        self._world = world
        self._host = host
        self.channel = PlayedChannel(host)
        self.trusted = host.trusted
        self.nix_version = "2.26.3"
        self.broken = False

    def _do(self, operation: str, request: t.Any = None) -> None:
        try:
            if self.broken or self.channel.aborted.is_set() or not self._host.up:
                raise ChannelClosed(self._host.name, "it is gone")
            self._host.fault(operation, request)
            if self.channel.aborted.is_set() or not self._host.up:
                raise ChannelClosed(self._host.name, "it went")
        except ChannelError:
            self.broken = True
            raise

    def close(self) -> None:
        self.broken = True

    def queue(self, operation: protocol.Operation[t.Any, t.Any], request: t.Any, on_event: t.Any = None) -> t.Any:
        return PlayedPending(lambda: self._answer(operation, request))

    def _answer(self, operation: protocol.Operation[t.Any, t.Any], request: t.Any) -> t.Any:
        if operation is protocol.QUERY_VALID_PATHS:
            return tuple(self.valid_paths(request.paths, request.substitute))
        self._do(operation.name, request)
        if operation is protocol.QUERY_PATH_INFO:
            return self._host.valid.get(request)
        if operation is protocol.BUILD_DERIVATION:
            if self._host.trusted is False or getattr(self._host, "silent_mistrust", False):
                raise RemoteError(0, "you are not privileged to build input-addressed derivations")
            return self._build(request.drv_path, request.derivation.input_srcs)
        if operation is protocol.BUILD_PATHS_WITH_RESULTS:
            target = request.targets[0].partition("!")[0]
            made = self._world.drvs[target]
            if target not in self._host.valid:
                raise RemoteError(0, f"path '{target}' is not valid")
            result = self._build(target, [*made.sources, *(each.out for each in made.needs)])
            return (protocol.KeyedBuildResult(request.targets[0], result),)
        return None

    def _build(self, path: str, inputs: t.Iterable[str]) -> BuildResult:
        made = self._world.drvs[path]
        missing = [each for each in inputs if each not in self._host.valid]
        if missing:
            raise RemoteError(0, f"dependency '{missing[0]}' does not exist, and substitution is disabled")
        if made.fails:
            return self._result(BuildStatus.PERMANENT_FAILURE, "builder failed with exit code 1")
        with self._world.lock:
            fresh = not all(each in self._host.valid for each in made.outputs.values())
            for each in made.outputs.values():
                self._host.add(each, [*made.sources, *(needed.out for needed in made.needs)])
            if fresh:
                self._host.built.append(path)
        return self._result(BuildStatus.BUILT if fresh else BuildStatus.ALREADY_VALID, "")

    @staticmethod
    def _result(status: BuildStatus, error: str) -> BuildResult:
        return BuildResult(status, error, 1, False, 5, 6, None, None, {})

    def valid_paths(self, paths: t.Iterable[str], substitute: bool = False) -> set[str]:
        wanted = set(paths)
        self._do("QueryValidPaths", wanted)
        if substitute:
            for path in wanted & self._world.substitutable:
                self._host.add(path)
        return wanted & self._host.valid.keys()

    def add_temp_roots(self, paths: t.Iterable[str]) -> None:
        self._do("AddTempRoot", paths)

    def add_indirect_root(self, link: str) -> None:
        self._do("AddIndirectRoot", link)
        self._host.roots.append(link)

    def build_paths(self, targets: t.Iterable[str]) -> dict[str, BuildResult]:
        found = {}
        for path in targets:
            self._do("BuildPathsWithResults", path)
            if path in self._world.substitutable:
                self._host.add(path)
                found[path] = self._result(BuildStatus.SUBSTITUTED, "")
            else:
                found[path] = self._result(BuildStatus.NO_SUBSTITUTERS, f"no substituter has {path}")
        return found

    def missing(self, targets: t.Iterable[str]) -> Missing:
        self._do("QueryMissing")
        build: set[str] = set()
        fetch: set[str] = set()

        def look(made: Drv, names: t.Iterable[str]) -> None:
            absent = {made.outputs[name] for name in names} - self._host.valid.keys()
            if not absent or made.path in build:
                return
            if absent <= self._world.substitutable:
                fetch.update(absent)
                return
            build.add(made.path)
            for needed in made.needs:
                look(needed, ["out"])

        for target in targets:
            path, _mark, names = target.partition("!")
            look(self._world.drvs[path], names.split(","))
        return Missing(tuple(build), tuple(fetch), (), 0, 0)

    def nars(self, infos: t.Iterable[PathInfo], verify: bool = True) -> t.Iterator[tuple[PathInfo, t.Iterator[bytes]]]:
        for each in infos:
            self._do("NarFromPath", each.path)
            if each.path not in self._host.valid:
                raise RemoteError(0, f"path '{each.path}' is not valid")
            yield each, iter([NAR])

    def queue_add_many(self, count: int, items: t.Any, check_signatures: bool, on_event: t.Any = None) -> t.Any:
        for each, pieces in items:
            content = b"".join(pieces)
            self._do("AddMultipleToStore", each.path)
            if content != NAR:
                raise RemoteError(0, "hash mismatch")
            lacking = set(each.references) - self._host.valid.keys() - {each.path}
            if lacking:
                raise RemoteError(0, f"{each.path} refers to {lacking}, which is not there")
            with self._world.lock:
                self._host.valid[each.path] = each
                self._host.received.append(each.path)
        return PlayedPending(lambda: None)


class PlayedOpener:
    def __init__(self, world: World, host: Host) -> None:
        self._world = world
        self._host = host

    def open(self) -> t.Any:
        self._host.fault("open", None)
        if not self._host.up:
            raise ChannelError(self._host.name, "no route to host")
        self._host.opened += 1
        return PlayedStore(self._world, self._host)

    def measure(self) -> bytes:
        self._host.fault("measure", None)
        if not self._host.up:
            raise ChannelError(self._host.name, "no route to host")
        return self._host.load

    def close(self) -> None:
        pass


class World:
    """All hosts, and the derivations there are. Is what dispatch.Stores is."""

    def __init__(self, hosts: t.Iterable[str] = ("b1", "b2")) -> None:
        self.lock = threading.RLock()
        self.here = Host("client")
        self.hosts = {name: Host(name) for name in hosts}
        self.drvs: dict[str, Drv] = {}
        self.substitutable: set[str] = set()

    def know(self, wanted: t.Iterable[Drv]) -> None:
        """The client has these .drv files, their sources, and those of all they need."""
        for each in wanted:
            if each.path in self.drvs:
                continue
            self.know(each.needs)
            self.drvs[each.path] = each
            for path in each.sources:
                self.here.add(path)
            self.here.add(each.path, [*each.sources, *(needed.path for needed in each.needs)])

    def read_file(self, path: str) -> bytes:
        return self.drvs[path].text

    def machines(self, max_jobs: int = 2, **values: t.Any) -> list[Machine]:
        return [
            Machine(f"ssh-ng://{name}", systems=("x86_64-linux",), max_jobs=max_jobs, **values) for name in self.hosts
        ]

    def client(self) -> PlayedOpener:
        return PlayedOpener(self, self.here)

    def machine(self, machine: Machine) -> PlayedOpener:
        return PlayedOpener(self, self.hosts[machine.parts.host])

    @property
    def built(self) -> list[str]:
        """What was built, on all hosts."""
        return [path for host in (self.here, *self.hosts.values()) for path in host.built]
