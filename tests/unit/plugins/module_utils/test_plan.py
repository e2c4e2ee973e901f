# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be built."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import plan
from ansible_collections.nixfleet.builders.plugins.module_utils.plan import Plan, PlanError
from ansible_collections.nixfleet.builders.plugins.module_utils.route import LocalMachine
from ansible_collections.nixfleet.builders.tests.support.played_fleet import Drv, World, drv, store_path

SOURCE = store_path("source")


def make(world: World, *wanted: Drv, outputs: t.Collection[str] = ()) -> Plan:
    world.know(wanted)
    return plan.make(world.client().open(), {each.path: outputs for each in wanted}, world.read_file)


def test_only_what_is_missing_is_built() -> None:
    world = World()
    there, low = drv("there"), drv("low", sources=[SOURCE])
    top = drv("top", [low, there], [SOURCE], features="kvm", outputs=("out", "dev"))
    world.here.add(there.out)
    made = make(world, top, outputs=["dev"])
    assert list(made.tasks) == [low.path, top.path] and made.wanted_paths == [top.outputs["dev"]]
    task = made.tasks[top.path]
    assert task.needs == (low.path,) and set(task.inputs) == {low.out, there.out, SOURCE}
    assert task.wanted == {"dev"} and task.outputs == top.outputs and task.required.features == {"kvm"}
    assert made.makers[top.out] == top.path


def test_nothing_is_missing() -> None:
    world = World()
    top = drv("top")
    world.here.add(top.out)
    assert not make(world, top).tasks


def test_refusals() -> None:
    world = World()
    with pytest.raises(PlanError, match="no output man"):
        make(world, drv("a"), outputs=["man"])
    gone = drv("gone")
    world.know([gone])
    world.here.delete(gone.path)
    with pytest.raises(PlanError, match="not in the store"):
        make(world, gone)


@pytest.mark.parametrize("output", ['("out","","r:sha256","")', '("out","","r:sha256","impure")', '("out","","","")'])
def test_what_has_no_known_paths_is_refused_by_name(output: str) -> None:
    world = World()
    low = drv("low")
    top = drv("top", [low])
    world.know([top])

    def read(path: str) -> bytes:
        text = world.read_file(path)
        return text if path == top.path else b"Derive([" + output.encode() + text[text.index(b"],[") :]

    with pytest.raises(PlanError, match=f"{low.path}.*not dispatched"):
        plan.make(world.client().open(), {top.path: ()}, read)


def test_tells_who_takes_what() -> None:
    world = World()
    top = drv("top", [drv("low")], features="kvm")
    made = make(world, top)
    candidates = [*world.machines(supported_features=("kvm",)), LocalMachine("x86_64-linux")]
    rows = plan.describe(made, candidates, "x86_64-linux")
    assert [(row["name"], row["machines"]) for row in rows] == [
        ("low", ["b1", "b2", "this host itself"]),
        ("top", ["b1", "b2"]),
    ]
    with pytest.raises(PlanError, match="kvm"):
        plan.check_routes(made, world.machines(), "x86_64-linux")
