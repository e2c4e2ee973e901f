# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The drop-in and its line, on this machine's own Nix where it has one."""

from __future__ import annotations

import os
import shutil
import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import files, nix_cli, nix_conf_check
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_conf import MADE_BY_US
from ansible_collections.nixfleet.builders.plugins.modules import nix_conf

Result = dict[str, t.Any]
SETTINGS = {"max-jobs": 7, "extra-trusted-users": ["nixremote"], "secret-key-files": ["/not/there/yet"]}
TEXT = f"# {files.HEADER}\nmax-jobs = 7\nsecret-key-files = /not/there/yet\nextra-trusted-users = nixremote\n"

needs_nix = pytest.mark.skipif(not shutil.which("nix-store"), reason="needs Nix on this machine")


class Host:
    """A main file and a drop-in in a directory, and the module run on them."""

    def __init__(self, root: Path, run: t.Callable[..., Result]) -> None:
        self.run = run
        self.main = root / "nix.conf"
        self.path = root / "nix.conf.d" / "ours.conf"
        self.pending = root / "run" / "pending"

    def __call__(self, settings: t.Any = None, **options: t.Any) -> Result:
        settings = SETTINGS if settings is None else settings
        return self.run(nix_conf, path=str(self.path), main=str(self.main), settings=settings, **options)

    def absent(self, **options: t.Any) -> Result:
        return self.run(nix_conf, path=str(self.path), main=str(self.main), state="absent", **options)

    def files(self) -> dict[str, bytes]:
        return {str(file): file.read_bytes() for file in self.main.parent.rglob("*") if file.is_file()}


@pytest.fixture
def host(tmp_path: Path, run_module: t.Any) -> Host:
    (tmp_path / "etc").mkdir()
    return Host(tmp_path / "etc", run_module)


@pytest.fixture
def no_nix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nix_cli.Nix, "_find", staticmethod(lambda owner: "/nowhere"))


@needs_nix
@pytest.mark.parametrize(
    "before", [b"cores = 2\n", b"cores = 2", b"", b"  # caf\xe9\r\n\ncores = 2\r\n\n", b"!include gone.conf"]
)
def test_round(host: Host, before: bytes) -> None:
    host.main.write_bytes(before)
    os.chmod(host.main, 0o640)
    planned = host(check=True)
    assert planned["changed"] and planned["checked"] and host.files() == {str(host.main): before}
    assert [diff["after_header"] for diff in planned["diff"]] == [str(host.main), str(host.path)]

    result = host()
    assert result["changed"] and result["include_added"] and result["diff"] == planned["diff"]
    assert result["effective"]["max-jobs"] == 7
    assert result["effective"]["extra-trusted-users"] == ["root", "nixremote"]
    assert host.path.read_text() == TEXT
    assert host.main.read_bytes().startswith(before)
    assert host.main.read_bytes()[len(before) :].strip() == b"!include nix.conf.d/ours.conf"
    assert host.path.stat().st_mode & 0o7777 == 0o644 and host.path.parent.stat().st_mode & 0o7777 == 0o755
    assert host.main.stat().st_mode & 0o7777 == 0o640

    again = host()
    assert not again["changed"] and not again["include_added"] and again["diff"] == []
    assert again["effective"] == result["effective"]

    assert host.absent(check=True)["changed"] and host.path.exists()
    assert host.absent()["changed"]
    assert host.files() == {str(host.main): before} and not host.path.parent.exists()
    assert not host.absent()["changed"]


@needs_nix
def test_a_main_file_that_was_not_there_goes_again(host: Host) -> None:
    assert host()["changed"]
    assert host.main.read_text() == f"{MADE_BY_US}\n!include nix.conf.d/ours.conf\n"
    assert host.main.stat().st_mode & 0o7777 == 0o644
    assert host.absent()["changed"]
    assert not host.main.parent.exists()
    assert not host.absent()["changed"]


@needs_nix
def test_roots_own_files_count(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    root = [host.main.parent / name for name in ("root.conf", "xdg.conf")]
    monkeypatch.setattr(nix_conf_check, "DEFAULT_MAIN", str(host.main))
    monkeypatch.setattr(nix_conf_check, "USER_FILE", str(root[0]))
    monkeypatch.setattr(nix_conf_check, "USERS_FILE", str(root[1]))
    root[1].write_text("max-jobs = 8\n")
    assert f"{root[1]}:1 sets max-jobs again" in host()["msg"]
    root[0].write_text("# mine\nmax-jobs = 7\n")
    assert host()["changed"]
    root[0].write_text("# mine\nmax-jobs = 6\n")
    assert f"{root[0]}:2 sets max-jobs again" in host()["msg"]


@needs_nix
def test_two_drop_ins_share_a_main_file(host: Host) -> None:
    host.main.write_text("cores = 2")
    other = Host(host.main.parent, host.run)
    other.path = host.path.with_name("other.conf")
    host()
    other({"fallback": True})
    assert not host()["changed"] and not other({"fallback": True})["changed"]
    host.absent()
    assert host.main.read_text() == "cores = 2\n!include nix.conf.d/other.conf"
    other.absent()
    assert host.main.read_text() == "cores = 2" and not host.path.parent.exists()


@needs_nix
def test_a_line_that_somebody_moved_is_found_again(host: Host) -> None:
    host.main.write_text(f"\tinclude   {host.path} # ours\ncores = 2\n")
    host.path.parent.mkdir()
    host.path.write_text("")
    assert not host()["include_added"]
    assert host.absent()["changed"]
    assert host.main.read_text() == "cores = 2\n"


@needs_nix
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max-jobs": "many"}, ["max-jobs = many", "max-jobs"]),
        ({"max-job": 3}, ["does not know the setting max-job", "mean max-jobs?"]),
        ({"extra-max-jobs": 3}, ["cannot append to the setting max-jobs"]),
        ({"fallback": "maybe"}, ["fallback = maybe"]),
        ({"cores": "a\nb"}, ["cores", "newline"]),
        ({"trusted-users": ["a b"]}, ["trusted-users", "'a b'"]),
        ({"cores": None}, ["cores", "no value"]),
        ({"builders": "ssh://a#b"}, ["builders", "'#'"]),
        ({"include": "x"}, ["'include'"]),
        ({"extra-trusted-public-keys": ["a:AAAA"]}, ["extra-trusted-public-keys: 'a:AAAA' is no public key"]),
        ({"secret-key-files": "key"}, ["secret-key-files: 'key' is no absolute path"]),
        ({"cores": 1, "min-free": "lots", "fallback": True}, ["does not take the setting min-free = lots"]),
        ({"max-jobs": 2, "build-max-jobs": 3}, ["build-max-jobs and max-jobs are two names"]),
    ],
)
def test_refuses_and_changes_nothing(host: Host, settings: t.Any, said: list[str]) -> None:
    host.main.write_text("cores = 2\n")
    before = host.files()
    for check in (True, False):
        result = host(settings, pending=str(host.pending), check=check)
        assert result["failed"] and all(text in result["msg"] for text in said), result["msg"]
    assert host.files() == before and not host.path.parent.exists()


@needs_nix
def test_names_the_line_that_has_the_last_word(host: Host) -> None:
    host.main.write_text("!include nix.conf.d/ours.conf\ncores = 2\n!include site.conf\n")
    (host.main.parent / "site.conf").write_text("\nmax-jobs = 3\n")
    result = host()
    assert result["failed"] and f"{host.main.parent}/site.conf:2 sets max-jobs again" in result["msg"]
    assert not host.path.exists()
    (host.main.parent / "site.conf").write_text("build-max-jobs = 7\nextra-trusted-users = bob\n")
    assert host()["changed"]
    (host.main.parent / "site.conf").write_text("trusted-users = root bob\n")
    assert "site.conf:1 sets trusted-users again" in host()["msg"]
    (host.main.parent / "site.conf").write_text("trusted-users = nixremote bob\n")
    assert not host()["changed"]


@needs_nix
def test_says_when_the_host_was_broken_before(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.main.write_text("max-jobs = many\n")
    assert f"has already, which starts at {host.main}" in host()["msg"]
    # As on a real host: not even 'nix --version' answers then.
    with monkeypatch.context() as there:
        there.setenv("NIX_CONF_DIR", str(host.main.parent))
        assert f"has already, which starts at {host.main}" in host()["msg"]
    host.main.write_text("cores=2\n")
    assert f"{host.main}:1:8: the '='" in host()["msg"]
    host.main.write_text("include a.conf\n")
    (host.main.parent / "a.conf").write_text("include nix.conf\n")
    assert "includes this file" in host()["msg"]
    host.main.write_text("include gone.conf\n")
    assert f"{host.main.parent}/gone.conf, which does not exist" in host()["msg"]


@needs_nix
def test_a_directory_as_an_include_does_not_hide_our_line(host: Host) -> None:
    host.main.write_text("!include nix.conf.d\n")
    host.path.parent.mkdir()
    result = host()
    assert not result.get("failed") or "cannot be read" in result["msg"]


@needs_nix
def test_no_secret_is_shown(host: Host) -> None:
    host.main.write_text("access-tokens = github.com=hidden1\nsubstituters = https://u:hidden2@cache.example/\n")
    host.path.parent.mkdir()
    host.path.write_text("extra-access-tokens = x=hidden3 # hidden4\n")
    result = host()
    assert result["changed"] and "hidden" not in str(result)
    assert "hidden1" in host.main.read_text()
    result = host({"access-tokens": "github.com=hidden5"})
    assert "access-tokens is a secret" in result["msg"] and "hidden5" not in str(result)
    result = host({"substituters": ["https://a", "https://u:hidden6@b"]})
    assert "substituters holds a URL with a password" in result["msg"] and "hidden6" not in str(result)
    result = host({"extra-substituters": "https://a"})
    assert "********" in result["effective"]["extra-substituters"][0] and "hidden" not in str(result)
    (host.main.parent / "z").write_text("substituters = https://u:hidden7@b\n")
    host.main.write_text("!include nix.conf.d/ours.conf\n!include z\n")
    result = host({"substituters": "https://a"})
    assert "z:1 sets substituters again" in result["msg"] and "hidden" not in str(result)


@needs_nix
def test_pending(host: Host) -> None:
    pending = str(host.pending)
    assert host(pending=pending, check=True)["changed"] and not host.pending.exists()
    assert host(pending=pending)["changed"] and host.pending.exists()
    assert host(pending=pending)["changed"] and host(pending=pending, check=True)["changed"]
    host.pending.unlink()
    assert not host(pending=pending)["changed"]
    assert host.absent(pending=pending)["changed"] and host.pending.exists()


@needs_nix
def test_features_in_force_come_from_the_files(host: Host) -> None:
    host.main.write_text("experimental-features = flakes\n")
    assert host({"cores": 1})["effective"] == {"cores": 1}
    effective = host({"extra-experimental-features": ["ca-derivations"]})["effective"]
    assert effective == {"extra-experimental-features": ["ca-derivations", "flakes"]}
    result = host({"experimental-features": "flakes no-such-thing"})
    assert result["effective"] == {"experimental-features": ["flakes", "no-such-thing"]}
    assert "no-such-thing" in str(result["warnings"])


def test_a_host_without_nix(host: Host, no_nix: None) -> None:
    planned = host(check=True)
    assert planned["changed"] and not planned["checked"] and planned["effective"] == {} and not planned.get("warnings")
    assert planned["nix_version"] is None
    assert "there is no nix-store" in host()["msg"]
    assert host.files() == {}
    assert not host.absent()["changed"]


@pytest.mark.parametrize(
    "change", [{"path": "x.conf"}, {"path": "/etc/x y.conf"}, {"path": "/a/nix.conf", "main": "/a/b/../nix.conf"}]
)
def test_bad_paths(run_module: t.Any, change: dict[str, str]) -> None:
    result = run_module(nix_conf, **{"path": "/a/x.conf", "main": "/a/nix.conf", "settings": {}, **change}, check=True)
    assert result["failed"]


def test_a_link_into_the_store_is_left_alone(host: Host, monkeypatch: pytest.MonkeyPatch, no_nix: None) -> None:
    real = host.main.parent.parent / "store.conf"
    real.write_text("")
    host.main.symlink_to(real)
    monkeypatch.setattr(nix_conf, "STORE", str(real.parent) + "/")
    assert "another tool writes it" in host(check=True)["msg"]


@needs_nix
def test_a_link_is_followed(host: Host) -> None:
    real = host.main.parent.parent / "dotfiles.conf"
    real.write_text("cores = 2\n")
    host.main.symlink_to(real)
    assert host()["changed"] and host.main.is_symlink()
    assert real.read_text() == "cores = 2\n!include nix.conf.d/ours.conf\n"
    host.absent()
    assert real.read_text() == "cores = 2\n" and host.main.is_symlink()
