# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What else Nix's own tests of remote builds try, and builds that are large or many."""

from __future__ import annotations

import re
import subprocess
import time

import pytest
from hosts import Client, Host


def test_every_builder_is_reached_by_key_alone(client: Client, builders: dict[str, Host], protocol: str) -> None:
    lines = [line.split() for line in client.read("/etc/nix/machines") if not line.startswith("#")]
    assert [line[0] for line in lines] == [f"{protocol}://nixremote@{name}" for name in builders]
    for line in lines:
        client.nix("store", "ping", "--store", line[0])


def test_log_is_live(client: Client, run: str) -> None:
    command = client.command(client.build_command("talks", run))
    seen: dict[str, float] = {}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            seen[line.rstrip()] = time.monotonic()
    assert process.returncode == 0
    # The builder script sleeps for 3 s between the two.
    assert seen["last words"] - seen["first words"] > 1


def test_phases_are_records_in_the_log_and_nothing_else(client: Client, run: str, protocol: str) -> None:
    built = client.build("phases", run)
    log = client.run("nix-store", "--read-log", client.derivation("phases", run)).splitlines()
    assert "sparks fly" in built.log.splitlines()
    assert "@nix" not in built.log
    # Nix 2.8 does not write down the records that come from afar; over ssh there are none.
    kept = protocol == "ssh-ng" and client.nix_version() > (2, 8)
    assert log == ['@nix {"action":"setPhase","phase":"welding"}'] * kept + ["sparks fly"]


def test_parallel_builds_spread_over_the_slots(client: Client, run: str) -> None:
    built = client.build("parallel", run)
    spans: dict[str, list[tuple[float, float]]] = {}
    for host, start, end in sorted(map(str.split, client.read(*built.paths)), key=lambda fields: float(fields[1])):
        spans.setdefault(host.removeprefix(f"{client.fleet}-"), []).append((float(start), float(end)))
    assert spans.keys() == {"builder1", "builder2"}
    # Both have worked at the same time, and each did one thing after the other.
    assert spans["builder1"][0][0] < spans["builder2"][0][1]
    assert spans["builder2"][0][0] < spans["builder1"][0][1]
    for one in spans.values():
        assert all(earlier[1] <= later[0] for earlier, later in zip(one, one[1:]))


@pytest.mark.parametrize("user", ["root", "operator"])
def test_failure_is_told(client: Client, run: str, user: str) -> None:
    built = client.try_build("fails", run, user=user)
    assert built.code != 0
    assert built.paths == []
    told = [line for line in built.log.splitlines() if line.startswith("this cannot work on ")]
    assert len(told) == 1
    assert "failed with exit code 7" in built.log
    assert told[0] in client.run("nix-store", "--read-log", client.derivation("fails", run)).splitlines()


def test_directory_of_a_failed_build_is_kept(client: Client, builders: dict[str, Host], run: str) -> None:
    # On the builder, and not on the client.
    built = client.try_build("fails", run, "--keep-failed")
    assert built.code != 0
    place = re.findall(r"^this cannot work on \S+-(builder\d)$", built.log, re.M)[0]
    (kept,) = re.findall(r"keeping build directory ['\"](.*)['\"]", built.log)
    assert builders[place].run("cat", f"{kept}/evidence") == "evidence\n"
    assert client.try_("test", "-e", kept).returncode == 1
    if client.nix_version() >= (2, 30):
        assert "kept on the remote builder" in built.log


@pytest.mark.parametrize("shell", ["/bin/false", "/nonexistent shell"])
def test_odd_shell_of_the_client(client: Client, run: str, shell: str) -> None:
    client.run("env", f"SHELL={shell}", *client.build_command("where", run))


def test_outputs_that_refer_to_each_other(client: Client, run: str) -> None:
    built = client.build("outputs", run)
    derivation = client.derivation("outputs", run)
    out, lib, doc = (
        client.run("nix-store", "--query", "--binding", name, derivation).strip() for name in ("out", "lib", "doc")
    )
    assert built.paths == [out]
    for path, references in ((out, {lib}), (lib, set()), (doc, {out, lib})):
        client.run("nix-store", "--check-validity", path)
        assert set(client.run("nix-store", "--query", "--references", path).split()) == references
    client.run("nix-store", "--verify-path", out, lib, doc)


def test_large_output(client: Client, run: str) -> None:
    built = client.build("big", run)
    client.run("nix-store", "--verify-path", *built.paths)
    assert client.run("stat", "--format", "%s", *built.paths) == "52428800\n"


def test_many_references(client: Client, run: str) -> None:
    built = client.build("references", run)
    client.run("nix-store", "--verify-path", *built.paths)
    assert len(client.run("nix-store", "--query", "--references", *built.paths).split()) == 400
    assert int(client.run("stat", "--format", "%s", *built.paths)) > 1_000_000


def test_other_system(client: Client, run: str) -> None:
    assert client.read(*client.build("cross", run).paths) == ["i686"]


def test_sandbox_of_the_builder(client: Client, run: str) -> None:
    lines = [line.split() for line in client.read(*client.build("inside", run).paths)]
    assert [(host.removeprefix(f"{client.fleet}-"), top == "/build", around) for host, top, around in lines] == [
        ("builder1", False, "open"),  # Debian 12 switches it off
        ("builder2", True, "closed"),
        ("builder3", True, "closed"),
    ]


def test_content_that_is_known_before(client: Client, run: str) -> None:
    assert client.read(*client.build("fixed", run, user="operator").paths) == [run]


def test_floating_content(client: Client, run: str) -> None:
    built = client.build("floating", run, user="operator")
    assert client.read(*built.paths) == [f"{run} {client.fleet}-builder1", f"{client.fleet}-builder2"]
    assert client.build("floating", run, user="operator").log == ""


def test_both_protocols_in_one_build(client: Client, run: str, protocol: str) -> None:
    other = {"ssh": "ssh-ng", "ssh-ng": "ssh"}[protocol]
    machines = client.machines(slots=1).replace(f"{protocol}://nixremote@builder2", f"{other}://nixremote@builder2")
    built = client.build("floating", run, "--builders", machines)
    assert f"' on '{protocol}://nixremote@builder1'..." in built.log
    assert f"' on '{other}://nixremote@builder2'..." in built.log
    assert client.read(*built.paths) == [f"{run} {client.fleet}-builder1", f"{client.fleet}-builder2"]


def test_new_command_line(client: Client, builders: dict[str, Host], run: str) -> None:
    command = ["nix", "--extra-experimental-features", "nix-command", "build", "--no-link", "--print-build-logs"]
    done = client.try_(*command, "--file", "/opt/builds/builds.nix", "--argstr", "run", run, "phases", user="operator")
    assert done.returncode == 0, done.stderr
    assert any(re.fullmatch(r"phases\S*> sparks fly", line) for line in done.stderr.splitlines())
    # Nothing is left to do for the old one.
    built = client.build("phases", run)
    assert built.log == ""
    assert client.places(*built.paths)[0] in builders


def test_store_that_cannot_build(client: Client, run: str) -> None:
    store = ["--store", f"file:///opt/builds/{run}"]
    failed = client.try_build("where", run, *store, "--builders", "")
    assert failed.code != 0
    assert "nable to build with a primary store that isn't a local store" in failed.log
    built = client.build("where", run, *store)
    # A second time nobody is needed.
    assert client.build("where", run, *store, "--builders", "").paths == built.paths


@pytest.mark.parametrize("asked_not_to", [False, True])
def test_builders_use_substitutes(client: Client, builders: dict[str, Host], run: str, asked_not_to: bool) -> None:
    # The builder's own cache has the client's input, signed in a way that shows where it came from.
    builder = builders["builder2"]
    path = builder.shell(
        """
        nix() { command nix --extra-experimental-features nix-command "$@"; }
        mkdir "/tmp/$1"
        echo "$1" >"/tmp/$1/input-$1"
        path=$(nix-store --add "/tmp/$1/input-$1")
        nix store sign --key-file /opt/builds/cache-key "$path"
        nix copy --to file:///opt/builds/cache "$path"
        nix-store --delete "$path" >/dev/null
        echo "$path"
        """,
        run,
    ).strip()
    client.shell('mkdir -p /opt/builds/inputs; echo "$1" >"/opt/builds/inputs/$1"', run)
    built = client.build("needs", run, *["--option", "builders-use-substitutes", "false"] * asked_not_to)
    assert client.read(*built.paths) == [run]
    assert ("cache-1:" in builder.nix("path-info", "--sigs", path)) != asked_not_to
    assert (f"copying path '{path}' to" in built.log) == asked_not_to


def test_burst(client: Client, run: str) -> None:
    built = client.build("burst", run, "--builders", client.machines(slots=4))
    places = client.places(*built.paths)
    assert len(places) == 20
    assert set(places[:14]) == {"builder1", "builder2"}
    assert set(places[14:]) == {"builder3"}


def test_builder_with_a_mandatory_feature_gets_nothing_else(client: Client, builders: dict[str, Host]) -> None:
    # Last: of all that this client has built.
    noted = builders["builder3"].run("cat", "/var/log/post-build-hook").splitlines()
    names = {drv[44:].removesuffix(".drv") for drv in noted}
    assert {re.split(r"[-\d]", name)[0] for name in names} == {"train", "render", "burst", "inside", "nixfleet"}
    assert all("gpu" in name for name in names if name.startswith("burst"))
    assert all("-proof-builder3-" in name for name in names if name.startswith("nixfleet"))
    script = rf"({'|'.join(('train', 'render'))})-{client.name}-.*[.]sh"
    assert builders["builder3"].store(rf".*-{client.name}-.*[.]sh") == builders["builder3"].store(script)
