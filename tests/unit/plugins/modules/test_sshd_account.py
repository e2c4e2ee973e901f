# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The drop-in in a configuration of its own, read by this machine's own sshd, which is never started."""

from __future__ import annotations

import os
import shutil
import subprocess
import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import files
from ansible_collections.nixfleet.builders.plugins.module_utils.sshd_account import PRIVSEP_DIR
from ansible_collections.nixfleet.builders.plugins.modules import sshd_account

Result = dict[str, t.Any]
Files = dict[str, tuple[bytes, int]]
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
SETTINGS = {
    "AuthenticationMethods": "publickey",
    "PermitTTY": False,
    "MaxSessions": 64,
    "SetEnv": ["PATH=/nix/bin:/bin", "LANG=C"],
}
GLOBALS = {"MaxStartups": "100:30:300", "LoginGraceTime": 77}
TEXT = f"""# {files.HEADER}
MaxStartups 100:30:300
LoginGraceTime 77
Match User nixremote
    AuthenticationMethods publickey
    PermitTTY no
    MaxSessions 64
    SetEnv PATH=/nix/bin:/bin LANG=C
Match all
"""

pytestmark = pytest.mark.skipif(
    not SSHD or not (os.path.isdir(PRIVSEP_DIR) or os.access("/run", os.W_OK)),
    reason="needs sshd on this machine, and its directory /run/sshd",
)


class Host:
    """A directory as /etc/ssh, and the module run on it."""

    def __init__(self, root: Path, key: Path, run: t.Callable[..., Result]) -> None:
        self.run = run
        self.root = root
        self.config = root / "sshd_config"
        self.path = root / "sshd_config.d" / "10-ours.conf"
        self.aside = root / "10-ours.conf"
        self.pending = root.parent / "run" / "pending"
        self.path.parent.mkdir(parents=True)
        self.include = f"Include {root}/sshd_config.d/*.conf\n"
        self.rest = f"# caf\xe9\nHostKey {key}\nUsePAM no\nX11Forwarding yes\n\nMatch User git\n  MaxSessions 3\n"
        self.write(self.include + self.rest)

    def write(self, text: str) -> None:
        self.config.write_bytes(text.encode("latin-1"))
        self.config.chmod(0o640)

    def __call__(self, settings: t.Any = None, **options: t.Any) -> Result:
        options = {"user": "nixremote", "settings": SETTINGS if settings is None else settings, **options}
        options = {"global_settings": GLOBALS, **options} if options.get("state") != "absent" else options
        return self.run(sshd_account, path=str(self.path), config=str(self.config), sshd=SSHD, **options)

    def absent(self, **options: t.Any) -> Result:
        return self(state="absent", **options)

    def files(self) -> Files:
        return {
            str(file.relative_to(self.root)): (file.read_bytes(), file.stat().st_mode & 0o7777)
            for file in self.root.rglob("*")
            if file.is_file()
        }

    def asked(self, user: str = "nixremote") -> dict[str, str]:
        """What sshd says, without any of the collection's code."""
        argv = [str(SSHD), "-T", "-f", str(self.config), "-C", f"user={user},host=h,addr=192.0.2.1"]
        out = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        asked: dict[str, str] = {}
        for keyword, _blank, value in (line.partition(" ") for line in out.splitlines()):
            # SetEnv has a line for each variable up to OpenSSH 9.
            asked[keyword.lower()] = f"{asked.get(keyword.lower(), '')} {value}".strip()
        return asked


@pytest.fixture(scope="module")
def key(tmp_path_factory: t.Any) -> Path:
    path: Path = tmp_path_factory.mktemp("key") / "host"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    os.makedirs(PRIVSEP_DIR, mode=0o755, exist_ok=True)
    return path


@pytest.fixture
def host(tmp_path: Path, key: Path, run_module: t.Any) -> Host:
    return Host(tmp_path / "ssh", key, run_module)


def test_round(host: Host) -> None:
    before = host.files()
    planned = host(check=True)
    assert planned["changed"] and host.files() == before and "effective" not in planned
    assert [diff["after_header"] for diff in planned["diff"]] == [str(host.path)]

    result = host()
    assert result["changed"] and result["include"] == "present" and result["path"] == str(host.path)
    assert result["diff"] == planned["diff"] and result["diff"][0]["after"] == TEXT
    assert host.files() == {**before, "sshd_config.d/10-ours.conf": (TEXT.encode(), 0o644)}
    asked = host.asked()
    assert result["effective"] == {key.lower(): asked[key.lower()] for key in (*SETTINGS, *GLOBALS)}
    assert (asked["permittty"], asked["maxsessions"]) == ("no", "64")
    assert (host.asked("git")["maxsessions"], host.asked("git")["permittty"]) == ("3", "yes")
    assert host.asked("root")["permittty"] == "yes" and host.asked("root")["maxstartups"] == "100:30:300"

    for check in (True, False):
        again = host(check=check)
        assert not again["changed"] and again["diff"] == [] and again["effective"] == result["effective"]

    assert host({**SETTINGS, "MaxSessions": 65})["diff"][0]["before"] == TEXT
    assert host.asked()["maxsessions"] == "65"

    assert host.absent(check=True)["changed"] and host.path.exists()
    gone = host.absent()
    assert gone["changed"] and gone["include"] == "present" and host.files() == before
    assert not host.absent()["changed"] and host.asked()["permittty"] == "yes"


def test_pending(host: Host) -> None:
    pending = str(host.pending)
    assert host(pending=pending, check=True)["changed"] and not host.pending.exists()
    assert host(pending=pending)["changed"] and host.pending.exists()
    assert host(pending=pending)["changed"] and host(pending=pending, check=True)["changed"]
    host.pending.unlink()
    assert not host(pending=pending)["changed"] and not host.pending.exists()
    # A marker that this run made goes with the files that it put back; one that was there is still due.
    (host.path.parent / "05-site.conf").write_text("LoginGraceTime 5\n")
    assert host({**SETTINGS, "MaxSessions": 65}, pending=pending)["failed"] and not host.pending.exists()
    host.pending.touch()
    assert host({**SETTINGS, "MaxSessions": 65}, pending=pending)["failed"] and host.pending.exists()
    host.pending.unlink()
    assert host.absent(pending=pending)["changed"] and host.pending.exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"PermitTTTY": False}, ["10-ours.conf", "PermitTTTY", "left as it was; correct them"]),
        ({"PermitTTY": "perhaps"}, ["10-ours.conf", "line 5", "perhaps"]),
        ({"UsePAM": False}, ["UsePAM", "not allowed within a Match block"]),
        ({"PermitTTY": "no\nPermitRootLogin no"}, ["PermitTTY", "control character"]),
        ({"PermitTTY": ""}, ["PermitTTY", "blank"]),
        ({"Match": "all"}, ["'Match' is not the name of a setting"]),
        ({"Include": "/etc/passwd"}, ["'Include' is not the name of a setting"]),
    ],
)
def test_refuses_and_changes_nothing(host: Host, settings: t.Any, said: list[str]) -> None:
    host()
    before = host.files()
    for check in (True, False):
        result = host(settings, pending=str(host.pending), check=check)
        assert result["failed"] and all(text in result["msg"] for text in said), result["msg"]
        assert "sshd_config." not in result["msg"].replace("sshd_config.d", "")
    assert host.files() == before and not host.pending.exists()


def test_refuses_global_settings_too(host: Host) -> None:
    before = host.files()
    assert "MaxStartups" in host(global_settings={"MaxStartups": "lots"})["msg"]
    assert "would change" in host(user="root")["msg"]
    assert "not the name of an account" in host(user="root,git")["msg"]
    assert host.files() == before


@pytest.mark.parametrize(
    ("other", "keyword", "line"),
    [
        ("Match User nixremote\n  SetEnv PATH=/bin\n", "SetEnv", 2),
        ("\n# x\nLoginGraceTime 5\n", "LoginGraceTime", 3),
        ("Match User nix*\nMaxSessions 1\nPermitTTY yes\n", "PermitTTY", 3),
    ],
)
@pytest.mark.parametrize("existing", [False, True])
def test_names_the_line_that_has_the_last_word(host: Host, other: str, keyword: str, line: int, existing: bool) -> None:
    if existing:
        host()
    site = host.path.parent / "05-site.conf"
    site.write_text(other)
    before = host.files()
    result = host({**SETTINGS, "MaxSessions": 65})
    assert result["failed"] and f"{keyword} is " in result["msg"] and f"{site} line {line} sets" in result["msg"]
    assert "no file was changed" in result["msg"] and host.files() == before
    assert not existing or f"{site} line {line} sets" in host()["msg"]
    site.unlink()
    assert host({**SETTINGS, "MaxSessions": 65})["changed"] and host.asked()["maxsessions"] == "65"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("AllowUsers root git", "AllowUsers"),
        ("DenyUsers nix*", "DenyUsers"),
        ("DenyGroups nixremote", "DenyGroups"),
        ("AllowGroups wheel", "AllowGroups"),
    ],
)
def test_names_the_line_that_keeps_the_account_out(host: Host, line: str, said: str) -> None:
    text = host.include + line + "\n" + host.rest
    host.write(text)
    for check in (True, False):
        message = host(check=check)["msg"]
        assert "would not let nixremote in" in message and f"{host.config} line 2 sets '{said.lower()}" in message
    assert not host.path.exists()
    host.write(host.include + host.rest)
    host()
    host.write(text)
    assert f"{host.config} line 2" in host()["msg"]
    assert host.absent()["changed"]


def test_the_account_may_be_let_in_by_our_own_settings(host: Host) -> None:
    host.write(host.include + "AllowUsers root\n" + host.rest)
    assert host({**SETTINGS, "AllowUsers": ["nixremote"]})["changed"]


def test_a_value_that_sshd_says_in_other_words(host: Host) -> None:
    settings = {"ClientAliveInterval": "1m", "PermitTTY": "No", "RekeyLimit": "1G 1h"}
    assert host(settings)["changed"] and host.asked()["clientaliveinterval"] == "60"
    assert not host(settings)["changed"]
    (host.path.parent / "05-site.conf").write_text("Match all\nClientAliveInterval 2m\n")
    assert "ClientAliveInterval is 120" in host(settings)["msg"]


def test_nothing_is_written_for_the_time_of_a_refusal(host: Host) -> None:
    host()
    (host.path.parent / "05-site.conf").write_text("Match User nixremote\nSetEnv PATH=/bin\n")
    before = host.path.stat()
    assert host({**SETTINGS, "MaxSessions": 65})["failed"] and host.path.stat() == before


def test_a_former_file_does_not_get_in_the_way(host: Host) -> None:
    host()
    # Two lists of methods do not go together, wherever they stand.
    host.path.write_text("Match User nixremote\nAuthenticationMethods any\n")
    assert host()["changed"] and host.asked()["authenticationmethods"] == "publickey"


@pytest.mark.parametrize("include", ["", "#", "Include /nowhere/*.conf\n#"])
def test_an_include_that_is_missing(host: Host, include: str) -> None:
    text = include + host.include * bool(include) + host.rest
    host.write(text)
    before = host.files()
    for check in (True, False):
        message = host(include="report", check=check)["msg"]
        assert f"{host.config} does not include {host.path}" in message and f"'Include {host.path}'" in message
    assert host.files() == before
    planned = host(check=True)
    assert planned["include"] == "added" and host.files() == before
    result = host()
    assert result["include"] == "added" and result["diff"] == planned["diff"]
    assert host.config.read_bytes() == f"Include {host.path}\n{text}".encode("latin-1")
    assert host.config.stat().st_mode & 0o777 == 0o640
    assert host.asked()["permittty"] == "no" and host.asked("root")["permittty"] == "yes"
    again = host(include="report")
    assert not again["changed"] and again["include"] == "present"
    gone = host.absent()
    assert gone["include"] == "removed" and host.files() == before


def test_an_include_under_a_match(host: Host) -> None:
    text = host.rest + host.include
    host.write(text)
    before = host.files()
    message = host(include="report")["msg"]
    assert f"{host.config} line 8 includes" in message and "under 'Match user git'" in message
    assert "include=mend" in message and host.files() == before
    result = host()
    assert result["include"] == "added" and result["path"] == str(host.aside)
    assert host.asked()["permittty"] == "no" and host.asked("git")["permittty"] == "yes"
    assert not host.path.exists() and not host(include="report")["changed"]
    # Somebody moves the Include to where it belongs: our line and the file beside sshd_config are not needed any more.
    host.write(f"Include {host.aside}\n{host.include}{host.rest}")
    assert host()["path"] == str(host.path) and host.asked()["permittty"] == "no"
    assert host.config.read_bytes() == (host.include + host.rest).encode("latin-1") and not host.aside.exists()
    host.write(f"Include {host.aside}\n{text}")
    assert host()["path"] == str(host.aside) and not host.path.exists()
    assert host.absent()["include"] == "removed" and host.files() == before


def test_a_file_from_before_the_include_moved_goes(host: Host) -> None:
    host()
    host.write(host.rest + host.include)
    assert (
        host(check=True)["changed"]
        and host()["changed"]
        and not host.path.exists()
        and host.asked()["permittty"] == "no"
    )
    assert host.absent()["changed"] and not host.aside.exists()


def test_a_former_file_that_sshd_no_longer_takes(host: Host) -> None:
    host()
    host.path.write_text("GoneOption yes\n")
    broken = host.files()
    assert "PermitTTTY" in host({"PermitTTTY": False})["msg"] and host.files() == broken
    assert host()["changed"] and host.asked()["permittty"] == "no"
    host.path.write_text("GoneOption yes\n")
    assert host.absent()["changed"] and host.asked()["permittty"] == "yes"


@pytest.mark.parametrize("written", [False, True])
def test_a_configuration_that_was_broken_before(host: Host, written: bool) -> None:
    if written:
        host()
    host.write(host.include + "NoSuchOption yes\n" + host.rest)
    before = host.files()
    for settings in (SETTINGS, {**SETTINGS, "MaxSessions": 65}):
        message = host(settings, pending=str(host.pending))["msg"]
        assert "NoSuchOption" in message and str(host.config) in message and "mend it first" in message
        assert "\r" not in message
    assert host.files() == before and not host.pending.exists()


def test_all_is_put_back_when_sshd_refuses_it_in_place(host: Host, tmp_path: Path) -> None:
    host.write(host.rest)
    before = host.files()
    picky = tmp_path / "sshd"
    picky.write_text(f'#!/bin/sh\n[ ! -e {host.path} ] || {{ echo not here >&2; exit 1; }}\nexec {SSHD} "$@"\n')
    picky.chmod(0o755)
    result = host.run(
        sshd_account,
        **{"user": "nixremote", "path": str(host.path), "config": str(host.config), "sshd": str(picky)},
        settings=SETTINGS,
        pending=str(host.pending),
    )
    assert result["failed"] and "not here" in result["msg"]
    assert host.files() == before and not host.pending.exists()


def test_what_is_missing_is_named(host: Host) -> None:
    host.config.unlink()
    assert f"there is no {host.config}" in host()["msg"]
    result = host.run(sshd_account, user="nixremote", settings={}, sshd="/nowhere/sshd")
    assert "there is no sshd" in result["msg"] and "/nowhere/sshd" in result["msg"]


def test_keys_besides_the_accounts_own(host: Host, tmp_path: Path) -> None:
    beside = {"settings": {"MaxSessions": 64}, "keys_file": "/etc/ssh/ours"}
    assert host(**beside)["changed"]
    assert host.asked()["authorizedkeysfile"] == ".ssh/authorized_keys .ssh/authorized_keys2 /etc/ssh/ours"
    assert "ours" not in host.asked("root")["authorizedkeysfile"]
    assert not host(**beside)["changed"]
    host.write(host.include + "AuthorizedKeysFile /keys/%u none\n" + host.rest)
    assert host(**beside)["changed"]
    assert host.asked()["authorizedkeysfile"].split()[-1] == "/etc/ssh/ours"
    assert host.asked()["authorizedkeysfile"].startswith("/keys/")
    assert not host(**beside)["changed"]
    assert host.absent()["changed"] and "ours" not in host.asked()["authorizedkeysfile"]
