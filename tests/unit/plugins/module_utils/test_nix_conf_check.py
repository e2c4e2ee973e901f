# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of Nix, with a Nix that is made of a dictionary; the real one is in test_nix_conf of the modules."""

from __future__ import annotations

import json
import os
import pwd
import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import nix_conf, nix_conf_check
from ansible_collections.nixfleet.builders.plugins.module_utils.files import read_text
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import NixError
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_conf_check import Candidate, Refused, Verdict

LISTS = ("trusted-users", "experimental-features", "substituters")


class Nix:
    """Reads what is staged as Nix would: plain settings replace, extra- appends, numbers must be numbers."""

    home = "/root"
    user: t.Any = None

    def __init__(self, version: tuple[int, ...] = (2, 34, 8), said: str = "") -> None:
        self.version = self.cli_version = version
        self.said = said
        self.asked: list[str] = []

    def call(self, program: str, *args: str, data: str | None = None, env: t.Any = None) -> tuple[int, str, str]:
        self.asked.append(" ".join((program, *args)))
        assert env["NIX_CONFIG"] == ""
        start = Path(env["NIX_CONF_DIR"]) / "nix.conf"
        values: dict[str, t.Any] = {"trusted-users": ["root"], "max-jobs": 1, "map": {}}
        stderr = self.said
        for file in [str(start), *reversed([name for name in env["NIX_USER_CONF_FILES"].split(":") if name])]:
            for it in nix_conf.walk(file, read_text):
                base = nix_conf.base_name(it.name)
                base = "max-jobs" if base == "build-max-jobs" else base
                if base in LISTS:
                    values[base] = (values.get(base, []) if it.name != base else []) + it.value.split()
                elif base == "max-jobs":
                    if not it.value.isdigit():
                        error = f"warning: x\nerror: not a number, in {it.file}\n"
                        return 1, "", error + "Try '/usr/bin/nix --help' for more information."
                    values[base] = int(it.value)
                elif base == "build-hook":
                    # As Nix 2.25 to 2.33 do.
                    values[base] = ["stock"] if file == str(start) else [it.value]
                elif base == "map":
                    values[base] = dict(pair.split("=") for pair in it.value.split())
                else:
                    stderr += f"warning: unknown setting '{it.name}'\n"
        entries = {name: {"value": value, "aliases": []} for name, value in values.items()}
        entries["max-jobs"]["aliases"] = ["build-max-jobs"]
        return 0, json.dumps(entries), stderr


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> t.Callable[..., Verdict]:
    monkeypatch.setattr(nix_conf_check, "DEFAULT_MAIN", str(tmp_path / "nix.conf"))
    monkeypatch.setattr(nix_conf_check, "USER_FILE", f"{tmp_path}/root.conf")
    monkeypatch.setattr(nix_conf_check, "USERS_FILE", f"{tmp_path}/xdg.conf")
    runs = iter(range(100))

    def run(text: str, main: str = "!include ours.conf\n", nix: t.Any = None) -> Verdict:
        directory = tmp_path / f"staged{next(runs)}"
        directory.mkdir()
        ours = str(tmp_path / "ours.conf")
        nix = nix or Nix()
        return Candidate(
            nix, str(directory), main=str(tmp_path / "nix.conf"), main_text=main, path=ours, text=text
        ).check()

    return run


def test_what_is_asked(check: t.Any) -> None:
    for version, words in (((2, 34, 8), "config show"), ((2, 20, 0), "config show"), ((2, 8, 0), "show-config")):
        nix = Nix(version)
        assert check("max-jobs = 3\n", nix=nix) == Verdict({"max-jobs": 3}, [])
        assert nix.asked == [f"nix {words} --json"] * 2


def test_includes_are_followed_and_the_real_files_named(check: t.Any, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.conf").write_text("include b.conf\n\n")
    (tmp_path / "sub" / "b.conf").write_text("\nbuild-max-jobs = 9\ntrusted-users = x\n")
    main = "!include gone.conf\n!include sub/a.conf\n  !include ours.conf\n"
    assert check("max-jobs = 3\nextra-trusted-users = y\n", main).effective == {
        "max-jobs": 3,
        "extra-trusted-users": ["x", "y"],
    }
    main = "!include ours.conf\n!include sub/a.conf\n"
    with pytest.raises(
        Refused, match=rf"max-jobs = 3 of {tmp_path}/ours.conf .*{tmp_path}/sub/b.conf:2 sets build-max"
    ):
        check("max-jobs = 3\n", main)
    assert check("max-jobs = 9\n", main).effective == {"max-jobs": 9}
    with pytest.raises(Refused, match="sub/b.conf:3 sets trusted-users again"):
        check("extra-trusted-users = y\n", main)
    (tmp_path / "sub" / "b.conf").write_text("max-jobs = many\n")
    with pytest.raises(Refused, match=f"has already, .*: not a number, in {tmp_path}/sub/b.conf$"):
        check("max-jobs = 3\n", main)


def test_root_files_come_last_and_the_first_of_them_wins(check: t.Any, tmp_path: Path) -> None:
    (tmp_path / "xdg.conf").write_text("max-jobs = 4\n")
    with pytest.raises(Refused, match="xdg.conf:1 sets max-jobs again"):
        check("max-jobs = 3\n")
    (tmp_path / "root.conf").write_text("max-jobs = 3\nextra-trusted-users = me\n")
    assert check("max-jobs = 3\ntrusted-users = you\n").effective == {"max-jobs": 3, "trusted-users": ["you", "me"]}


def test_the_setting_is_named_also_where_nix_does_not(check: t.Any) -> None:
    with pytest.raises(Refused, match="does not take the setting max-jobs = many: not a number, in /.*/ours.conf$"):
        check("extra-trusted-users = x\nmax-jobs = many\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max-job = 3\n", "know the setting max-job, .*do you mean max-jobs"),
        ("zzz = 3\n", "know the setting zzz, and would ignore it$"),
        ("extra-zzz = 3\n", "know the setting extra-zzz"),
        ("build-max-jobs = 1\nmax-jobs = 1\n", "build-max-jobs and max-jobs are two names"),
    ],
)
def test_unknown_and_doubled(check: t.Any, text: str, said: str) -> None:
    with pytest.raises(Refused, match=said):
        check(text)
    other = "zzz = 3\n!include ours.conf\n"
    assert check("max-jobs = 3\n", other).effective == {"max-jobs": 3}


def test_experimental(check: t.Any) -> None:
    said = "warning: Ignoring setting 'trusted-users' because experimental feature 'abc' is not enabled\n"
    with pytest.raises(Refused, match=r"extra-experimental-features: \[abc\]"):
        check("extra-trusted-users = x\n", nix=Nix(said=said))
    assert check("max-jobs = 3\n", nix=Nix(said=said)).warnings == []
    verdict = check("extra-experimental-features = b\n", nix=Nix(said="warning: unknown experimental feature 'b'\n"))
    assert "experimental feature b, which Nix 2.34.8 does not know" in verdict.warnings[0]
    main = "experimental-features = z a\n!include ours.conf\nextra-experimental-features = c\n"
    assert check("extra-experimental-features = b\n", main).effective == {
        "extra-experimental-features": ["a", "b", "c", "z"]
    }


def test_maps(check: t.Any) -> None:
    assert check("map = a=1 b=2\n").effective == {"map": {"a": "1", "b": "2"}}
    with pytest.raises(Refused, match="sets map again"):
        check("map = a=1\n", "!include ours.conf\nmap = a=2\n")


def test_no_json(check: t.Any) -> None:
    class Broken(Nix):
        def call(self, *args: t.Any, **options: t.Any) -> tuple[int, str, str]:
            return 0, "what?", ""

    with pytest.raises((NixError, Refused), match="printed no JSON"):
        check("max-jobs = 3\n", nix=Broken())


@pytest.mark.parametrize(
    ("text", "effective"),
    [
        ("extra-trusted-users = me\n", {"extra-trusted-users": ["root", "everybody", "me"]}),
        ("build-hook = /hook\n", {"build-hook": ["/hook"]}),
    ],
)
def test_the_file_of_the_user_who_owns_nix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, effective: dict[str, t.Any]
) -> None:
    monkeypatch.setattr(nix_conf_check, "DEFAULT_MAIN", str(tmp_path / "nix.conf"))
    monkeypatch.setattr(nix_conf_check, "USERS_FILE", str(tmp_path / "xdg.conf"))
    (tmp_path / "nix.conf").write_text("extra-trusted-users = everybody\n")
    main = tmp_path / ".config/nix/nix.conf"
    main.parent.mkdir(parents=True)
    ours = str(main.parent / "ours.conf")
    (tmp_path / "staged").mkdir()
    nix = Nix()
    nix.home = str(tmp_path)
    candidate = Candidate(
        t.cast(t.Any, nix),
        str(tmp_path / "staged"),
        main=str(main),
        main_text="!include ours.conf\nmax-jobs = 2\n",
        path=ours,
        text=text,
    )
    assert candidate.check().effective == effective


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_is_staged_is_for_who_calls_nix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nix_conf_check, "DEFAULT_MAIN", str(tmp_path / "nix.conf"))
    secret, public = tmp_path / "secret.conf", tmp_path / "public.conf"
    secret.write_text("max-jobs = 7\n")
    secret.chmod(0o600)
    public.write_text("extra-trusted-users = everybody\n")
    staged = tmp_path / "staged"
    staged.mkdir()
    nix = Nix()
    nix.user = pwd.getpwnam("nobody")
    nix.home = "/nonexistent"
    text = "!include secret.conf\n!include public.conf\n!include ours.conf\n"
    ours = str(tmp_path / "ours.conf")
    main = str(tmp_path / "nix.conf")
    verdict = Candidate(
        t.cast(t.Any, nix), str(staged), main=main, main_text=text, path=ours, text="extra-trusted-users = me\n"
    ).check()
    assert verdict.effective == {"extra-trusted-users": ["root", "everybody", "me"]}
    found = [staged, *staged.rglob("*")]
    assert {each.stat().st_gid for each in found} == {nix.user.pw_gid} and {each.stat().st_uid for each in found} == {0}
    assert {each.stat().st_mode & 0o777 for each in found} == {0o750, 0o640}
    assert not any("max-jobs" in each.read_text() for each in found if each.is_file())
