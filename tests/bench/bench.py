# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measurements of the collection, as JSON, each beside its target.

Times are wall seconds on this machine, on which the controller and all hosts share the cores. CPU seconds (controller
and hosts together) are there as well, since they tell more than wall seconds where something else is running.
"""

from __future__ import annotations

import argparse
import base64
import collections
import contextlib
import itertools
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import threading
import time
import typing as t
from pathlib import Path

ROOT = Path(os.environ["ROOT"])
BUILD = Path(os.environ["BUILD"])
sys.path[:0] = [str(ROOT / "tests/fleet"), os.environ["ANSIBLE_COLLECTIONS_PATH"]]

import dispatching  # noqa: E402
from ansible_collections.nixfleet.builders.plugins.module_utils import machines  # noqa: E402
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine  # noqa: E402
from fleetlib.hosts import load  # noqa: E402
from fleetlib.machine import Group  # noqa: E402

FLEET = os.environ.get("NIXFLEET_FLEET", "bench")
FLEET_TOOL = str(ROOT / "tests/fleet/fleet")
STATE = BUILD / "bench"

FRESH_SECONDS = 90.0
SECOND_SECONDS = 20.0
MACHINES = 10_000
MACHINES_SECONDS = 1.0
#: Hosts in all, every fifth of them a client.
SCALE = (5, 10, 20, 40)
SECOND_SHARE = 1 / 3
RUNS = ("fresh", "second")
#: How often the controller's memory is looked at.
MEMORY_SECONDS = 0.5
#: How much more the last hosts may cost than those before them: the noise of two measurements.
GROWTH = 1.2
BUSY_LOAD = 1.0
FORKS = 10
#: What the playbook fleet and the machines file take; those of the dispatcher are dispatching.py's.
PLAYBOOK_CASES = ("machines_file", "fleet", "scale")
CASES = (*PLAYBOOK_CASES, *dispatching.CASES)

Json = dict[str, t.Any]


def say(text: str) -> None:
    """Progress, which is not part of the result."""
    print(text, file=sys.stderr, flush=True)


def fleet(*words: str) -> str:
    """Runs the fleet tool; its stdout."""
    command, *rest = words
    return subprocess.run(
        [FLEET_TOOL, command, "--fleet", FLEET, *rest], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def hosts_cpu() -> float:
    """The CPU seconds that all processes of the fleet's hosts have used since these were booted."""
    used = 0
    for host in load(FLEET):
        # Linux keeps this one in each group of the unified hierarchy, whatever controllers it has.
        for line in (Group(host.id).path / "cpu.stat").read_text().splitlines():
            if line.startswith("usage_usec "):
                used += int(line.split()[1])
    return used / 1e6


def read_trace(path: Path) -> list[Json]:
    """The tasks of callback/bench_trace.py's lines, in their order, with their seconds, modules and results."""
    tasks: dict[str, Json] = {}
    current: Json = {}
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        if entry["kind"] in ("task", "end") and current:
            current["seconds"] = round(current["seconds"] + entry["time"] - current.pop("start"), 2)
            current = {}
        if entry["kind"] == "task":
            fresh: Json = {"name": entry["name"], "seconds": 0.0, "modules": [], "results": collections.Counter()}
            # A flush of handlers comes once for each host.
            current = tasks.setdefault(entry["task"], fresh)
            current["start"] = entry["time"]
        elif entry["kind"] == "module":
            tasks[entry["task"]]["modules"].append(entry["module"])
        elif entry["kind"] == "result":
            tasks[entry["task"]]["results"][entry["outcome"]] += 1
    return list(tasks.values())


class Memory(threading.Thread):
    """Watches what all processes of a session use together, in kB; what they share is counted once (Pss)."""

    def __init__(self, session: int) -> None:
        super().__init__(daemon=True)
        self.session = session
        self.most = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(MEMORY_SECONDS):
            self.most = max(self.most, sum(map(self.used, Path("/proc").glob("[0-9]*"))))

    def used(self, process: Path) -> int:
        """What the process uses, if it is one of the session and still there."""
        with contextlib.suppress(OSError, IndexError):
            # State, parent, group and session follow the name, which may hold anything.
            if int((process / "stat").read_text().rpartition(")")[2].split()[3]) == self.session:
                for line in (process / "smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        return int(line.split()[1])
        return 0


def run_playbook(name: str, *, with_tasks: bool) -> Json:
    """Runs fleet.yml on the fleet; its times and counts."""
    STATE.mkdir(parents=True, exist_ok=True)
    inventory, trace, log = STATE / "inventory.yml", STATE / f"{name}.trace", STATE / f"{name}.log"
    inventory.write_text(fleet("inventory"))
    trace.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "ANSIBLE_FORKS": str(FORKS),
        "ANSIBLE_PIPELINING": "true",
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(STATE / "cp"),
        "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "tests/bench/callback"),
        "ANSIBLE_CALLBACKS_ENABLED": "bench_trace",
        "BENCH_TRACE": str(trace),
    }
    hosts_before, controller_before = hosts_cpu(), resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    with open(log, "wb") as output:
        playbook = subprocess.Popen(
            ["ansible-playbook", "-i", str(inventory), "nixfleet.builders.fleet"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        memory = Memory(playbook.pid)
        memory.start()
        try:
            playbook.wait()
        finally:
            # A session of its own does not hear of an interrupt.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(playbook.pid, signal.SIGTERM)
            memory.over.set()
    seconds = time.monotonic() - start
    memory.join()
    if playbook.returncode:
        raise SystemExit(f"bench: the playbook failed, see {log}:\n{log.read_text(errors='replace')[-2000:]}")
    controller = resource.getrusage(resource.RUSAGE_CHILDREN)
    tasks = read_trace(trace)
    results: collections.Counter[str] = sum((task["results"] for task in tasks), collections.Counter())
    say(f"{name}: {seconds:.1f} s")
    return {
        "seconds": round(seconds, 1),
        # Each task on each host that it was not skipped on.
        "tasks": sum(results.values()) - results["skipped"],
        "changed": results["changed"],
        "module_executions": sum(len(task["modules"]) for task in tasks),
        "cpu_seconds": {
            "controller": round(
                controller.ru_utime + controller.ru_stime - controller_before.ru_utime - controller_before.ru_stime, 1
            ),
            "hosts": round(hosts_cpu() - hosts_before, 1),
        },
        # Of ansible-playbook and all that it has started, at the worst moment seen.
        "controller_memory_mb": round(memory.most / 1024),
        **({"by_task": tasks} if with_tasks else {}),
    }


def fresh_hosts(*specs: str) -> None:
    """The fleet anew, as these hosts."""
    fleet("down")
    # The keys of hosts that are gone must not be offered to those that took their addresses.
    subprocess.run(["rm", "-rf", str(STATE / "cp")], check=True)
    fleet("up", *specs)


def both_runs(name: str, specs: list[str], *, with_tasks: bool = False) -> tuple[Json, Json]:
    """A run on fresh hosts, and a second one."""
    fresh_hosts(*specs)
    first = run_playbook(f"{name}-fresh", with_tasks=with_tasks)
    return first, run_playbook(f"{name}-second", with_tasks=with_tasks)


def with_target(measured: Json, target: float) -> Json:
    """What was measured, with its target in seconds."""
    return {**measured, "target_seconds": target, "reached": measured["seconds"] <= target}


def machines_file() -> Json:
    """The seconds in which a large machines file is rendered and parsed: the best of five."""
    wanted = [
        Machine.from_dict(
            {
                "user": "nixremote",
                "host": f"builder{number}",
                "systems": ["x86_64-linux", "i686-linux"],
                "ssh_key": "/root/.ssh/nixremote",
                "max_jobs": 1 + number % 64,
                "speed_factor": 1 + number % 4 / 2,
                "supported_features": ["benchmark", "big-parallel", "kvm"],
                "mandatory_features": ["gpu"] if number % 10 == 0 else [],
                "public_host_key": "ssh-ed25519 " + host_key(number),
            }
        )
        for number in range(MACHINES)
    ]
    rendering, parsing = [], []
    for _round in range(5):
        start = time.perf_counter()
        text = machines.render_file(wanted, (2, 26))
        rendered = time.perf_counter()
        found = machines.parse(text, nix_version=(2, 26))
        parsing.append(time.perf_counter() - rendered)
        rendering.append(rendered - start)
        if found != wanted:
            raise SystemExit("bench: the machines that were parsed are not those that were rendered")
    render, parse = min(rendering), min(parsing)
    return with_target(
        {
            "machines": MACHINES,
            "seconds": round(render + parse, 3),
            "render_seconds": round(render, 3),
            "parse_seconds": round(parse, 3),
        },
        MACHINES_SECONDS,
    )


def host_key(number: int) -> str:
    """The base64 text of some ed25519 public key."""
    parts = (b"ssh-ed25519", number.to_bytes(32, "big"))
    return base64.b64encode(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).decode()


def extra_hosts(series: t.Mapping[int, Json]) -> Json:
    """What one host more costs, from each length of the series to the next.

    The first step is cheap, as one host alone leaves cores idle; the last two tell whether the cost grows.
    """

    def cost(which: str, name: str, pick: t.Callable[[Json], float]) -> list[Json]:
        return [
            {
                "from": few,
                "to": many,
                name: round((pick(series[many][which]) - pick(series[few][which])) / (many - few), 2),
            }
            for few, many in itertools.pairwise(series)
        ]

    result: Json = {"hosts": {str(count): runs for count, runs in series.items()}}
    for which in RUNS:
        steps = cost(which, "seconds_per_host", lambda run: run["seconds"])
        result[which] = {
            "wall": steps,
            "cpu": cost(which, "seconds_per_host", lambda run: sum(run["cpu_seconds"].values())),
            "memory": cost(which, "mb_per_host", lambda run: run["controller_memory_mb"]),
            # The same number for each further host: what builders publish reaches clients in no more tasks.
            "modules": cost(which, "executions_per_host", lambda run: run["module_executions"]),
            "target_growth": GROWTH,
            "reached": steps[-1]["seconds_per_host"] <= GROWTH * steps[-2]["seconds_per_host"],
        }
    return result


def scale() -> Json:
    """From bare hosts to a fleet, and once more, for fleets of several sizes."""
    series: dict[int, Json] = {}
    for count in SCALE:
        clients = count // 5
        names = [f"client{number}" for number in range(1, clients + 1)]
        names += [f"builder{number}" for number in range(1, count - clients + 1)]
        runs = both_runs(f"hosts-{count}", [f"{name}:trixie:bare" for name in names])
        series[count] = {**dict(zip(RUNS, runs)), "clients": clients, "builders": count - clients}
        share = runs[1]["seconds"] / runs[0]["seconds"]
        series[count]["second_of_fresh"] = {
            "share": round(share, 2),
            "target_share": round(SECOND_SHARE, 2),
            "reached": share <= SECOND_SHARE,
        }
    return extra_hosts(series)


def dispatch_cases(names: list[str], *, quick: bool, keep: bool) -> Json:
    """Those cases of dispatching.py, on hosts of their own."""
    if names != ["simulation"]:
        if keep:
            fleet("up", *dispatching.HOSTS)
        else:
            fresh_hosts(*dispatching.HOSTS)
    return dispatching.measure(dispatching.Lab(fleet, STATE, ROOT, quick), names)


def facts() -> Json:
    """What the figures depend on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    version = subprocess.run(["ansible", "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": model,
        "memory_mb": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20,
        "load_before": round(os.getloadavg()[0], 2),
        "ansible_core": version.split("]")[0].split()[-1],
        "python": platform.python_version(),
        "commit": subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], check=False, stdout=subprocess.PIPE, text=True
        ).stdout.strip(),
        "forks": FORKS,
        "pipelining": True,
    }


def missed(measured: t.Any) -> bool:
    """Whether any target in the result is not reached."""
    if isinstance(measured, dict):
        return measured.get("reached") is False or any(map(missed, measured.values()))
    return isinstance(measured, list) and any(map(missed, measured))


def main() -> int:
    """Measures what the options ask for; the exit status."""
    parser = argparse.ArgumentParser(prog="tests/bench/run", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="CASE", help=f"some cases: {', '.join(CASES)}")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="without the series of 5 to 40 hosts, the rest with smaller counts",
    )
    parser.add_argument(
        "--keep", action="store_true", help="for the dispatcher's cases: take hosts that run, leave them"
    )
    parser.add_argument("--strict", action="store_true", help="fail when a target is missed")
    parser.add_argument("--tasks", action="store_true", help="with the seconds and modules of each task")
    options = parser.parse_args()
    cases = options.only or [case for case in CASES if case not in ("scale") or not options.quick]
    signal.signal(signal.SIGTERM, lambda *_args: sys.exit(143))

    result: Json = {"environment": facts(), "warnings": []}
    load_before = result["environment"]["load_before"]
    if load_before > BUSY_LOAD:
        result["warnings"].append(
            f"the machine was busy: load average {load_before} before the start, so wall seconds are too high"
        )
    if "machines_file" in cases:
        result["machines_file"] = machines_file()
    try:
        builders = ["builder1:bookworm", "builder2:trixie", "builder3:forky"]
        if "fleet" in cases:
            first, second = both_runs("fleet", ["client1:trixie", *builders], with_tasks=options.tasks)
            result["fresh_run"] = with_target(first, FRESH_SECONDS)
            result["second_run"] = with_target(second, SECOND_SECONDS)
        if "scale" in cases:
            result["scale"] = scale()
        chosen = [case for case in dispatching.CASES if case in cases]
        if chosen:
            result["dispatch"] = dispatch_cases(chosen, quick=options.quick, keep=options.keep)
    finally:
        if not options.keep:
            fleet("down")
    result["reached"] = not missed(result)
    text = json.dumps(result, indent=2)
    (BUILD / "bench.json").write_text(f"{text}\n")
    print(text)
    return 1 if options.strict and not result["reached"] else 0


if __name__ == "__main__":
    sys.exit(main())
