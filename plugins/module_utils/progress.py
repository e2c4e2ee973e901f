# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""News of a run (dispatch.Event, as dicts) in lines for people: on a terminal and in a log alike. Pure."""

from __future__ import annotations

import typing as t

#: Of more finished steps at once than these only their number is told.
LINES_AT_ONCE = 12
#: After so many seconds without a line it is told what runs.
HEARTBEAT = 30.0
#: How many running steps a heartbeat names.
RUNNING_NAMED = 4
#: How much of a reason is told.
WIDTH = 160


class Progress:
    """What has been told of a run until now. verbose: also machines that are up, and results that arrive."""

    def __init__(self, verbose: bool = False) -> None:
        self._verbose = verbose
        #: When each began, and its name, by .drv path and machine.
        self._running: dict[tuple[str, str], tuple[float, str]] = {}
        self._counts: t.Mapping[str, int] = {}
        self._last_line: float | None = None

    def lines(self, news: t.Iterable[t.Mapping[str, t.Any]], now: float) -> list[str]:
        """What to show for news that came together. now: the watcher's clock, in seconds."""
        told: list[str] = []
        built: list[str] = []
        for event in news:
            self._counts = event["counts"] or self._counts
            step = (event["step"], event["machine"])
            if event["kind"] == "building":
                self._running[step] = (event["time"], event["name"])
                continue
            started = self._running.pop(step, (None, ""))[0]
            if event["kind"] == "built":
                took = "" if started is None else f" in {event['time'] - started:.1f} s"
                built.append(f"{self._done()} built {event['name']} on {event['machine']}{took}")
            else:
                told += self._other(event)
        if len(built) > LINES_AT_ONCE:
            built = [f"{self._done()} built {len(built)} more"]
        told += built
        if self._last_line is None or told:
            self._last_line = now
        elif now - self._last_line >= HEARTBEAT:
            self._last_line = now
            told.append(self._heartbeat(now))
        return told

    def _other(self, event: t.Mapping[str, t.Any]) -> list[str]:
        name, machine, text = event["name"], event["machine"], _short(event["text"])
        on = f" on {machine}" if machine else ""
        if event["kind"] == "plan":
            return [text] if sum(self._counts.values()) else []
        if event["kind"] == "failed":
            return [f"{self._done()} FAILED {name}{on}: {text}"]
        if event["kind"] == "lost":
            return [f"{self._done()} lost {name}{on}: {text}"]
        if event["kind"] == "down":
            return [f"{machine} cannot be reached: {text}"]
        if event["kind"] == "up" and self._verbose:
            return [f"{machine} is there: {text}"]
        if event["kind"] == "delivered" and self._verbose:
            return [f"results of {machine} are there: {text}"]
        return []

    def _done(self) -> str:
        counts = self._counts
        done = sum(counts.get(status, 0) for status in ("built", "failed", "cancelled"))
        return f"[{done}/{sum(counts.values())}]"

    def _heartbeat(self, now: float) -> str:
        oldest = sorted(self._running, key=lambda step: self._running[step])
        named = ", ".join(f"{self._running[step][1]} on {step[1]}" for step in oldest[:RUNNING_NAMED])
        more = f" and {len(oldest) - RUNNING_NAMED} more" if len(oldest) > RUNNING_NAMED else ""
        waiting = self._counts.get("waiting", 0) + self._counts.get("ready", 0)
        return f"{self._done()} building {named or 'nothing'}{more}; {waiting} wait"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"
