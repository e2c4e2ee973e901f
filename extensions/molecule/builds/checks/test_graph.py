# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo's graph, whose steps need different features, built by plain nix-build.

Root opens the store itself, the ordinary user `operator` builds through Nix's daemon.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest
from hosts import Build, Client, Host

STEPS = {"generate", "compile", "measure", "train", "render", "document", "release"}


@dataclass(frozen=True)
class Graph:
    """A graph that was built: by step its place (a builder's name), its derivation and its output."""

    run: str
    user: str
    built: Build
    places: dict[str, str]
    derivations: dict[str, str]
    outputs: dict[str, str]

    def command(self) -> list[str]:
        """What it was built with."""
        return ["nix-build", "--no-out-link", "--argstr", "run", self.run, "/opt/builds/graph.nix"]

    def on(self, builder: str) -> set[str]:
        """The steps that say that they ran there."""
        return {step for step, place in self.places.items() if place == builder}


@pytest.fixture(scope="module", params=["root", "operator"])
def graph(request: pytest.FixtureRequest, client: Client) -> Graph:
    """Builds the graph as one user."""
    user = request.param
    run = f"{client.name}-{user}-{time.time_ns()}"
    command = ["nix-build", "--no-out-link", "--argstr", "run", run, "/opt/builds/graph.nix"]
    done = client.try_(*command, user=user)
    assert done.returncode == 0, done.stderr
    built = Build(done.returncode, done.stdout.split(), done.stderr)
    lines = [line.split() for line in client.read(*built.paths)]
    listed = client.shell(
        """
        top=$(nix-instantiate --argstr run "$1" /opt/builds/graph.nix)
        for drv in $(nix-store --query --requisites "$top" | grep '[.]drv$'); do
          echo "$drv $(nix-store --query --outputs "$drv")"
        done
        """,
        run,
    )
    derivations = {drv[44:].removesuffix(".drv"): (drv, out) for drv, out in map(str.split, listed.splitlines())}
    return Graph(
        run,
        user,
        built,
        {step: host.removeprefix(f"{client.fleet}-") for step, host, *_features in lines},
        {step: drv for step, (drv, _out) in derivations.items()},
        {step: out for step, (_drv, out) in derivations.items()},
    )


def test_every_step_runs_on_a_machine_that_has_its_features(graph: Graph) -> None:
    assert graph.places.keys() == STEPS == graph.derivations.keys()
    assert graph.places["compile"] == "builder1"
    assert graph.places["measure"] == "builder2"
    assert graph.on("builder3") == {"train", "render"}  # its feature is mandatory: it gets nothing else
    assert graph.on("builder1") | graph.on("builder2") | graph.on("builder3") == STEPS


def test_a_steps_script_is_in_the_store_of_its_builder_only(graph: Graph, builders: dict[str, Host]) -> None:
    suffix = f"-{graph.run}.sh"
    found = {name: {path.removesuffix(suffix) for path in host.store(f".*{suffix}")} for name, host in builders.items()}
    assert found == {name: graph.on(name) for name in builders}


def test_intermediate_outputs_travel(graph: Graph, client: Client, builders: dict[str, Host]) -> None:
    # What builder2 measured is what builder1 compiled, by way of the client.
    assert [line.split()[0] for line in client.read(graph.outputs["measure"])] == ["generate", "compile", "measure"]
    for host in (client, builders["builder1"], builders["builder2"], builders["builder3"]):
        host.run("nix-store", "--check-validity", graph.outputs["compile"])
    # What no step there needs is not sent there.
    assert builders["builder3"].try_("test", "-e", graph.outputs["measure"]).returncode == 1


def test_log_arrives_at_the_client(graph: Graph, client: Client) -> None:
    lines = graph.built.log.splitlines()
    expected = [f"{step}: building on {client.fleet}-{place}" for step, place in graph.places.items()]
    assert {line for line in lines if ": building on " in line} == set(expected)
    assert "@nix" not in graph.built.log
    derivations = [graph.derivations[step] for step in graph.places]
    assert client.run("nix-store", "--read-log", *derivations).splitlines() == expected
    assert client.nix("log", derivations[0]).splitlines() == expected[:1]


def test_outputs_are_signed_by_their_builder(graph: Graph, client: Client, builders: dict[str, Host]) -> None:
    keys = {name: host.run("cat", "/etc/nix/nixfleet-signing-key.pub").strip() for name, host in builders.items()}
    for name in builders:
        outputs = [graph.outputs[step] for step in graph.on(name)]
        for signer, key in keys.items():
            # Exit code: 0 all are signed, 2 some are not.
            verified = client.try_(
                *("nix", "--extra-experimental-features", "nix-command", "store", "verify", "--no-contents"),
                *("--sigs-needed", "1", "--option", "trusted-public-keys", key, *outputs),
            )
            assert verified.returncode == (0 if signer == name or not outputs else 2), verified.stderr
    shown = client.nix("path-info", "--sigs", graph.outputs["measure"])
    assert f" {keys['builder2'].partition(':')[0]}:" in shown.replace("\t", " ")


def test_post_build_hook_runs_on_both_sides(graph: Graph, client: Client, builders: dict[str, Host]) -> None:
    for host, steps in [(client, STEPS), *((host, graph.on(name)) for name, host in builders.items())]:
        noted = host.run("cat", "/var/log/post-build-hook").splitlines()
        assert sorted(set(graph.derivations.values()) & set(noted)) == sorted(graph.derivations[step] for step in steps)
        assert max(map(noted.count, (graph.derivations[step] for step in steps)), default=1) == 1


def test_second_build_does_nothing(graph: Graph, client: Client) -> None:
    done = client.try_(*graph.command(), user=graph.user)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, graph.built.paths, "")
