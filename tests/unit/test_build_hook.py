# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The build hook of hosts that are builder and client, without Nix. With Nix: the Molecule scenario mutual."""

from __future__ import annotations

import importlib.util
import io
import itertools
import typing as t
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

FILE = Path(__file__).parents[2] / "roles/nix_client/files/nixfleet-build-hook.py"


def load() -> t.Any:
    spec = importlib.util.spec_from_file_location("nixfleet_build_hook", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hook = load()
HOSTS = ("h1", "h2", "h3", "h4")
SETTINGS = {"system": "x86_64-linux", "extra-platforms": "i686-linux", "system-features": "big kvm", "max-jobs": "4"}


def uri(host: str) -> str:
    return f"ssh-ng://nixremote@{host}"


def config(host: str, speeds: t.Mapping[str, float]) -> dict[str, t.Any]:
    return {"host": host, "peers": {uri(name): name for name in HOSTS if name != host}, "speeds": dict(speeds)}


def request(
    derivation: str = "/nix/store/x.drv", system: str = "x86_64-linux", features: t.Iterable[str] = ()
) -> t.Any:
    return hook.Request(system, derivation, frozenset(features), b"")


def asked(host: str, speeds: t.Mapping[str, float], wanted: t.Any, **settings: str) -> list[str]:
    """The hosts that this one may ask."""
    lines = "\n".join(f"{uri(name)} x86_64-linux" for name in HOSTS if name != host)
    found = hook.machines_for(config(host, speeds), {**SETTINGS, "builders": lines, **settings}, wanted)
    return [line.split()[0].partition("@")[2] for line in found]


@given(st.text("abc", min_size=1), st.dictionaries(st.sampled_from(HOSTS), st.sampled_from([0, 1, 1.5, 2])))
def test_no_two_hosts_ask_each_other_and_none_goes_round(name: str, speeds: dict[str, float]) -> None:
    wanted = request(f"/nix/store/{name}.drv")
    may = {host: set(asked(host, speeds, wanted)) for host in HOSTS}
    for one, other in itertools.combinations(HOSTS, 2):
        assert (one in may[other]) != (other in may[one])
    # A tournament without a circle: all numbers of hosts that may be asked differ.
    assert sorted(len(others) for others in may.values()) == [0, 1, 2, 3]


def test_work_goes_to_the_faster_ones_and_is_shared_among_equals() -> None:
    assert asked("h1", {"h1": 1, "h2": 2, "h3": 2, "h4": 0.5}, request()) == ["h2", "h3"]
    last = [next(host for host in HOSTS if not asked(host, {}, request(f"/nix/store/{n}.drv"))) for n in range(400)]
    assert all(60 < last.count(host) < 140 for host in HOSTS)


@pytest.mark.parametrize(
    ("wanted", "settings"),
    [
        (request(system="aarch64-linux"), {}),
        (request(features=["big", "gpu"]), {}),
        (request(), {"max-jobs": "0"}),
    ],
)
def test_what_it_cannot_build_goes_to_everybody(wanted: t.Any, settings: dict[str, str]) -> None:
    assert all(len(asked(host, {}, wanted, **settings)) == 3 for host in HOSTS)


def test_what_it_could_build() -> None:
    for wanted in (request(system="i686-linux"), request(system="builtin"), request(features=["kvm", "big"])):
        assert sum(len(asked(host, {}, wanted)) for host in HOSTS) == 6


def test_who_is_no_client_is_always_asked() -> None:
    alone = {"host": "h1", "peers": {}, "speeds": {}}
    assert hook.machines_for(alone, {**SETTINGS, "builders": "ssh://plain; ssh-ng://b x - 2"}, request()) == [
        "ssh://plain",
        "ssh-ng://b x - 2",
    ]


def test_machine_lines(tmp_path: Path) -> None:
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    inner.write_text("# none\nssh-ng://a x86_64-linux - 4 # why; not\n\n")
    outer.write_text(f"@{inner}\nssh://b\n")
    assert hook.machine_lines(f"@{outer}; ssh://c ;@{tmp_path}/missing") == [
        "ssh-ng://a x86_64-linux - 4",
        "ssh://b",
        "ssh://c",
    ]


@given(st.dictionaries(st.text(), st.text()))
def test_settings_and_request_are_read_as_they_are_written(settings: dict[str, str]) -> None:
    def string(text: str) -> bytes:
        return bytes(hook.encode({text: ""}))[8:-16]

    one, two = (1).to_bytes(8, "little"), (2).to_bytes(8, "little")
    wanted = (string("try"), one, string("x86_64-linux"), string("/nix/store/x.drv"), two, string("kvm"), string("big"))
    raw = b"".join(wanted)
    reader = hook.Reader(io.BytesIO(hook.encode(settings) + raw + raw))
    assert reader.settings() == settings
    for _number in range(2):
        assert reader.request() == hook.Request("x86_64-linux", "/nix/store/x.drv", frozenset(["kvm", "big"]), raw)
    with pytest.raises(EOFError):
        reader.request()
