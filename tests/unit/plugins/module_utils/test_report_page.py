# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of a finished run: complete without a script, one file, and safe whatever a build prints."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import re
import typing as t

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import report_page
from ansible_collections.nixfleet.builders.plugins.module_utils.report import (
    Attempt,
    Machine,
    Phase,
    Refusal,
    Run,
    Step,
    StepStatus,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.report_page import as_html
from ansible_collections.nixfleet.builders.tests.support.report_samples import sample_run
from hypothesis import given, settings
from hypothesis import strategies as st

VOID = {"meta", "input", "br"}


class Page(html.parser.HTMLParser):
    """The page as a browser would see it: tags in balance, texts, the data for the script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts[-1] += data
        elif "style" not in self._open:
            self.text += data

    @property
    def data(self) -> dict[str, t.Any]:
        return t.cast("dict[str, t.Any]", json.loads(self.scripts[0]))


def run_with(text: str, status: StepStatus = "failed") -> Run:
    """A run that has this text wherever one can stand."""
    attempts = [
        Attempt("m", "lost", 0, [Phase("upload", 0, 1)], None, text),
        Attempt("m", "failed", 1, [Phase("build", 1, 2)]),
    ]
    return Run(
        [Machine("m", text, 1, 1.0, text, text)],
        [Step(f"/nix/store/{text}.drv", text, status, text, (), attempts, text, [text])],
        3.0,
        text,
        [Refusal(text, "m", text)],
        {text: text},
    )


NASTY = "</script><script>alert(1)</script><!-- \"quoted\" 'single' & &amp; {x} %s \u2028 ]]>"


def test_what_a_build_printed_stays_text() -> None:
    page = Page(as_html(run_with(NASTY)))
    assert page.tags.count("script") == 2
    assert page.text.count(NASTY) >= 8
    assert page.data["steps"][0][4][0][2] == NASTY
    assert not [name for name, _value in page.attributes if name.startswith("on")]


@given(st.text(st.characters(codec=None), max_size=30))
@settings(max_examples=60)
def test_any_text_gives_a_page_in_balance_and_in_utf8(text: str) -> None:
    made = as_html(run_with(text))
    page = Page(made.encode("utf-8").decode("utf-8"))
    assert page.tags.count("script") == 2 and page.data["seconds"] == 3


def test_colours_and_controls_of_a_terminal_are_gone() -> None:
    page = as_html(run_with("\x1b[1;31merror\x1b[0m\x1b]8;;file:///x\x07link\x1b]8;;\x1b\\ bell\x07 a\r\nb\x00 \udcff"))
    assert "errorlink bell\ufffd a\nb\ufffd \\udcff" in page
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", page)


def test_nothing_is_fetched() -> None:
    page = Page(as_html(sample_run(30)))
    assert not {"link", "img", "iframe", "object", "embed", "base"} & set(page.tags)
    assert not [name for name, _value in page.attributes if name in ("src", "href", "action", "srcset")]
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'") in page.attributes
    assert "url(" not in report_page.STYLE and "@import" not in report_page.STYLE
    assert not re.search(
        r"\b(fetch|XMLHttpRequest|import|eval|innerHTML|outerHTML|insertAdjacentHTML)\b", report_page.SCRIPT
    )


def test_all_is_told_without_a_script() -> None:
    run = sample_run(60, seed=3)
    text = Page(as_html(run)).text
    for step in run.steps:
        assert step.name in text
    assert "connection timed out after 10 s" in text and "it does not offer kvm" in text
    assert text.index("Failures") < text.index("Timeline") < text.index("Critical path") < text.index("Steps")
    assert "undefined" in text and "max_attempts" in text


def test_only_logs_of_failures_are_there_their_ends_and_not_endlessly(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(n: int, status: StepStatus) -> Step:
        return Step(f"/{n}", f"n{n}", status, log=[f"first{n}", "x" * 100, f"last{n}"])

    run = Run([], [step(1, "failed"), step(2, "failed"), step(3, "failed"), step(4, "built")], 1.0)
    monkeypatch.setattr(report_page, "LOG_CHARS", 90)
    monkeypatch.setattr(report_page, "ALL_LOG_CHARS", 150)
    page = as_html(run)
    assert "last1" in page and "last2" in page and "first1" not in page
    assert page.count("x" * 50) == 2 and "x" * 90 not in page
    assert "No log." in page and "last4" not in page


def test_many_failures_stand_behind_a_line() -> None:
    steps = [Step(f"/{n}", f"n{n}", "failed") for n in range(30)]
    page = as_html(Run([], steps, 1.0))
    assert f"{30 - report_page.FAILURES_SHOWN} more failures" in page
    few = as_html(Run([], steps[:5], 1.0))
    assert "more failures" not in few and few.count("<details open>") == 5


@pytest.mark.parametrize(
    ("statuses", "word"),
    [
        (["built", "found"], "Succeeded"),
        (["built", "failed", "cancelled"], "Failed"),
        (["cancelled"], "Stopped"),
        ([], "Succeeded"),
    ],
)
def test_the_result_in_a_word(statuses: list[StepStatus], word: str) -> None:
    run = Run([], [Step(f"/{n}", f"n{n}", status) for n, status in enumerate(statuses)], 1.0)
    assert f"<title>{word}: {len(statuses)} derivation" in as_html(run)


def test_what_the_script_draws() -> None:
    run = sample_run(40)
    data = Page(as_html(run)).data
    assert len(data["steps"]) == 40 and data["seconds"] == round(run.seconds, 3)
    assert len(data["rows"]) == 12, "idle slots too"
    for step, (_critical, into, _out, requirement, attempts) in zip(run.steps, data["steps"]):
        assert into == step.bytes_in and data["requirements"][requirement] == step.requirement
        for one, (row, outcome, _reason, _queued, *phases) in zip(step.attempts, attempts):
            assert data["rows"][row][0] == dict((m.key, m.label) for m in run.machines)[one.machine]
            assert outcome == one.outcome and len(phases) == 3 * len(one.phases)
    assert any(entry[0] for entry in data["steps"])


def test_idle_slots_of_a_large_fleet_are_left_out() -> None:
    run = dataclasses.replace(sample_run(5), machines=[Machine(f"m{n}", f"m{n}", 4) for n in range(100)])
    assert len(Page(as_html(run)).data["rows"]) <= 5


def test_refusals_are_gathered_by_reason() -> None:
    refusals = [Refusal("x86_64-linux kvm", f"m{n}", "no kvm") for n in range(30)]
    page = as_html(Run([], [Step("/a", "a", "built", "x86_64-linux kvm")], 1.0, refusals=refusals))
    assert "30 machines may not build 1 step<" in page and "m11 and 18 more" in page and page.count("no kvm") == 1


def test_2000_steps_stay_small() -> None:
    run = sample_run(2000, machines=12, slots=8)
    assert len(as_html(run).encode()) < 1_500_000


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.00 s"), (9.5, "9.50 s"), (59.94, "59.9 s"), (61, "1 min 01 s"), (7260, "2 h 01 min")]
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert report_page._seconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2e9, "2.0 GB"), (5e12, "5000 GB")]
)
def test_sizes_in_words(count: float, text: str) -> None:
    assert report_page._bytes(count) == text
