# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nix's command line, with a stand-in for the programs."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import nix_cli
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import (
    Nix,
    NixError,
    NixNotFound,
    parse_identity,
)

MakeNix = t.Callable[..., Nix]


@pytest.fixture
def calls() -> list[list[str]]:
    return []


@pytest.fixture
def make_nix(tmp_path: Path, calls: list[list[str]]) -> MakeNix:
    """make_nix(version line, settings as JSON, status of all but --version): a Nix that answers so."""
    (tmp_path / "nix-store").touch()

    def make(version: str = "nix (Nix) 2.26.3\n", settings: str = "{}", status: int = 0) -> Nix:
        def run_command(args: list[str], **_options: t.Any) -> tuple[int, str, str]:
            calls.append(args[1:])
            if args[1:] == ["--version"]:
                return 0, version, ""
            return status, settings, "error: so it is\n" if status else ""

        return Nix(run_command, str(tmp_path))

    return make


@pytest.mark.parametrize(
    ("text", "version", "flavour"),
    [
        ("nix (Nix) 2.8.0\n", (2, 8, 0), "nix"),
        ("nix (Nix) 2.31pre20250806_abc\n", (2, 31), "nix"),
        ("nix (Lix, like Nix) 2.91.0\nSystem type: x86_64-linux\n", (2, 91, 0), "lix"),
        ("nix (Lix, like Nix) 2.92.0-dev-pre20250117-0d14c2b\nSystem type: x86_64-linux\n", (2, 92, 0), "lix"),
        ("nix (Lix, like Nix) 2.90-beta.0\n", (2, 90), "lix"),
        ("nix (Lix, like Nix) 2.90.0-lixpre20240520-992c63f\n", (2, 90, 0), "lix"),
        ("nix (Nix Super) 2.35.0\n", (2, 35, 0), "nix"),
        ("nix (Nix Super) 2.35.0pre20260513_b327961\n", (2, 35, 0), "nix"),
        ("nix (Determinate Nix 3.6.1) 2.29.0\n", (2, 29, 0), "determinate"),
    ],
)
def test_what_nix_says_of_itself(text: str, version: tuple[int, ...], flavour: str) -> None:
    assert parse_identity(text) == (version, flavour)


@pytest.mark.parametrize("text", ["", "nix 2.8.0", "nix (Nix) two", "nix (Nix) 2", "nix (Nix) 2." + "9" * 5000])
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(NixError, match="cannot read a version"):
        parse_identity(text)


def test_the_version_is_asked_once(make_nix: MakeNix, calls: list[list[str]]) -> None:
    nix = make_nix()
    assert (nix.version, nix.version, nix.flavour) == ((2, 26, 3), (2, 26, 3), "nix")
    assert calls == [["--version"]]


def test_lix_reads_machines_files_as_an_older_nix(make_nix: MakeNix) -> None:
    assert make_nix().machines_version == (2, 26, 3)
    assert make_nix("nix (Lix, like Nix) 2.93.0").machines_version == (2, 20)


def test_lix_has_the_command_line_of_an_older_nix(make_nix: MakeNix, calls: list[list[str]]) -> None:
    lix = make_nix("nix (Lix, like Nix) 2.94.1\n")
    assert (lix.version, lix.cli_version) == ((2, 94, 1), (2, 20))
    lix.settings()
    assert calls[-1][-3:] == ["config", "show", "--json"]
    assert make_nix().cli_version == (2, 26, 3)


@pytest.mark.parametrize(
    ("there", "directory"),
    [
        (["usr/bin/nix-daemon"], "usr/bin"),
        (["usr/sbin/nix-daemon"], "usr/sbin"),  # Alpine
        (["usr/bin/nix-daemon", "usr/sbin/nix-daemon"], "usr/bin"),
        ([], "usr/bin"),
    ],
)
def test_where_the_daemon_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: list[str], directory: str) -> None:
    for name in ("usr/bin/nix-store", *there):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(nix_cli, "DAEMON_DIRS", {f"{tmp_path}/usr/bin": f"{tmp_path}/usr/sbin"})
    nix = Nix(lambda args, **_options: (0, "", ""), f"{tmp_path}/usr/bin")
    assert nix.argv("nix-daemon", "--stdio") == [f"{tmp_path}/{directory}/nix-daemon", "--stdio"]
    assert nix.argv("nix-store") == [f"{tmp_path}/usr/bin/nix-store"]


def test_no_nix(tmp_path: Path) -> None:
    with pytest.raises(NixNotFound, match="nix_bin_dir"):
        Nix(lambda args, **_options: (0, "", ""), str(tmp_path))


def test_nix_is_found_where_the_installer_puts_it_before_the_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directories = [str(tmp_path / name) for name in ("profile", "usr")]
    monkeypatch.setattr(nix_cli, "BIN_DIRS", directories)
    with pytest.raises(NixNotFound, match=f"no nix-store in {', '.join(directories)}; install it"):
        Nix(lambda args, **_options: (0, "", ""))
    for directory in reversed(directories):
        Path(directory).mkdir()
        Path(directory, "nix-store").touch()
        assert Nix(lambda args, **_options: (0, "", "")).bin_dir == directory


def test_what_a_program_is_given(tmp_path: Path) -> None:
    (tmp_path / "nix-store").touch()
    calls: list[tuple[list[str], dict[str, t.Any]]] = []

    def run_command(args: list[str], **options: t.Any) -> tuple[int, str, str]:
        calls.append((args, options))
        return 0, "out", "err"

    nix = Nix(run_command, str(tmp_path))
    assert nix.call("nix-store", "--import", data="x", env={"A": "b"}) == (0, "out", "err")
    assert nix.run("nix", "store", "info") == "out"
    assert calls == [
        ([f"{tmp_path}/nix-store", "--import"], {"data": "x", "environ_update": {"A": "b"}}),
        (
            [f"{tmp_path}/nix", "--extra-experimental-features", "nix-command", "store", "info"],
            {"data": None, "environ_update": None},
        ),
    ]


def test_a_failure_repeats_what_nix_said(make_nix: MakeNix) -> None:
    with pytest.raises(NixError, match="nix-store --verify x failed with status 3: error: so it is$") as caught:
        make_nix(status=3).run("nix-store", "--verify", "x", "y")
    assert (caught.value.rc, caught.value.stderr) == (3, "error: so it is\n")


@pytest.mark.parametrize(
    ("version", "words"), [("2.19.4", ["show-config", "--json"]), ("2.20.0", ["config", "show", "--json"])]
)
def test_settings(make_nix: MakeNix, calls: list[list[str]], version: str, words: list[str]) -> None:
    nix = make_nix(f"nix (Nix) {version}", '{"cores": {"value": 4, "aliases": []}}')
    assert nix.settings() == {"cores": 4}
    assert calls[-1] == ["--extra-experimental-features", "nix-command", *words]


@pytest.fixture
def owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pwd.struct_passwd:
    """An ordinary user who owns the store, with Nix in a profile at home, on a host with no other Nix."""
    home = tmp_path / "home"
    (home / ".nix-profile/bin").mkdir(parents=True)
    (home / ".nix-profile/bin/nix-store").touch()
    account = pwd.struct_passwd(("alice", "x", 4711, 4712, "", str(home), "/bin/sh"))
    monkeypatch.setattr(nix_cli, "BIN_DIRS", ())
    monkeypatch.setattr(nix_cli, "store_owner", lambda: account)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return account


def test_root_calls_the_nix_of_a_user_as_that_user(owner: pwd.struct_passwd, monkeypatch: pytest.MonkeyPatch) -> None:
    nix = Nix(lambda args, **_options: (0, "", ""))
    argv = nix.argv("nix-store", "--version")
    assert (nix.user, nix.home) == (owner, owner.pw_dir)
    assert argv[:5] == ["setpriv", "--reuid=4711", "--regid=4712", "--init-groups", "--no-new-privs"]
    assert argv[-4:] == [owner.pw_dir, "alice", f"{owner.pw_dir}/.nix-profile/bin/nix-store", "--version"]
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    nix = Nix(lambda args, **_options: (0, "", ""))
    assert nix.user is None and nix.argv("nix-store") == [f"{owner.pw_dir}/.nix-profile/bin/nix-store"]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv")
def test_what_such_a_program_sees() -> None:
    nobody = pwd.getpwnam("nobody")
    script = (
        "id -u; id -g; pwd; echo $HOME $USER ${XDG_CONFIG_HOME-none} $KEPT; grep -E 'CapEff|NoNewPr' /proc/$$/status"
    )
    done = subprocess.run(
        nix_cli.as_user(nobody, "/bin/sh", "-c", script),
        env={"PATH": os.environ["PATH"], "XDG_CONFIG_HOME": "/root/x", "KEPT": "kept"},
        cwd="/root",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        str(nobody.pw_uid),
        str(nobody.pw_gid),
        "/",
        f"{nobody.pw_dir} nobody none kept",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
    ]


def test_a_wrapper(owner: pwd.struct_passwd) -> None:
    wrapped = Nix(lambda args, **_options: (0, "", ""), "/shown/bin", wrapper=["/bin/proot", "-b", "/a b:/nix"])
    assert wrapped.user is None
    assert wrapped.argv("nix-daemon") == ["/bin/proot", "-b", "/a b:/nix", "/shown/bin/nix-daemon"]
    asked = Nix(lambda args, **_options: (0, "", ""), "/shown/bin", wrapper=["/bin/proot"], user="nobody")
    assert asked.argv("nix-daemon")[-4:] == [*asked.argv("x")[-4:-2], "/bin/proot", "/shown/bin/nix-daemon"]
    with pytest.raises(NixNotFound, match="no account no-such-user"):
        Nix(lambda args, **_options: (0, "", ""), "/shown/bin", wrapper=["/bin/proot"], user="no-such-user")


def test_whose_store_it_is(tmp_path: Path) -> None:
    assert nix_cli.store_owner(str(tmp_path / "none")) is None
    nobody = pwd.getpwnam("nobody")
    if os.geteuid() == 0:
        assert nix_cli.store_owner(str(tmp_path)) is None
        os.chown(tmp_path, nobody.pw_uid, -1)
        assert nix_cli.store_owner(str(tmp_path)) == nobody


def test_what_a_module_names(owner: pwd.struct_passwd) -> None:
    class Module:
        params: dict[str, t.Any] = {"nix_bin_dir": "/x", "nix_user": None, "nix_wrapper": ["/w"]}

        def run_command(self, *args: t.Any, **options: t.Any) -> tuple[int, str, str]:
            return 0, "", ""

    assert nix_cli.of_module(Module()).argv("nix-store") == ["/w", "/x/nix-store"]
