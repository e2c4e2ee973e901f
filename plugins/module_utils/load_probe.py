# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a builder's load probe says: the command C(nixfleet-load) of its account, one line of JSON. Pure.

    {"load": [0.1, 0.2, 0.3], "cpus": 2, "pressure": {"cpu": 0.0, "memory": 0.0, "io": 0.0},
     "memory": {"available": BYTES, "total": BYTES}, "store": {"free": BYTES, "total": BYTES}}

load: averages of 1, 5 and 15 minutes. pressure: PSI, C(avg10) of C(some), in percent. A value may be null or missing.
"""

from __future__ import annotations

import json
import math
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils.scheduler import Load

COMMAND = "nixfleet-load"
#: More bytes than this are no answer of a load probe.
ANSWER_MOST = 4096


def parse(answer: bytes) -> Load | None:
    """What a builder said of itself; None where it is not a load probe that answered. Parts that make no sense are
    not known.
    """
    try:
        said = json.loads(answer) if len(answer) <= ANSWER_MOST else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    average = said.get("load")
    cpus = _number(said.get("cpus"), 1 << 20)
    memory = _number(_part(said, "memory", "available"))
    disk = _number(_part(said, "store", "free"))
    load = Load(
        load_average=_number(average[0]) if isinstance(average, list) and average else None,
        cpus=int(cpus) if cpus and cpus >= 1 else None,
        pressure=_number(_part(said, "pressure", "cpu"), 100.0),
        free_memory=None if memory is None else int(memory),
        free_disk=None if disk is None else int(disk),
    )
    return None if load == Load() else load


def _part(said: t.Mapping[str, t.Any], name: str, key: str) -> t.Any:
    part = said.get(name)
    return part.get(key) if isinstance(part, dict) else None


def _number(value: t.Any, most: float = 1e18) -> float | None:
    """A number from 0 on, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) and 0 <= value <= most else None
