# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Key pairs: made, kept, mended, never shown, never open for a moment."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import signing
from ansible_collections.nixfleet.builders.plugins.modules import signing_key

Result = dict[str, t.Any]

needs_nix = pytest.mark.skipif(not shutil.which("nix-store"), reason="needs Nix on this machine")


class Host:
    """A directory for a key, and the module run on it."""

    def __init__(self, root: Path, run: t.Callable[..., Result]) -> None:
        self.run = run
        self.secret = root / "key"
        self.public = root / "key.pub"

    def __call__(self, name: str = "host-1", **options: t.Any) -> Result:
        result = self.run(signing_key, path=str(self.secret), name=name, **options)
        if self.secret.exists():
            secret = self.secret.read_text().partition(":")[2]
            for part in (secret, secret[:40]):
                assert not part or part not in json.dumps(result)
        return result

    def mode(self) -> int:
        return self.secret.stat().st_mode & 0o7777


@pytest.fixture
def host(tmp_path: Path, run_module: t.Any) -> Host:
    return Host(tmp_path, run_module)


@pytest.fixture(params=[True, pytest.param(False, marks=needs_nix)], ids=["cryptography", "nix"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(signing, "has_cryptography", lambda: False)


def test_made_and_kept(host: Host, either: None) -> None:
    planned = host(check=True)
    assert planned["changed"] and planned["public_key"] is None and planned["name"] == "host-1"
    assert not host.secret.exists() and planned["diff"]["after"] == "host-1: (a new key)\n"

    result = host()
    assert result["changed"] and result["name"] == "host-1"
    secret = signing.parse_secret(host.secret.read_text())
    assert result["public_key"] == host.public.read_text() == str(secret.public)
    assert signing.generate("host-1", secret.seed) == secret
    assert host.mode() == 0o600 and host.public.stat().st_mode & 0o7777 == 0o644
    assert result["diff"]["after"] == f"{secret.public}\n" and result["diff"]["before"] == ""
    assert [result["path"], result["public_path"]] == [str(host.secret), str(host.public)]

    for again in (host(), host(check=True), host(regenerate="fail")):
        assert not again["changed"] and again["public_key"] == result["public_key"]
        assert again["diff"]["before"] == again["diff"]["after"]
    kept = host("other-2")
    assert not kept["changed"] and kept["name"] == "host-1"
    assert "called 'host-1', not 'other-2'" in host("other-2", regenerate="fail")["msg"]

    assert host("other-2", regenerate="always", check=True)["public_key"] is None
    assert signing.parse_secret(host.secret.read_text()) == secret
    new = host("other-2", regenerate="always")
    assert new["changed"] and new["name"] == "other-2" and new["public_key"] != result["public_key"]
    assert host.public.read_text() == new["public_key"] and host.mode() == 0o600
    assert new["diff"]["before"] == f"{secret.public}\n"


def test_half_a_pair_is_mended(host: Host) -> None:
    public = host()["public_key"]
    host.public.unlink()
    assert host(check=True)["changed"] and not host.public.exists()
    result = host()
    assert result["changed"] and result["public_key"] == public == host.public.read_text()
    host.public.write_text("not a key, and maybe a secret")
    result = host()
    assert result["changed"] and result["diff"]["before"] == "(no public key)\n" and host.public.read_text() == public
    host.public.write_text(f"{public}\n")
    assert not host()["changed"]
    host.secret.unlink()
    assert host()["public_key"] != public


def test_modes(host: Host) -> None:
    host()
    host.secret.chmod(0o644)
    host.public.chmod(0o600)
    assert host(check=True)["changed"] and host.mode() == 0o644
    result = host()
    assert result["changed"] and host.mode() == 0o600 and host.public.stat().st_mode & 0o7777 == 0o644
    assert "readable for everybody" in json.dumps(result["warnings"])
    assert host(mode="0640")["changed"] and host.mode() == 0o640
    host.secret.unlink()
    host(mode="0400")
    assert host.mode() == 0o400 and host.public.stat().st_mode & 0o7777 == 0o644


@pytest.mark.parametrize("text", ["", "host-1:AAAA", "junk", "host-1:" + 86 * "A" + "=="])
def test_a_corrupt_key_is_not_replaced(host: Host, text: str) -> None:
    host.secret.write_text(text)
    for regenerate in ("never", "fail"):
        result = host(regenerate=regenerate)
        assert result["failed"] and f"{host.secret}: the secret key is corrupt" in result["msg"]
        assert host.secret.read_text() == text and not host.public.exists()
    assert host(regenerate="always")["changed"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "a:b"}, "':'"),
        ({"name": ""}, "empty"),
        ({"name": "a b"}, "' '"),
        ({"name": "-a"}, "begins with '-'"),
        ({"public_path": "{root}/key"}, "same file"),
        ({"path": "{root}/gone/key"}, "/gone does not exist"),
        ({"path": "{root}"}, "Is a directory"),
    ],
)
def test_refuses(run_module: t.Any, tmp_path: Path, options: dict[str, str], said: str) -> None:
    given = {"path": "{root}/key", "name": "host-1", **options}
    result = run_module(signing_key, **{key: value.format(root=tmp_path) for key, value in given.items()})
    assert result["failed"] and said in result["msg"]
    assert list(tmp_path.iterdir()) == []


def test_a_bare_host_in_check_mode(run_module: t.Any, tmp_path: Path) -> None:
    assert run_module(signing_key, path=f"{tmp_path}/etc/nix/key", name="a", check=True)["changed"]


def test_without_nix_and_cryptography(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "has_cryptography", lambda: False)
    assert "there is no nix-store in /nowhere" in host(nix_bin_dir="/nowhere")["msg"]
    assert not host.secret.exists()


def test_absent(host: Host) -> None:
    public = host()["public_key"]
    assert host(state="absent", check=True)["changed"] and host.secret.exists()
    result = host(state="absent")
    assert result["changed"] and result["diff"]["before"] == f"{public}\n" and result["diff"]["after"] == ""
    assert not host.secret.exists() and not host.public.exists()
    assert not host(state="absent")["changed"]


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
@pytest.mark.parametrize("old", [None, 0o644])
@pytest.mark.parametrize("way", ["cryptography", pytest.param("nix", marks=needs_nix)])
def test_nobody_else_can_open_the_secret_at_any_time(tmp_path: Path, way: str, old: int | None) -> None:
    """What the kernel was asked for: each file that holds the secret is made 0600, or in a directory made 0700."""
    if old:
        (tmp_path / "key").write_text("old")
        (tmp_path / "key").chmod(old)
    remote = tmp_path / "remote"
    remote.mkdir()
    options = {"path": f"{tmp_path}/key", "name": "host-1", "regenerate": "always", "_ansible_remote_tmp": str(remote)}
    program = f"""
import os, sys
sys.path[:0] = {sys.path!r}
from ansible.module_utils import basic
from ansible_collections.nixfleet.builders.plugins.module_utils import signing
from ansible_collections.nixfleet.builders.plugins.modules import signing_key
if {way!r} == "nix":
    signing.has_cryptography = lambda: False
os.umask(0)
basic._ANSIBLE_ARGS = {json.dumps({"ANSIBLE_MODULE_ARGS": options}).encode()!r}
basic._ANSIBLE_PROFILE = "legacy"
signing_key.main()
"""
    trace = tmp_path / "trace"
    calls = "trace=open,openat,creat,mkdir,mkdirat,chmod,fchmod,fchmodat,rename,renameat,renameat2,link,linkat,write"
    subprocess.run(
        ["strace", "-f", "-y", "-s", "200", "-e", calls, "-o", str(trace), sys.executable, "-c", program],
        check=True,
        capture_output=True,
    )
    secret = (tmp_path / "key").read_text()
    lines = trace.read_text().splitlines()
    written = {found[1] for line in lines if (found := re.search(r"write\(\d+<([^>]*)>", line)) and secret in line}
    moved = [found.groups() for line in lines if (found := re.search(r'rename\("([^"]*)", "([^"]*)"\) = 0', line))]
    assert written and (set(moved) & {(file, f"{tmp_path}/key") for file in written})
    for file in written | {f"{tmp_path}/key"}:
        made = [line for line in lines if f'"{file}"' in line and "O_CREAT" in line]
        assert made or file == f"{tmp_path}/key"
        private = "/ansible-moduletmp-" in file and any(
            re.search(rf'mkdir\("{re.escape(os.path.dirname(file))}", 0700\)', line) for line in lines
        )
        assert private or all("O_EXCL" in line and ", 0600)" in line for line in made)
        modes = re.findall(rf'chmod(?:at)?\([^"\n]*[<"]{re.escape(file)}[>"], (0\d+)', "\n".join(lines))
        assert set(modes) <= {"0600"}, modes
    assert (tmp_path / "key").stat().st_mode & 0o7777 == 0o600
    assert not any(remote.iterdir())
