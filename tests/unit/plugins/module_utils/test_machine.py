# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One machine: its dict, its line, and what is refused."""

from __future__ import annotations

import base64
import dataclasses
import typing as t

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import COLUMNS, Machine, MachinesError
from ansible_collections.nixfleet.builders.tests.support.machine_samples import (
    FRACTIONS,
    FULL,
    MACHINES,
    NEW,
    OLD,
    VERSIONS,
    key_line,
    refusal,
)
from hypothesis import given
from hypothesis import strategies as st

# ---------------------------------------------------------------------------------------------------- line


def test_a_full_line() -> None:
    encoded = base64.b64encode((key_line() + "\n").encode()).decode()
    assert Machine.from_dict(FULL).render(OLD) == (
        "ssh-ng://nixremote@builder1 i686-linux,x86_64-linux /root/.ssh/nix_builder 8 2 big-parallel,kvm gpu " + encoded
    )


def test_an_empty_machine_has_nixs_defaults() -> None:
    machine = Machine.from_dict({"host": "builder1"})
    assert machine.render(OLD) == "ssh-ng://builder1 - - 1 1 - - -"
    assert machine.to_dict() == {
        "uri": "ssh-ng://builder1",
        "systems": [],
        "ssh_key": "",
        "max_jobs": 1,
        "speed_factor": 1.0,
        "supported_features": [],
        "mandatory_features": [],
        "public_host_key": "",
    }


@pytest.mark.parametrize(
    ("speed", "text"), [(2, "2"), (2.0, "2"), (1.5, "1.5"), (0.1, "0.1"), (1e20, "1e+20"), (0, "1"), ("2.50", "2.5")]
)
def test_the_shortest_speed(speed: t.Any, text: str) -> None:
    assert Machine.from_dict({"host": "b", "speed_factor": speed}).render(NEW).split()[4] == text


def test_lists_are_sorted_and_hold_everything_once() -> None:
    machine = Machine("ssh://b", systems=("b", "a", "b"), supported_features=("z", "y", "z"))
    assert (machine.systems, machine.supported_features) == (("a", "b"), ("y", "z"))


# ---------------------------------------------------------------------------------------------------- dict


@pytest.mark.parametrize(
    ("parts", "uri"),
    [
        ({"host": "b"}, "ssh-ng://b"),
        ({"host": "b", "protocol": "ssh", "user": "u"}, "ssh://u@b"),
        ({"host": "b", "port": 2222}, "ssh-ng://b:2222"),
        ({"host": "b", "port": "2222"}, "ssh-ng://b:2222"),
        ({"host": "2001:db8::1", "user": "u", "port": 22}, "ssh-ng://u@[2001:db8::1]:22"),
        ({"host": "[2001:db8::1]"}, "ssh-ng://[2001:db8::1]"),
        ({"host": "fe80::1%eth0"}, "ssh-ng://[fe80::1%eth0]"),
        ({"uri": "b"}, "ssh://b"),
        ({"uri": "ssh://u@b", "user": "u", "host": "b", "protocol": "ssh", "port": None}, "ssh://u@b"),
        ({"uri": "/srv/store"}, "/srv/store"),
        ({"uri": "local?root=/srv"}, "local?root=/srv"),
    ],
)
def test_a_uri_or_its_parts(parts: dict[str, t.Any], uri: str) -> None:
    assert Machine.from_dict(parts).uri == uri


@pytest.mark.parametrize(
    ("values", "key", "reason"),
    [
        ({}, "uri", "no URI"),
        ({"uri": None, "max_jobs": 1}, "uri", "no URI"),
        ({"host": "b", "maxJobs": 1}, "maxJobs", "no such key"),
        ({"host": "b", "max_jobs": "eight"}, "max_jobs", "no whole number"),
        ({"host": "b", "max_jobs": True}, "max_jobs", "no whole number"),
        ({"host": "b", "max_jobs": 1.5}, "max_jobs", "no whole number"),
        ({"host": "b", "speed_factor": "fast"}, "speed_factor", "no number"),
        ({"host": "b", "speed_factor": 10**400}, "speed_factor", "too large"),
        ({"host": "b", "systems": "x86_64-linux"}, "systems", "no list"),
        ({"host": "b", "supported_features": ["kvm", 1]}, "supported_features", "no text"),
        ({"host": ["b"]}, "host", "no text"),
        ({"host": "b", "port": 0}, "port", "no port"),
        ({"host": "b", "port": 65536}, "port", "no port"),
        ({"host": "b:22"}, "host", "do not make a URI"),
        ({"host": "b?compress=true"}, "host", "do not make a URI"),
        ({"host": "a@b"}, "host", "do not make a URI"),
        ({"uri": "ssh://b", "protocol": "ssh-ng"}, "protocol", "contradicts"),
        ({"uri": "ssh://b", "port": 22}, "port", "contradicts"),
    ],
)
def test_a_dict_that_is_no_machine(values: dict[str, t.Any], key: str, reason: str) -> None:
    error = refusal(lambda: Machine.from_dict(values, 3))
    assert (error.key, reason in error.reason) == (key, True), error
    assert error.machine is not None
    assert "number 3" in error.machine or error.machine.rpartition("/")[2] in str(values)
    assert key in str(error)


def test_what_is_no_dict_at_all() -> None:
    assert "number 2" in str(refusal(lambda: Machine.from_dict(t.cast(t.Any, "ssh://b x86_64-linux"), 2)))


def test_the_parts_of_its_uri() -> None:
    assert Machine("ssh://fe80::1").parts.host == "fe80::1"


def test_another_protocol() -> None:
    assert Machine("ssh-ng://u@b?compress=true").with_protocol("ssh").uri == "ssh://u@b?compress=true"
    assert Machine("/srv/store").with_protocol("ssh").uri == "/srv/store"


@given(MACHINES | FRACTIONS)
def test_a_machine_is_its_dict(machine: Machine) -> None:
    assert Machine.from_dict(machine.to_dict()) == machine


@given(
    st.dictionaries(
        st.sampled_from([*COLUMNS, "host", "port", "user", "protocol", "x"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=8)
        | st.lists(st.text(max_size=4) | st.integers(), max_size=3),
    )
)
def test_no_dict_raises_anything_else(values: dict[str, t.Any]) -> None:
    try:
        Machine.from_dict(values).render(NEW)
    except MachinesError as error:
        assert error.machine is not None
        assert error.key is not None
        assert str(error).encode()


# ---------------------------------------------------------------------------------------------------- check


@pytest.mark.parametrize(
    ("changes", "key", "reason"),
    [
        ({"uri": "ssh://a b"}, "uri", "a blank"),
        ({"uri": "ssh://a;b"}, "uri", "';'"),
        ({"uri": "ssh://a#b"}, "uri", "'#'"),
        ({"uri": "@/etc/other"}, "uri", "name of a file"),
        ({"uri": "-"}, "uri", "lone '-'"),
        ({"uri": "SSH://b"}, "protocol", "no protocol"),
        ({"uri": "ssh://b/srv"}, "uri", "no path"),
        ({"uri": "ssh://-oProxyCommand=x"}, "host", "begins with '-'"),
        ({"uri": "ssh://u:secret@b"}, "user", "no user name"),
        ({"uri": "ssh://b:0"}, "port", "no port"),
        ({"uri": "ssh://" + "b" * 250}, "uri", "bytes"),
        ({"ssh_key": "/root/my key"}, "ssh_key", "a blank"),
        ({"ssh_key": "-"}, "ssh_key", "lone '-'"),
        ({"ssh_key": "/k\u00a0"}, "ssh_key", "unprintable"),
        ({"ssh_key": "/k\x7f"}, "ssh_key", "unprintable"),
        ({"systems": ("x86_64-linux\n",)}, "systems", "'\\n'"),
        ({"systems": ("-",)}, "systems", "lone '-'"),
        ({"systems": ("",)}, "systems", "empty"),
        ({"systems": ("x86_64-linux,i686-linux",)}, "systems", "comma"),
        ({"supported_features": ("big parallel",)}, "supported_features", "a blank"),
        ({"mandatory_features": ("a#b",)}, "mandatory_features", "'#'"),
        ({"max_jobs": -1}, "max_jobs", "no number of builds"),
        ({"max_jobs": 2**32}, "max_jobs", "no number of builds"),
        ({"speed_factor": -1.0}, "speed_factor", "no speed"),
        ({"speed_factor": float("nan")}, "speed_factor", "no speed"),
        ({"speed_factor": float("inf")}, "speed_factor", "no speed"),
        ({"speed_factor": 1e39}, "speed_factor", "no speed"),
        ({"speed_factor": 1e-46}, "speed_factor", "no speed"),
        ({"public_host_key": "builder " + key_line()}, "public_host_key", "no line"),
        ({"public_host_key": base64.b64encode(key_line().encode()).decode()}, "public_host_key", "no line"),
        ({"public_host_key": key_line() + "\n" + key_line()}, "public_host_key", "no line"),
        ({"public_host_key": key_line()[:-30]}, "public_host_key", "damaged"),
        ({"public_host_key": key_line().replace("ssh-ed25519", "ssh-rsa", 1)}, "public_host_key", "damaged"),
    ],
)
@pytest.mark.parametrize("version", [OLD, NEW])
def test_what_nix_would_misread_is_refused(
    changes: dict[str, t.Any], key: str, reason: str, version: tuple[int, ...]
) -> None:
    machine = dataclasses.replace(Machine.from_dict(FULL), **changes)
    for attempt in (lambda: machine.check(version), lambda: machine.render(version)):
        error = refusal(attempt)
        assert (error.key, reason in error.reason) == (key, True), error
        assert error.machine == machine.uri
        assert error.hint in str(error)
        assert str(error).isprintable()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_fraction_needs_nix_2_20(version: tuple[int, ...]) -> None:
    machine = Machine("ssh://b", speed_factor=1.5)
    if version >= (2, 20):
        assert machine.render(version).split()[4] == "1.5"
    else:
        error = refusal(lambda: machine.render(version))
        assert (error.key, "1.5" in error.reason) == ("speed_factor", True)
        assert refusal(lambda: Machine("ssh://b", speed_factor=2.0**33).render(version)).key == "speed_factor"


@pytest.mark.parametrize("path", ["k", "~/.ssh/k", "./k"])
def test_a_key_that_newer_nix_does_not_connect_with(path: str) -> None:
    Machine("ssh-ng://b", ssh_key=path).check((2, 26, 3))
    with pytest.raises(MachinesError) as caught:
        Machine("ssh-ng://b", ssh_key=path).check((2, 34, 8))
    assert (caught.value.key, "no absolute path" in caught.value.reason) == ("ssh_key", True)
