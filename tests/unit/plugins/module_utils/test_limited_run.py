# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that end in time, that do not, and that leave children behind."""

from __future__ import annotations

import os
import time

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import limited_run
from ansible_collections.nixfleet.builders.plugins.module_utils.limited_run import run_limited


def run(script: str, timeout: float = 1) -> tuple[int | None, str, str]:
    return run_limited(["/bin/sh", "-c", script], {"PATH": os.environ["PATH"], "WORD": "x"}, timeout)


def test_in_time() -> None:
    assert run("echo $WORD; echo err >&2; exit 3", 20) == (3, "x\n", "err\n")
    assert run("cat", 20) == (0, "", "")
    assert run("printf '\\377'", 20) == (0, "\ufffd", "")


@pytest.mark.parametrize(
    "script", ["sleep 60", "echo out; echo err >&2; sleep 60 & wait", "trap '' TERM; echo err >&2; sleep 60; sleep 60"]
)
def test_time_is_up(script: str) -> None:
    start = time.monotonic()
    rc, _out, err = run(script)
    assert time.monotonic() - start < 5
    assert rc is None
    assert err == ("err\n" if "err" in script else "")


def test_hopeless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited_run, "LOOK", 0.2)
    start = time.monotonic()
    script = "echo begun >&2; sleep 1; echo no hope >&2; sleep 60"
    assert run_limited(["/bin/sh", "-c", script], {}, 30, "no hope") == (None, "", "begun\nno hope\n")
    assert time.monotonic() - start < 10
    assert run_limited(["/bin/sh", "-c", "echo no hope >&2; exit 3"], {}, 30, "no hope") == (3, "", "no hope\n")


def test_children_are_gone() -> None:
    out = run("sleep 60 & echo $!; wait")[1]
    with pytest.raises(ProcessLookupError):
        for _attempt in range(50):
            os.kill(int(out), 0)
            time.sleep(0.1)


def test_a_child_that_left_the_session() -> None:
    """It keeps the pipes open, and is not waited for."""
    start = time.monotonic()
    assert run("echo err >&2; setsid sleep 8 & sleep 8")[2] == "err\n"
    assert time.monotonic() - start < 5
