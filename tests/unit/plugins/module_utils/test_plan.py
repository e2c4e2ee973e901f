# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be built, over a played store of the client's."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import derivation, plan
from ansible_collections.nixfleet.builders.plugins.module_utils.derivation import Requirements
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine
from ansible_collections.nixfleet.builders.plugins.module_utils.plan import Plan, PlanError
from ansible_collections.nixfleet.builders.plugins.module_utils.protocol import Missing
from ansible_collections.nixfleet.builders.plugins.module_utils.route import Candidate, LocalMachine
from ansible_collections.nixfleet.builders.tests.support.played_fleet import Drv, World, drv, store_path

SOURCE = store_path("source")
LINUX = LocalMachine("x86_64-linux", max_jobs=0)


class Client:
    """A played client: what is valid in its store, what was protected there, and which files were read."""

    def __init__(self) -> None:
        self.world = World([])
        self.store: t.Any = self.world.client().open()
        self.protected: list[set[str]] = []
        self.read: list[str] = []
        self.world.here.fault = self._watch

    def _watch(self, operation: str, request: t.Any) -> None:
        if operation == "AddTempRoot":
            self.protected.append(set(request))

    def read_file(self, path: str) -> bytes:
        self.read.append(path)
        return self.world.read_file(path)

    def has(self, *paths: str) -> None:
        for path in paths:
            self.world.here.add(path)

    def plan(self, *wanted: Drv, names: t.Sequence[str] = ()) -> Plan:
        """For these outputs of each, none named: all of them."""
        self.world.know(wanted)
        return self.ask({each.path: names for each in wanted})

    def ask(self, roots: t.Mapping[str, t.Collection[str]]) -> Plan:
        return plan.make(self.store, roots, self.read_file)

    def answer(self, **missing: t.Any) -> None:
        """What the store says is missing."""
        parts: dict[str, t.Any] = {"will_build": (), "will_substitute": (), "unknown": (), "download_size": 0}
        answer = Missing(**{**parts, "nar_size": 0, **missing})
        self.store.missing = lambda targets: list(targets) and answer


@pytest.fixture
def client() -> Client:
    return Client()


def test_a_graph(client: Client) -> None:
    low = drv("low", sources=[SOURCE], features="kvm")
    middle = drv("middle", [low], outputs=("out", "dev"))
    top = drv("top", [low, middle], sources=[SOURCE])
    found = client.plan(top)
    assert found.wanted == {top.path: {"out": top.out}}
    assert found.wanted_paths == [top.out]
    assert list(found.tasks) == [low.path, middle.path, top.path]
    task = found.tasks[top.path]
    assert task.drv == derivation.parse(top.path, top.text)
    assert (task.outputs, task.wanted) == ({"out": top.out}, frozenset({"out"}))
    assert task.inputs == tuple(sorted([SOURCE, low.out, middle.out]))
    assert sorted(task.needs) == sorted([low.path, middle.path])
    assert found.tasks[low.path].required == Requirements("x86_64-linux", frozenset({"kvm"}))
    assert [(found.tasks[each.path].needs, found.tasks[each.path].wanted) for each in (low, middle)] == [
        ((), frozenset()),
        ((low.path,), frozenset()),
    ]
    assert found.makers == {
        low.out: low.path,
        middle.out: middle.path,
        middle.outputs["dev"]: middle.path,
        top.out: top.path,
    }
    assert sorted(found.graph.dependents[low.path]) == sorted([middle.path, top.path])
    assert found.substitute == frozenset()
    # Its file is read for the graph, and not again for what needs it.
    assert client.read.count(low.path) == 1


def test_some_outputs(client: Client) -> None:
    made = drv("made", outputs=("out", "dev", "doc"))
    found = client.plan(made, names=("doc", "dev"))
    assert found.wanted == {made.path: {"doc": made.outputs["doc"], "dev": made.outputs["dev"]}}
    assert found.tasks[made.path].wanted == {"dev", "doc"}
    assert found.tasks[made.path].outputs == made.outputs


def test_only_wanted_outputs_are_missing(client: Client) -> None:
    made = drv("made", outputs=("out", "dev"))
    client.has(made.outputs["dev"])
    assert not client.plan(made, names=("dev",)).tasks
    assert client.plan(made).tasks


def test_what_is_there_is_not_built_and_protected(client: Client) -> None:
    low = drv("low", outputs=("out", "dev"))
    side = drv("side", sources=[SOURCE])
    top = drv("top", [low], sources=[store_path("other")])
    client.has(low.out, side.out)
    found = client.plan(top, side)
    assert list(found.tasks) == [top.path]
    assert found.tasks[top.path].needs == ()
    assert found.tasks[top.path].inputs == tuple(sorted([low.out, store_path("other")]))
    # First what is wanted, before it is read; then what is used of the store, and nothing else.
    assert client.protected == [{top.path, side.path}, {low.out, store_path("other"), side.out}]


def test_what_is_substituted(client: Client) -> None:
    low, side = drv("low"), drv("side")
    top = drv("top", [low])
    client.world.substitutable = {low.out, side.out}
    client.answer(will_build=(top.path,), will_substitute=(low.out, side.out), download_size=5, nar_size=7)
    found = client.plan(top, side)
    assert list(found.tasks) == [top.path]
    assert (found.substitute, found.download_size, found.nar_size) == (frozenset({low.out, side.out}), 5, 7)
    assert found.wanted_paths == [top.out, side.out]
    assert client.protected[1:] == [set()]


def test_nothing_is_wanted_twice(client: Client) -> None:
    made, same = drv("made"), drv("same")._replace(outputs={"out": store_path("made")})
    client.has(made.out)
    assert client.plan(made, same).wanted_paths == [made.out]
    assert client.ask({}).wanted_paths == []


def test_derivations_that_are_not_there(client: Client) -> None:
    client.world.know([drv("there")])
    gone = [drv(f"gone{number}").path for number in range(12)]
    with pytest.raises(PlanError, match="not in the store of this host; make them again") as error:
        client.ask(dict.fromkeys([*gone, drv("there").path], ()))
    assert str(error.value).startswith(", ".join(sorted(gone)[:10]) + " and 2 more: ")
    assert drv("there").path not in str(error.value)
    assert not client.read
    with pytest.raises(PlanError, match=f"^{gone[0]}: not in the store"):
        client.ask({gone[0]: ()})


def test_outputs_that_there_are_not(client: Client) -> None:
    made = drv("made", outputs=("out", "dev"))
    with pytest.raises(PlanError, match=f"{made.path} has no output doc, info, lib, man; its outputs are dev, out"):
        client.plan(made, names=("lib", "out", "doc", "man", "info"))


def test_inputs_that_nobody_has(client: Client) -> None:
    made = drv("made")
    client.answer(unknown=(SOURCE,))
    with pytest.raises(PlanError, match=f"nobody can make {SOURCE}, which is needed"):
        client.plan(made)


def test_inputs_that_are_deleted_while_it_is_planned(client: Client) -> None:
    low = drv("low")
    top = drv("top", [low])
    client.has(low.out)
    watch = client.world.here.fault

    def fault(operation: str, request: t.Any) -> None:
        watch(operation, request)
        if len(client.protected) == 2:
            client.world.here.delete(low.out)

    client.world.here.fault = fault
    with pytest.raises(PlanError, match=f"{low.out}: deleted from this host's store just now; run it again"):
        client.plan(top)


class Unknown(Drv):
    """A derivation whose output's path is not known before."""

    @property
    def text(self) -> bytes:
        return Drv(*self).text.replace(f'"{self.out}","",""'.encode(), b'"","r:sha256",""')


class Fixed(Drv):
    """A fixed-output derivation."""

    @property
    def text(self) -> bytes:
        return Drv(*self).text.replace(f'"{self.out}","",""'.encode(), f'"{self.out}","sha256","{"0" * 64}"'.encode())


def test_fixed_outputs_are_built(client: Client) -> None:
    made = Fixed(*drv("made"))
    assert client.plan(made).tasks[made.path].drv.kind == derivation.FIXED


@pytest.mark.parametrize("place", ["wanted", "built", "there"])
def test_derivations_that_are_not_dispatched(client: Client, place: str) -> None:
    """Wanted ones, those that would be built on the way, and those whose outputs are there already."""
    low = Unknown(*drv("low"))
    top = drv("top", [low])
    if place == "there":
        client.has(low.out)
    with pytest.raises(PlanError) as error:
        client.plan(low if place == "wanted" else top)
    assert str(error.value).startswith(f"{low.path}: floating content-addressed, which is not dispatched")


def test_derivations_that_are_not_dispatched_are_all_named(client: Client) -> None:
    low, side = Unknown(*drv("low")), Unknown(*drv("side"))
    with pytest.raises(PlanError, match=f"^{', '.join(sorted([low.path, side.path]))}: floating content-addressed,"):
        client.plan(drv("top", [low, side]))


def test_a_wanted_derivation_that_is_not_dispatched_and_built_already(client: Client) -> None:
    low = Unknown(*drv("low"))
    client.answer()
    with pytest.raises(PlanError, match=f"^{low.path}: floating content-addressed"):
        client.plan(low)


# ---------------------------------------------------------------------------------------------------- routes


def test_routes_are_checked(client: Client) -> None:
    found = client.plan(drv("plain"), drv("needy", features="kvm"))
    plain = Machine("ssh-ng://u@b1", systems=("x86_64-linux",))
    with pytest.raises(PlanError, match="needy") as error:
        plan.check_routes(found, [plain, LINUX], "x86_64-linux")
    assert "b1" in str(error.value) and "plain" not in str(error.value)
    # Without systems it builds for the client's.
    able = Machine("ssh-ng://u@b2", supported_features=("kvm",))
    plan.check_routes(found, [plain, able], "x86_64-linux")
    with pytest.raises(PlanError):
        plan.check_routes(found, [plain, able], "aarch64-linux")


def test_a_plan_in_words(client: Client) -> None:
    low = drv("low", features="kvm big nixos-test benchmark")
    top = drv("top", [low], outputs=("out", "dev"))
    found = client.plan(top)
    machines: list[Candidate] = [
        Machine("ssh-ng://u@b1"),
        Machine("ssh-ng://u@b2", speed_factor=2),
        Machine("ssh-ng://u@b3", supported_features=("benchmark", "big", "kvm", "nixos-test")),
        LocalMachine("x86_64-linux"),
    ]
    assert plan.describe(found, machines, "x86_64-linux") == [
        {
            "derivation": low.path,
            "name": "low",
            "system": "x86_64-linux",
            "features": ["benchmark", "big", "kvm", "nixos-test"],
            "outputs": {"out": low.out},
            "machines": ["b3"],
        },
        {
            "derivation": top.path,
            "name": "top",
            "system": "x86_64-linux",
            "features": [],
            "outputs": top.outputs,
            "machines": ["b2", "b1", "b3", "this host itself"],
        },
    ]
