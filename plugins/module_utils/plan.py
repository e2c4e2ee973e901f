# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is to be built for some wanted outputs, and what each of it needs: asked of the client's store, before a run."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.nixfleet.builders.plugins.module_utils import derivation, route
from ansible_collections.nixfleet.builders.plugins.module_utils.derivation import Derivation, Graph, Requirements
from ansible_collections.nixfleet.builders.plugins.module_utils.protocol import derived_path
from ansible_collections.nixfleet.builders.plugins.module_utils.store import Store

#: The kinds that are built; the paths of others are not known before, or not even after (derivation.py).
SUPPORTED = (derivation.INPUT_ADDRESSED, derivation.FIXED)
#: How many derivations a message names.
_NAMED = 10


class PlanError(Exception):
    """Nothing can be built as it is asked for; nothing was. The text says why and what to do."""


@dataclass(frozen=True)
class Task:
    """One derivation to build.

    outputs: all its outputs' paths by name. wanted: those that were asked for. inputs: the paths that it refers to
    directly, sorted. needs: the tasks among its inputs, by .drv path.
    """

    drv: Derivation
    required: Requirements
    outputs: t.Mapping[str, str]
    wanted: frozenset[str]
    inputs: tuple[str, ...]
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What a run does.

    wanted: the paths that were asked for, by .drv path and output. tasks: what is built, inputs first, by .drv path.
    substitute: paths that the client's substituters have. download_size, nar_size: of these, bytes.
    graph: of the tasks.
    """

    wanted: t.Mapping[str, t.Mapping[str, str]]
    tasks: t.Mapping[str, Task]
    substitute: frozenset[str]
    download_size: int
    nar_size: int
    graph: Graph

    @property
    def wanted_paths(self) -> list[str]:
        """Every wanted path, in the order they were asked for."""
        return list(dict.fromkeys(path for outputs in self.wanted.values() for path in outputs.values()))

    @property
    def makers(self) -> dict[str, str]:
        """The .drv path of the task that makes a path, by the path."""
        return {path: drv for drv, task in self.tasks.items() for path in task.outputs.values()}


def make(store: Store, roots: t.Mapping[str, t.Collection[str]], read_file: derivation.ReadFile) -> Plan:
    """The plan for these wanted outputs by .drv path (none named: all of them).

    The derivations, and the inputs that are there already, are protected from the garbage collector for as long as the
    store stays open. Raises PlanError, DerivationError, and what Store raises.
    """
    store.add_temp_roots(roots)
    gone = set(roots) - store.valid_paths(roots)
    if gone:
        raise PlanError(f"{_few(gone)}: not in the store of this host; make them again with nix-instantiate")
    known: dict[str, Derivation] = {}

    def read(path: str) -> Derivation:
        if path not in known:
            known[path] = derivation.read_graph({path: ()}, read_file, {path}).derivations[path]
        return known[path]

    wanted = {}
    for path, names in roots.items():
        drv = read(path)
        _check_kind([drv])
        missing = set(names) - set(drv.outputs)
        if missing:
            raise PlanError(
                f"{path} has no output {', '.join(sorted(missing))}; its outputs are {', '.join(drv.outputs)}"
            )
        wanted[path] = {name: drv.outputs[name].path for name in (names or drv.outputs)}
    missing_there = store.missing(derived_path(path, names) for path, names in wanted.items())
    if missing_there.unknown:
        raise PlanError(f"nobody can make {_few(missing_there.unknown)}, which is needed: it has no derivation here")
    graph = derivation.read_graph(wanted, read_file, set(missing_there.will_build))
    _check_kind(graph.derivations.values())
    known.update(graph.derivations)
    tasks = {}
    for path, drv in graph.derivations.items():
        inputs = set(drv.input_srcs)
        for needed, names in drv.input_drvs.items():
            made = read(needed)
            _check_kind([made])
            inputs.update(made.outputs[name].path for name in names if name in made.outputs)
        tasks[path] = Task(
            drv=drv,
            required=derivation.requirements(drv),
            outputs=drv.output_paths,
            wanted=frozenset(wanted.get(path, ())),
            inputs=tuple(sorted(inputs)),
            needs=graph.inputs[path],
        )
    plan = Plan(
        wanted,
        tasks,
        frozenset(missing_there.will_substitute),
        missing_there.download_size,
        missing_there.nar_size,
        graph,
    )
    _protect(store, plan)
    return plan


def _protect(store: Store, plan: Plan) -> None:
    """Holds what is used of the store; nothing else keeps the outputs of derivations that need not be built."""
    made = plan.makers
    used = {path for task in plan.tasks.values() for path in task.inputs} | set(plan.wanted_paths)
    used -= plan.substitute | made.keys()
    store.add_temp_roots(sorted(used))
    gone = used - store.valid_paths(used)
    if gone:
        raise PlanError(f"{_few(gone)}: deleted from this host's store just now; run it again")


def _check_kind(derivations: t.Iterable[Derivation]) -> None:
    """Refuses what cannot be built here, by name."""
    other = [drv for drv in derivations if drv.kind not in SUPPORTED]
    if other:
        kinds = sorted({drv.kind for drv in other})
        raise PlanError(
            f"{_few(drv.path for drv in other)}: {' and '.join(kinds)}, which is not dispatched, as the paths of the "
            "outputs are not known before they are built; build it with Nix itself"
        )


def check_routes(plan: Plan, candidates: t.Sequence[route.Candidate], own_system: str) -> None:
    """Raises PlanError with a table where no candidate takes some task."""
    table = route.unroutable(((task.drv.name, task.required) for task in plan.tasks.values()), candidates, own_system)
    if table:
        raise PlanError(table)


def describe(plan: Plan, candidates: t.Sequence[route.Candidate], own_system: str) -> list[dict[str, t.Any]]:
    """Each task with the machines that may take it, in the order in which Nix would choose while all are idle."""
    takers: dict[Requirements, list[str]] = {}
    rows = []
    for path, task in plan.tasks.items():
        if task.required not in takers:
            found = route.route(candidates, task.required, own_system).takers
            takers[task.required] = [route.label(candidate) for candidate in found]
        rows.append(
            {
                "derivation": path,
                "name": task.drv.name,
                "system": task.required.system,
                "features": sorted(task.required.features),
                "outputs": dict(task.outputs),
                "machines": takers[task.required],
            }
        )
    return rows


def _few(paths: t.Iterable[str]) -> str:
    """The first paths, and how many more."""
    named = sorted(paths)
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return ", ".join(named[:_NAMED]) + more
