# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pure part of the test fleet: names, specifications, addresses, inventories, command line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

FLEET = Path(__file__).resolve().parents[2] / "fleet"
sys.path.insert(0, str(FLEET))

from fleetlib import model  # noqa: E402
from fleetlib.__main__ import build_parser  # noqa: E402
from fleetlib.model import FleetError, Host, Spec  # noqa: E402


def host(name: str, address: str = "198.18.0.2", release: str = "trixie") -> Host:
    return Host("dev", name, release, "nix", address)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("builder1", Spec("builder1")),
        ("builder1:trixie", Spec("builder1", "trixie")),
        ("b:bookworm:bare", Spec("b", "bookworm", "bare")),
        ("b:testing:nix", Spec("b", "forky", "nix")),
        ("b::bare", Spec("b", None, "bare")),
    ],
)
def test_specifications_are_read(text: str, spec: Spec) -> None:
    assert model.parse_spec(text) == spec


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "host name"),
        ("../x:trixie", "host name"),
        ("UPPER:trixie", "host name"),
        ("-a:trixie", "host name"),
        ("a" * 32, "host name"),
        ("a:sid", "bookworm, trixie, forky"),
        ("a:trixie:slim", "nix, bare"),
        ("a:trixie:nix:more", "nix, bare"),
    ],
)
def test_bad_specifications_are_refused_with_what_is_allowed(text: str, says: str) -> None:
    with pytest.raises(FleetError, match=says):
        model.parse_spec(text)


def test_no_host_means_the_default_set() -> None:
    specs = model.parse_specs([])
    assert [spec.name for spec in specs] == ["builder1", "builder2", "builder3", "client1", "client2"]
    assert {spec.release for spec in specs if spec.name.startswith("builder")} == set(model.RELEASES)


def test_a_host_named_twice_is_refused() -> None:
    with pytest.raises(FleetError, match="twice"):
        model.parse_specs(["a:trixie", "b:trixie", "a:forky"])


def test_an_existing_host_keeps_its_release_and_a_new_one_needs_one() -> None:
    existing = Host("dev", "a", "forky", "bare", "198.18.0.9")
    assert model.settle("dev", Spec("a"), existing) == ("forky", "bare")
    assert model.settle("dev", Spec("a", "forky", "bare"), existing) == ("forky", "bare")
    assert model.settle("dev", Spec("a", "trixie"), None) == ("trixie", "nix")
    for spec, old in ((Spec("a", "trixie"), existing), (Spec("a", "forky", "nix"), existing), (Spec("a"), None)):
        with pytest.raises(FleetError):
            model.settle("dev", spec, old)


@given(st.sets(st.integers(2, 254), max_size=252))
def test_a_free_address_is_in_the_network_and_nobody_elses(octets: set[int]) -> None:
    taken = {f"198.18.0.{octet}" for octet in octets}
    address = model.free_address(taken)
    assert address not in taken | {model.GATEWAY, "198.18.0.0", "198.18.0.255"}
    assert address.startswith("198.18.0.")


def test_a_full_network_is_an_error() -> None:
    with pytest.raises(FleetError, match="taken"):
        model.free_address(f"198.18.0.{octet}" for octet in range(2, 255))


@given(st.integers(2, 254))
def test_names_on_the_machine_fit_and_differ(octet: int) -> None:
    one = host("a", f"198.18.0.{octet}")
    assert len(one.link) <= 15  # IFNAMSIZ
    assert one.mac.count(":") == 5
    assert Host.from_json(one.to_json()) == one


def test_hosts_with_the_same_host_name_are_still_told_apart() -> None:
    one, two = (Host(fleet, name, "trixie", "nix", "198.18.0.2") for fleet, name in (("a-b", "c"), ("a", "b-c")))
    assert one.machine == two.machine
    assert one.id != two.id


def test_known_hosts_name_address_and_host_without_comments() -> None:
    text = model.known_hosts({"b": ("198.18.0.3", ["ssh-ed25519 BBBB root@x"]), "a": ("198.18.0.2", ["ssh-rsa AAAA"])})
    assert text == "198.18.0.2,a ssh-rsa AAAA\n198.18.0.3,b ssh-ed25519 BBBB\n"


def test_the_inventory_groups_hosts_by_name() -> None:
    hosts = [host("client1", "198.18.0.5"), host("builder2", "198.18.0.4"), host("proxy", "198.18.0.6")]
    read = yaml.safe_load(model.inventory(hosts, "/state/key", "/state/known_hosts"))["all"]
    assert read["children"]["nix_builders"]["hosts"] == {"builder2": {"ansible_host": "198.18.0.4"}}
    assert read["children"]["nix_clients"]["hosts"] == {"client1": {"ansible_host": "198.18.0.5"}}
    assert read["hosts"] == {"proxy": {"ansible_host": "198.18.0.6"}}
    assert read["vars"]["ansible_user"] == "root"
    assert read["vars"]["ansible_ssh_private_key_file"] == "/state/key"
    assert "-o UserKnownHostsFile=/state/known_hosts" in read["vars"]["ansible_ssh_common_args"]
    assert "-o StrictHostKeyChecking=yes" in read["vars"]["ansible_ssh_common_args"]


def test_the_inventory_of_no_hosts_is_still_one() -> None:
    read = yaml.safe_load(model.inventory([], "k", "h"))["all"]
    assert read["children"] == {"nix_builders": {"hosts": {}}, "nix_clients": {"hosts": {}}}


def test_a_table_has_aligned_columns() -> None:
    assert model.table([("A", "B"), ("long", "x")]) == "A     B\nlong  x\n"


def test_the_fleet_comes_from_option_environment_or_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NIXFLEET_FLEET", raising=False)
    assert build_parser().parse_args(["up"]).fleet == "dev"
    monkeypatch.setenv("NIXFLEET_FLEET", "mine")
    assert build_parser().parse_args(["up", "a:trixie"]).fleet == "mine"
    assert build_parser().parse_args(["down", "--fleet", "other"]).fleet == "other"


def test_a_command_for_exec_keeps_its_own_options() -> None:
    options = build_parser().parse_args(["exec", "--fleet", "x", "a", "--", "sh", "-c", "exit 3", "--fleet"])
    assert (options.fleet, options.host) == ("x", "a")
    assert options.argv[-4:] == ["sh", "-c", "exit 3", "--fleet"]


@pytest.mark.parametrize("arguments", [[], ["fly"], ["cut"], ["inventory", "--format", "ini"], ["exec"]])
def test_wrong_command_lines_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        build_parser().parse_args(arguments)
    assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err
