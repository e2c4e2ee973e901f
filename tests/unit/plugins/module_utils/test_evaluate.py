# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What users name, as derivations."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import evaluate
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import Nix

DRV = "/nix/store/1lxbbh9zd697xyd519j7dyzq36l45fw1-hello.drv"
OTHER = "/nix/store/qdhl0b0cm3vf05mgl6iisyxcfkm7i2mv-other.drv"


@pytest.mark.parametrize(
    ("texts", "roots"),
    [
        ([DRV], {DRV: ()}),
        ([f"{DRV}!out,dev"], {DRV: ("dev", "out")}),
        ([f"{DRV}^dev", f"{DRV}!out", OTHER], {DRV: ("dev", "out"), OTHER: ()}),
        ([f"{DRV}!dev", DRV], {DRV: ()}),
        ([f"{DRV}!*", f"{DRV}!dev"], {DRV: ()}),
    ],
)
def test_parse(texts: list[str], roots: evaluate.Roots) -> None:
    assert evaluate.parse(texts) == roots


@pytest.mark.parametrize("text", ["", "x", DRV[:-4], f"{DRV}!", f"{DRV}!a!b", "/nix/store/short-x.drv", f"{DRV}!a,"])
def test_what_is_no_derivation(text: str) -> None:
    with pytest.raises(evaluate.NoDerivation, match="no derivation"):
        evaluate.parse([text])


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(DRV)
    assert evaluate.parse([str(tmp_path / "link")]) == {DRV: ()}


class Runner:
    """Nix that answers the same to everything."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.calls: list[list[str]] = []

    def __call__(self, args: list[str], **_more: t.Any) -> tuple[int, str, str]:
        self.calls.append(args)
        return 0, self.answer, ""


def nix(tmp_path: Path, answer: str) -> tuple[Nix, Runner]:
    (tmp_path / "nix-store").touch()
    runner = Runner(answer)
    return Nix(runner, str(tmp_path)), runner


def test_a_file_with_attributes(tmp_path: Path) -> None:
    program, runner = nix(tmp_path, f"{DRV}!dev\n{OTHER}\n")
    assert evaluate.instantiate(program, "/x.nix", ["hello.dev", "other"], None) == {DRV: ("dev",), OTHER: ()}
    assert runner.calls == [[f"{tmp_path}/nix-instantiate", "/x.nix", "--attr", "hello.dev", "--attr", "other"]]


def test_an_expression(tmp_path: Path) -> None:
    program, runner = nix(tmp_path, DRV)
    assert evaluate.instantiate(program, None, [], "1") == {DRV: ()}
    assert runner.calls == [[f"{tmp_path}/nix-instantiate", "--expr", "1"]]


def test_installables(tmp_path: Path) -> None:
    program, runner = nix(tmp_path, f"{DRV}\n")
    assert evaluate.installables(program, [".#hello^dev"]) == {DRV: ("dev",)}
    assert runner.calls[0][-3:] == ["path-info", "--derivation", ".#hello"]
