# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values in the Nix language: a real Nix reads them as they were meant."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import typing as t

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_expression import (
    INT_MAX,
    Call,
    NixExpressionError,
    bindings,
    name,
    number,
    quote,
    render,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

needs_nix = pytest.mark.skipif(shutil.which("nix-instantiate") is None, reason="there is no Nix on this machine")

#: Near to what means something in a string of Nix.
PIECES = st.sampled_from(
    ['"', "''", "'", "$", "${", "$${", "}", "\\", "\\n", "\n", "\r", "\r\n", "\t", "a", "ü", "\x01", "\x7f"]
)
TEXTS = st.lists(PIECES | st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12).map("".join)
#: Of a fraction, Nix's JSON shows six digits; what it keeps of one shows further down.
NUMBERS = st.integers(-INT_MAX, INT_MAX) | st.integers(1, 999).map(lambda value: value / 8)
VALUES = st.recursive(
    TEXTS | NUMBERS | st.booleans() | st.none(),
    # A set with __toString or outPath prints itself.
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(TEXTS.filter(lambda text: len(text) < 7), inner, max_size=4)
    ),
    max_leaves=12,
)
#: One call of Nix for many values, as a call takes longer than all of them.
MANY = settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def evaluated(texts: t.Sequence[str], *options: str) -> str:
    """What Nix prints for a list of expressions."""
    expression = "[\n" + "".join(f"({text})\n" for text in texts) + "]"
    command = ["nix-instantiate", *options, "--strict", "-"]
    done = subprocess.run(command, input=expression.encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@needs_nix
@MANY
@given(st.lists(VALUES, min_size=1, max_size=40))
@example(["${a}", "$${a}", "\\${a}", "'${a}", "''${a}", '"', "\\", "\\\\", "a\n  b\n", "\r\n", "\r", "or"])
@example([{"or": 1, "a.b": 2, "a b": 3, "a\nb": 4, "": 5, "a-b'": 6, "1": 7}])
@example([-1, [-1, 1.5], 0.25])
def test_nix_reads_what_was_meant(values: list[t.Any]) -> None:
    assert json.loads(evaluated([render(value) for value in values], "--eval", "--json")) == values


@needs_nix
@MANY
@given(st.lists(VALUES, min_size=1, max_size=40))
def test_nix_parses_it(values: list[t.Any]) -> None:
    assert evaluated([render(value, "    ") for value in values], "--parse")


@needs_nix
@MANY
@given(st.lists(st.dictionaries(TEXTS, TEXTS, min_size=1, max_size=3), min_size=1, max_size=10))
def test_bindings_are_those_of_a_set(sets: list[dict[str, str]]) -> None:
    texts = ["{\n" + bindings(each, "  ") + "}" for each in sets]
    assert json.loads(evaluated(texts, "--eval", "--json")) == sets


@needs_nix
@MANY
@given(st.lists(st.floats(0, 1e12, allow_nan=False), min_size=1, max_size=40))
@example([1.5, 0.1, 0.0000001, 2.0, 1e300, 123456.789])
def test_a_number_comes_back_as_nixos_prints_it(values: list[float]) -> None:
    said = [text for text in map(number, values) if text is not None]
    printed = json.loads(evaluated([f"toString {text}" for text in said], "--eval", "--json"))
    assert [float(text) for text in printed] == [value for value in values if number(value) is not None]


def test_lists_and_sets_are_laid_out_for_people() -> None:
    assert render({"a": [], "b": {}, "c": ["x", 1], "d": {"e": None, "f g": True}}) == (
        '{\n  a = [ ];\n  b = { };\n  c = [ "x" 1 ];\n  d = {\n    e = null;\n    "f g" = true;\n  };\n}'
    )
    assert render(["x" * 60, "y" * 60]).splitlines() == ["[", f'  "{"x" * 60}"', f'  "{"y" * 60}"', "]"]
    assert render({"a": Call("f", [Call("g", 1)])}) == "{\n  a = f [ (g 1) ];\n}"


def test_a_string_keeps_its_lines() -> None:
    assert quote("a\nb${c}$d") == '"a\nb\\${c}$d"'


def test_names() -> None:
    assert [name(text) for text in ("a", "a-b", "if", "1a", "a.b", "")] == ["a", "a-b", '"if"', '"1a"', '"a.b"', '""']


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("a\0b", "NUL"),
        ("\udcff", "no character"),
        (2**63, "too large"),
        (math.inf, "no number"),
        (1e-9, "no number"),
        (b"x", "bytes"),
        ({1: 2}, "no name"),
        (object(), "object"),
    ],
)
def test_what_nix_cannot_hold_is_refused(value: t.Any, reason: str) -> None:
    with pytest.raises(NixExpressionError, match=reason):
        render(value)
