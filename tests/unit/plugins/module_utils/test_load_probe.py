# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What builders say of themselves, and what others say when they are asked."""

from __future__ import annotations

import json
import random
import typing as t

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils.load_probe import ANSWER_MOST, parse
from ansible_collections.nixfleet.builders.plugins.module_utils.scheduler import Load

SAID: dict[str, t.Any] = {
    "load": [0.5, 0.2, 0.3],
    "cpus": 2,
    "pressure": {"cpu": 12.5, "memory": 0.0, "io": 1.0},
    "memory": {"available": 3 << 30, "total": 4 << 30},
    "store": {"free": 5 << 30, "total": 6 << 30},
}


def said(**parts: t.Any) -> Load | None:
    return parse(json.dumps({**SAID, **parts}).encode() + b"\n")


def test_an_answer() -> None:
    assert said() == Load(load_average=0.5, cpus=2, pressure=12.5, free_memory=3 << 30, free_disk=5 << 30)
    assert said(more={"of": "it"}) == said()


def test_a_kernel_without_pressure() -> None:
    expected = Load(load_average=0.5, cpus=2, free_memory=3 << 30, free_disk=5 << 30)
    assert said(pressure={"cpu": None, "memory": None, "io": None}) == said(pressure=None) == expected
    assert parse(b'{"cpus": 4}') == Load(cpus=4)


@pytest.mark.parametrize("value", ["1", True, -1, 1e300, [], {}, [[]], ["1"], None, float("nan"), float("inf")])
def test_parts_that_make_no_sense_are_not_known(value: t.Any) -> None:
    nothing = {
        name: value if name in ("load", "cpus") else {"cpu": value, "available": value, "free": value} for name in SAID
    }
    assert said(**nothing) is None
    assert said(**{**nothing, "cpus": 3}) == Load(cpus=3)
    assert said(**dict.fromkeys(SAID, value)) is None


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\n",
        b"nixfleet-load: command not found\n",
        b"{",
        b"[1, 2]",
        b"null",
        b"{}",
        b"\xff\xfe",
        b"[" * 4000,
        b"1" * 4000,
        json.dumps({**SAID, "x": "y" * ANSWER_MOST}).encode(),
        json.dumps(SAID).encode() * 2,
    ],
)
def test_what_is_no_answer(answer: bytes) -> None:
    assert parse(answer) is None


def test_garbage() -> None:
    chance = random.Random(1)
    whole = bytearray(json.dumps(SAID).encode())
    for _each in range(2000):
        damaged = bytearray(whole)
        for _place in range(chance.randrange(1, 6)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        load = parse(bytes(damaged[: chance.randrange(len(damaged) + 1)]))
        assert load is None or load.slowdown >= 1
