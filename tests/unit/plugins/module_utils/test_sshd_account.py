# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the drop-in goes and which line includes it. What sshd makes of it, the tests of the module ask a real sshd."""

from __future__ import annotations

import typing as t
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import sshd_account
from ansible_collections.nixfleet.builders.plugins.module_utils.sshd_account import SshdAccount
from ansible_collections.nixfleet.builders.plugins.module_utils.sshd_config import SshdConfigError

Make = t.Callable[[str], SshdAccount]


@pytest.fixture
def account(tmp_path: Path) -> Make:
    """account(MAIN): the account in a configuration whose main file has this text, DIR standing for its directory."""
    (tmp_path / "sshd").touch()

    def make(main: str) -> SshdAccount:
        (tmp_path / "sshd_config").write_text(main.replace("DIR", str(tmp_path)))
        return SshdAccount(
            t.cast(t.Any, SimpleNamespace(tmpdir=str(tmp_path))),
            user="nixremote",
            path=str(tmp_path / "sshd_config.d/10-nixfleet.conf"),
            config=str(tmp_path / "sshd_config"),
            sshd=str(tmp_path / "sshd"),
        )

    return make


def test_an_include_that_is_there_is_enough(account: Make) -> None:
    made = account("Include DIR/sshd_config.d/*.conf\nPort 22\n")
    assert made.main_with_include("report") == made.main
    assert made.main_without_include() == made.main


def test_one_line_is_added_and_taken_back(account: Make) -> None:
    made = account("Port 22\n")
    mended = made.main_with_include("mend")
    assert mended == f"Include {made.path}\nPort 22\n"
    assert account(mended).main_without_include() == "Port 22\n"
    with pytest.raises(SshdConfigError, match="does not include .* or say include=mend"):
        made.main_with_include("report")


def test_a_conditional_include_is_kept_away_from(account: Make, tmp_path: Path) -> None:
    made = account("Match User git\nInclude DIR/sshd_config.d/*.conf\n")
    assert made.path == str(tmp_path / "10-nixfleet.conf")
    assert made.main_with_include("mend").startswith(f"Include {made.path}\nMatch User git\n")
    with pytest.raises(SshdConfigError, match="line 2 includes .* only under 'Match user git'"):
        made.main_with_include("report")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    given: dict[str, t.Any] = {"user": "nixremote", "path": "/x", "config": str(tmp_path / "none")}
    with pytest.raises(SshdConfigError, match="there is no sshd on this host"):
        SshdAccount(t.cast(t.Any, None), sshd=str(tmp_path / "none"), **given)
    (tmp_path / "sshd").touch()
    with pytest.raises(SshdConfigError, match="there is no .*none; name sshd's configuration"):
        SshdAccount(t.cast(t.Any, None), sshd=str(tmp_path / "sshd"), **given)


def test_a_vendors_configuration_is_read_and_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sshd").touch()
    own, vendor, path = tmp_path / "etc/sshd_config", tmp_path / "usr/sshd_config", tmp_path / "etc/d/10-nixfleet.conf"
    for file in (own, vendor):
        file.parent.mkdir()
    vendor.write_text(f"Include {path.parent}/*.conf\n")
    monkeypatch.setattr(sshd_account, "VENDOR_CONFIGS", {str(own): str(vendor)})

    def make() -> SshdAccount:
        module = t.cast(t.Any, SimpleNamespace(tmpdir=str(tmp_path)))
        return SshdAccount(module, user="u", path=str(path), config=str(own), sshd=str(tmp_path / "sshd"))

    made = make()
    assert (made.config, made.aside) == (str(vendor), str(own.parent / "10-nixfleet.conf"))
    assert made.main_with_include("mend") == made.main
    vendor.write_text("Port 22\n")
    with pytest.raises(SshdConfigError, match="belongs to the distribution; copy it to /etc/ssh"):
        make().main_with_include("mend")
    own.write_text("Port 22\n")
    assert make().config == str(own)
