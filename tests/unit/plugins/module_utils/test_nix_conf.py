# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""nix.conf's text in both directions."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_conf import (
    MADE_BY_US,
    Assignment,
    Include,
    NixConfError,
    Setting,
    include_line,
    includes,
    parse,
    redact,
    render,
    settings_of,
    text_of,
    walk,
    with_include,
    without_include,
)
from hypothesis import example, given
from hypothesis import strategies as st

MAIN = "/etc/nix/nix.conf"
OURS = "/etc/nix/nix.conf.d/ours.conf"

names = st.from_regex(r"[a-z][a-z0-9-]{0,12}", fullmatch=True).filter(lambda name: name != "include")
words = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="# "), min_size=1, max_size=12)
values = st.one_of(
    st.lists(words, max_size=4).map(" ".join), st.integers(), st.booleans(), st.lists(st.one_of(words, st.integers()))
)
#: Texts near to real ones, so that the shrinker and the grammar meet.
texts = st.one_of(
    st.text(max_size=60),
    st.lists(
        st.sampled_from(["include", "!include", "=", "max-jobs", "#", " ", "\t", "\r", "\n", "\v", "a/b", "\udcff"]),
        max_size=20,
    ).map("".join),
)


@given(st.dictionaries(names, values))
def test_what_is_rendered_is_read(settings: dict[str, t.Any]) -> None:
    text = render(settings, "a\nheader")
    assert settings_of(text) == {name: text_of(name, value) for name, value in settings.items()}
    assert render(settings_of(text), "a\nheader") == text
    assert list(settings_of(render(dict(reversed(settings.items()))))) == list(settings_of(text))


@given(texts)
@example("a =\0\n")
def test_no_text_raises_anything_else(text: str) -> None:
    try:
        entries = parse(text, "f")
    except NixConfError as error:
        assert error.file == "f" and error.reason
        assert 1 <= error.line <= text.count("\n") + 1
        assert 1 <= error.column <= len(text.split("\n")[error.line - 1]) + 1
    else:
        assert all(1 <= entry.line <= text.count("\n") + 1 for entry in entries)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner),
)


@given(st.dictionaries(st.one_of(names, st.text(), st.integers()), anything, max_size=4))
def test_no_setting_raises_anything_else(settings: dict[t.Any, t.Any]) -> None:
    try:
        text = render(settings)
    except NixConfError as error:
        assert error.file and error.reason
    else:
        assert settings_of(text) == {name: text_of(name, value) for name, value in settings.items()}
        text.encode()


@given(st.one_of(st.none(), texts))
@example("a")
@example("")
@example(MADE_BY_US)
def test_the_line_leaves_no_trace(text: str | None) -> None:
    before = text or ""
    if includes(before, MAIN, OURS):
        return
    added = with_include(text, MAIN, OURS)
    assert added.startswith(before) and len(includes(added, MAIN, OURS)) == 1
    assert with_include(added, MAIN, OURS) == added
    both = with_include(added, MAIN, "/other")
    assert without_include(both, MAIN, "/other") == added
    remaining = without_include(both, MAIN, OURS)
    assert remaining is not None
    for end in (without_include(added, MAIN, OURS), without_include(remaining, MAIN, "/other")):
        assert end == text or (end is None and before.rstrip("\n") == MADE_BY_US)


def test_parse() -> None:
    text = "# c\n\n a  =\t b   c # d\r\nbuilders =\n!include x.d/y\n include z#\nextra-a = = e"
    assert parse(text) == [
        Setting("a", "b c", 3),
        Setting("builders", "", 4),
        Include("x.d/y", True, 5),
        Include("z", False, 6),
        Setting("extra-a", "= e", 7),
    ]


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("\nmax-jobs=3", "n.conf:2:11", "'=' after 'max-jobs' must stand between blanks"),
        ("max-jobs =3", "n.conf:1:10", "'=' after 'max-jobs' must stand between blanks"),
        ("access-tokens=x=secret", "n.conf:1:23", "'access-tokens'"),
        ("max-jobs 3 4", "n.conf:1:10", "there is no '=' after 'max-jobs'"),
        ("  max-jobs # = 3", "n.conf:1:11", "there is no '='"),
        ("!include a b", "n.conf:1:12", "!include takes one path"),
        ("include", "n.conf:1:1", "include takes one path"),
        ("include = x", "n.conf:1:11", "include takes one path"),
    ],
)
def test_syntax_errors(text: str, place: str, reason: str) -> None:
    with pytest.raises(NixConfError) as caught:
        parse(text, "n.conf")
    assert str(caught.value).startswith(f"{place}: ") and reason in str(caught.value)
    assert "secret" not in str(caught.value)


def test_render() -> None:
    settings = {"extra-a": ["x", 1], "b": "", "a": " y  z ", "fallback": False, "n": -3, "l": []}
    expected = "# h\na = y z\nextra-a = x 1\nb =\nfallback = false\nl =\nn = -3\n"
    assert render(settings, "h") == expected


def test_include_line() -> None:
    assert include_line(OURS, MAIN) == "!include nix.conf.d/ours.conf"
    assert include_line("/etc/nixer/x", MAIN) == "!include /etc/nixer/x"
    assert include_line("/x", "/y") == "!include x"
    for bad in ("/etc/a b", "/etc/a#b", "/etc/a\nb", "/etc/a\u00a0b"):
        with pytest.raises(NixConfError, match="cannot be included"):
            include_line(bad, MAIN)


def test_our_line_is_known_again() -> None:
    text = f"  !include ./nix.conf.d//ours.conf\t# x\ninclude {OURS}\n!include ours.conf\nx = {OURS}\n"
    assert includes(text, MAIN, OURS) == [1, 2]
    assert without_include(text, MAIN, OURS) == f"!include ours.conf\nx = {OURS}\n"
    assert without_include("a=broken\n", MAIN, OURS) == "a=broken\n"


def test_walk() -> None:
    files = {
        "/m": "a = 1\n!include d/x\n!include d/gone\na = 4\n",
        "/d/x": "include y\nb = 3\n",
        "/d/y": "\nextra-a = 2\n",
    }
    assert list(walk("/m", files.get)) == [
        Assignment("a", "1", "/m", 1),
        Assignment("extra-a", "2", "/d/y", 2),
        Assignment("b", "3", "/d/x", 2),
        Assignment("a", "4", "/m", 4),
    ]
    with pytest.raises(NixConfError, match="/m:1:1: includes /gone, which does not exist"):
        list(walk("/m", {"/m": "include gone"}.get))
    with pytest.raises(NixConfError, match="/b:1:1: includes /m, which includes this file"):
        list(walk("/m", {"/m": "include b", "/b": "include m"}.get))
    twice = {"/m": "include b\ninclude b", "/b": "a = 1"}
    assert len(list(walk("/m", twice.get))) == 2


def test_redact() -> None:
    text = "a = b\n extra-access-tokens = x=secret # secret\naccess-tokens=secret\nsubstituters = https://u:secret@h/ http://h\n"
    shown = redact(text)
    assert "secret" not in shown and "http://h" in shown and shown.startswith("a = b\n extra-access-tokens = *")
