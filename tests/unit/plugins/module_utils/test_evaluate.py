# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what a user names to derivations, with a stand-in for Nix's programs."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import evaluate
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import Nix, NixError

HELLO = "/nix/store/1lxbbh9zd697xyd519j7dyzq36l45fw1-hello-2.12.drv"
WORLD = "/nix/store/2lxbbh9zd697xyd519j7dyzq36l45fw1-world.drv"


class PlayedNix(Nix):
    """Answers by the last word of a command."""

    def __init__(self, directory: Path, answers: t.Mapping[str, str]) -> None:
        (directory / "nix-store").touch()
        super().__init__(self._run, str(directory))
        self._answers = answers
        self.calls: list[list[str]] = []

    def _run(self, args: list[str], **_options: t.Any) -> tuple[int, str, str]:
        self.calls.append([args[0].rpartition("/")[2], *args[1:]])
        answer = self._answers.get(args[-1])
        return (1, "", "error: there is no such thing") if answer is None else (0, answer, "")


@pytest.mark.parametrize(
    ("texts", "roots"),
    [
        ([], {}),
        ([HELLO], {HELLO: ()}),
        ([f"{HELLO}!out"], {HELLO: ("out",)}),
        ([f"{HELLO}^out,dev"], {HELLO: ("dev", "out")}),
        ([f"{HELLO}^*"], {HELLO: ()}),
        ([f"{HELLO}!dev", WORLD, f"{HELLO}!out", f"{HELLO}!dev"], {HELLO: ("dev", "out"), WORLD: ()}),
        # All outputs are more than some, in whatever order.
        ([HELLO, f"{HELLO}!out"], {HELLO: ()}),
        ([f"{HELLO}!out", HELLO], {HELLO: ()}),
        ([f"{HELLO}!out", f"{HELLO}!*", f"{HELLO}!dev"], {HELLO: ()}),
        # Stores elsewhere.
        ([HELLO.replace("/nix/store", "/srv/a b/store")], {HELLO.replace("/nix/store", "/srv/a b/store"): ()}),
    ],
)
def test_paths_of_derivations(texts: list[str], roots: evaluate.Roots) -> None:
    assert evaluate.parse(texts) == roots


def test_their_order_is_kept() -> None:
    assert list(evaluate.parse([WORLD, HELLO, WORLD])) == [WORLD, HELLO]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        HELLO[:-4],
        HELLO[1:],
        HELLO.replace("1lx", "1ex"),
        HELLO.replace("1lx", "lx"),
        f"{HELLO}!",
        f"{HELLO}!out,",
        f"{HELLO}!out!dev",
        f"{HELLO}!out,*",
        f"{HELLO}\n",
        f"{HELLO}/out",
        HELLO.replace("hello", "hel lo"),
    ],
)
def test_what_is_no_derivation(text: str) -> None:
    with pytest.raises(evaluate.NoDerivation, match="is no derivation; write the path of a .drv file") as error:
        evaluate.parse([HELLO, text])
    assert str(error.value).startswith(repr(text))


def test_links_are_followed(tmp_path: Path) -> None:
    drv = tmp_path / Path(HELLO).name
    drv.touch()
    (tmp_path / "first").symlink_to(drv)
    (tmp_path / "second").symlink_to("first")
    assert evaluate.parse([str(tmp_path / "second")]) == {str(drv): ()}
    (tmp_path / "other").symlink_to(tmp_path)
    with pytest.raises(evaluate.NoDerivation, match="other"):
        evaluate.parse([str(tmp_path / "other")])


@pytest.mark.parametrize(
    ("file", "attributes", "expression", "arguments", "call"),
    [
        ("/p/default.nix", [], None, [], ["/p/default.nix"]),
        ("/p", ["a", "b.dev"], None, [], ["/p", "--attr", "a", "--attr", "b.dev"]),
        (None, [], None, [], ["."]),
        (None, ["a"], "import ./x", [], ["--expr", "import ./x", "--attr", "a"]),
        (None, [], "", [], ["--expr", ""]),
        ("/p", ["a"], None, ["--argstr", "x", "y"], ["/p", "--attr", "a", "--argstr", "x", "y"]),
    ],
)
def test_files_and_expressions(
    tmp_path: Path, file: str | None, attributes: list[str], expression: str | None, arguments: list[str], call: t.Any
) -> None:
    nix = PlayedNix(tmp_path, {call[-1]: f"{WORLD}!dev\n{HELLO}\n"})
    roots = evaluate.instantiate(nix, file, attributes, expression, arguments)
    assert nix.calls == [["nix-instantiate", *call]]
    assert list(roots.items()) == [(WORLD, ("dev",)), (HELLO, ("out",))]


def test_an_expression_that_gives_no_derivation_or_an_error(tmp_path: Path) -> None:
    nix = PlayedNix(tmp_path, {"{ }": "", "1": "warning: you did not specify '--add-root'\n"})
    assert evaluate.instantiate(nix, None, [], "{ }") == {}
    with pytest.raises(evaluate.NoDerivation, match="'warning:'"):
        evaluate.instantiate(nix, None, [], "1")
    with pytest.raises(NixError, match="no such thing"):
        evaluate.instantiate(nix, None, [], "x")


def test_flakes(tmp_path: Path) -> None:
    answers = {".#hello": f"{HELLO}\n", "n#world": f"{WORLD}\n", "n#both": f"{HELLO}\n{WORLD}\n"}
    nix = PlayedNix(tmp_path, answers)
    assert list(evaluate.installables(nix, ["n#world^dev,lib", ".#hello"]).items()) == [
        (WORLD, ("dev", "lib")),
        (HELLO, ()),
    ]
    enabled = ["--extra-experimental-features", "nix-command", "path-info", "--derivation"]
    enabled += ["--extra-experimental-features", "flakes", "--no-write-lock-file"]
    assert nix.calls == [["nix", *enabled, flake] for flake in ("n#world", ".#hello")]
    assert evaluate.installables(nix, ["n#world^dev", "n#world^out"]) == {WORLD: ("dev", "out")}
    assert evaluate.installables(nix, ["n#world^dev", "n#both"]) == {WORLD: (), HELLO: ()}
    assert evaluate.installables(nix, ["n#both^*"]) == {WORLD: (), HELLO: ()}
    with pytest.raises(NixError, match="no such thing"):
        evaluate.installables(nix, ["n#none"])


def test_flakes_of_a_nix_that_names_the_outputs(tmp_path: Path) -> None:
    """What is wanted is what the user names."""
    nix = PlayedNix(tmp_path, {"n#a": f"{HELLO}!out\n", "n#b": f"{WORLD}^out\n"})
    assert evaluate.installables(nix, ["n#a", "n#b^dev"]) == {HELLO: (), WORLD: ("dev",)}
