# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The speed of dispatch and store_copy: each case beside plain Nix on the same hosts, in the same run.

Of a module, "seconds" is what it says itself, without the start of Python, Ansible's part on the host, evaluation and
the reading of Nix's settings; "wall_seconds" is all of its process on the client, "cpu_seconds" what that used itself.
Targets are for "seconds"; the ratio by wall seconds stands beside them. What plain Nix is slow at it does fewer times:
"measured" of "count", scaled.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

import simulation

Json = dict[str, t.Any]

CLIENT, BUILDERS = "client1", ("builder1", "builder2", "builder3")
HOSTS = ("client1:trixie", "builder1:bookworm", "builder2:trixie", "builder3:forky")
#: The builder that has the feature "special"; its Nix is the client's version.
SPECIAL = "builder2"
SLOTS = 4
VARIABLES = {
    "nix_builders": {
        "vars": {"nix_builder_max_jobs": SLOTS},
        "hosts": {SPECIAL: {"nix_builder_supported_features": ["special"]}},
    },
    "nix_clients": {"vars": {"nix_client_max_jobs": 0}},
}
ROUND_TRIP = 0.05
NIX = "nix --extra-experimental-features nix-command"
#: A stock command that takes longer is as good as stuck.
STOCK_TIMEOUT = 600


def say(text: str) -> None:
    """Progress, which is not part of the result."""
    print(text, file=sys.stderr, flush=True)


def uri(builder: str) -> str:
    """The builder, as Nix and the modules name it."""
    return f"ssh-ng://nixremote@{builder}"


@dataclass
class Lab:
    """The hosts, and how a case uses them."""

    fleet: t.Callable[..., str]
    state: Path
    root: Path
    quick: bool

    @property
    def _inventories(self) -> list[str]:
        return ["-i", str(self.state / "inventory.yml"), "-i", str(self.state / "variables.yml")]

    @property
    def _environment(self) -> dict[str, str]:
        control = str(self.state / "cp")
        return {**os.environ, "ANSIBLE_PIPELINING": "true", "ANSIBLE_SSH_CONTROL_PATH_DIR": control}

    def prepare(self) -> None:
        """Sets the hosts up as the collection does, with what the cases need."""
        self.state.mkdir(parents=True, exist_ok=True)
        (self.state / "inventory.yml").write_text(self.fleet("inventory"))
        (self.state / "variables.yml").write_text(json.dumps(VARIABLES))
        playbooks = [str(self.root / "tests/bench/prepare.yml"), "nixfleet.builders.fleet"]
        log = self.state / "prepare.log"
        with open(log, "wb") as output:
            done = subprocess.run(
                ["ansible-playbook", *self._inventories, *playbooks],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode:
            raise SystemExit(f"bench: the playbooks failed, see {log}:\n{log.read_text(errors='replace')[-2000:]}")
        say("dispatching: the hosts are ready")
        # Every builder gets the tools, whoever builds.
        self.dispatch(self.instantiate("warm", 4 * len(BUILDERS) * SLOTS))

    def execute(self, script: str, host: str = CLIENT, timeout: float | None = None) -> tuple[str, float]:
        """Runs a bash script on a host as root; its stdout and seconds there. Ends the benchmark where it fails."""
        timed = f"""
            begin=$EPOCHREALTIME
            timeout {timeout or 0:g} bash -euo pipefail -c {shlex.quote(script)} </dev/null || exit
            end=$EPOCHREALTIME
            echo; echo $((${{end/./}} - ${{begin/./}}))
        """
        # `env` as a login would have it: the tool passes the machine's own.
        argv = ["exec", host, "--", "env", "HOME=/root", "USER=root", "bash", "-c", timed]
        try:
            output = self.fleet(*argv).rstrip()
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"bench: on {host}, exit status {error.returncode}: {script[:500]}") from error
        text, _newline, microseconds = output.rpartition("\n")
        return text.strip(), int(microseconds) / 1e6

    def stock(self, script: str, count: int, measured: int | None = None) -> Json:
        """Plain Nix's seconds for count things, of which it did but some."""
        _output, seconds = self.execute(script, timeout=STOCK_TIMEOUT)
        measured = measured or count
        return {
            "seconds": round(seconds * count / measured, 3),
            "count": count,
            "measured": measured,
            "measured_seconds": round(seconds, 3),
        }

    def module(self, name: str, **args: t.Any) -> Json:
        """Runs a module on the client; its result, with start, wall_seconds, cpu_seconds, memory_mb of its process."""
        tree = self.state / "tree"
        tree.mkdir(exist_ok=True)
        (tree / CLIENT).unlink(missing_ok=True)
        subprocess.run(
            [
                *("ansible", CLIENT, *self._inventories, "--tree", str(tree)),
                *("-e", "ansible_python_interpreter=/opt/bench/python"),
                *("-m", f"nixfleet.builders.{name}", "-a", json.dumps(args)),
            ],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        result: Json = json.loads((tree / CLIENT).read_text())
        usage = json.loads(self.execute("cat /opt/bench/usage.json")[0])
        return {**result, **usage}

    def instantiate(self, attribute: str, count: int = 1, special: int = 0) -> list[str]:
        """New derivations of graph.nix on the client."""
        script = graph("nix-instantiate", attribute, count, special)
        return self.execute(f"{script} 2>/dev/null")[0].split()

    def dispatch(self, derivations: list[str], **args: t.Any) -> Json:
        """All of them built by the module, and nothing found built already."""
        # A file for its news: nobody is to follow it meanwhile.
        result = self.module("dispatch", derivations=derivations, progress="/opt/bench/progress", **args)
        built = [each for each in result.get("derivations", []) if each["status"] == "built" and not each["found"]]
        if len(built) < len(derivations) or len(built) != len(result["derivations"]):
            raise SystemExit(f"bench: dispatch built {len(built)} of {len(derivations)}: {result.get('msg')}")
        return result

    def copy(self, path: str, origin: str, target: str) -> Json:
        """A closure copied by the module."""
        given = {"from": origin, "to": target, "paths": [path], "check_signatures": False}
        result = self.module("store_copy", **given)
        if result.get("failed") or not result["copied"]:
            raise SystemExit(f"bench: store_copy from {origin} to {target}: {result.get('msg', 'nothing was copied')}")
        return result

    def stock_build(self, attribute: str, count: int, measured: int | None = None, special: int = 0) -> Json:
        """Nix's own hook builds new derivations."""
        drvs = self.instantiate(attribute, measured or count, special)
        return self.stock(f"nix-build -j0 --no-out-link {' '.join(drvs)} >/dev/null 2>&1", count, measured)

    def one_builder(self, count: int) -> Json:
        """Nix builds new derivations on one builder, all by one connection."""
        drvs = " ".join(f"'{drv}^*'" for drv in self.instantiate("trivial", count))
        command = f"{NIX} build --store {uri(SPECIAL)} --eval-store auto --max-jobs {SLOTS} --no-link {drvs}"
        return self.stock(f"{command} >/dev/null 2>&1", count)

    @contextlib.contextmanager
    def far_away(self) -> t.Iterator[None]:
        """With a round trip to each builder that takes ROUND_TRIP seconds more, for Nix and the modules alike."""
        proxy = f"ProxyCommand /usr/bin/python3 /opt/bench/delay.py {ROUND_TRIP / 2} %h %p"
        lines = f"Host {' '.join(BUILDERS)}\n  {proxy}\n"
        config = "/root/.ssh/config"
        self.execute(f"cp -p {config} {config}.bench; printf %s {shlex.quote(lines)} | cat - {config}.bench >{config}")
        try:
            yield
        finally:
            self.execute(f"mv {config}.bench {config}")


def graph(command: str, attribute: str, count: int, special: int = 0) -> str:
    """A Nix command on graph.nix, with derivations that nobody has seen before."""
    run = time.time_ns()
    return (
        f"{command} /opt/bench/graph.nix -A {attribute} --argstr run {run} --arg count {count} --arg special {special}"
    )


def own(result: Json) -> Json:
    """What counts of a module's result."""
    return {
        "seconds": result["seconds"],
        "wall_seconds": round(result["wall_seconds"], 3),
        "cpu_seconds": round(result["cpu_seconds"], 3),
        "memory_mb": round(result["memory_mb"]),
    }


def against(measured: Json, stock: Json, target: float) -> Json:
    """How many times faster than plain Nix, with what it is to be."""
    ratio = stock["seconds"] / measured["seconds"]
    return {
        "stock": stock,
        "ratio": round(ratio, 2),
        "wall_ratio": round(stock["seconds"] / measured["wall_seconds"], 2),
        "target_ratio": target,
        "reached": ratio >= target,
    }


# ------------------------------------------------------------------------------------------------------------- cases


def trivial(lab: Lab, target: float = 25.0) -> Json:
    """200 derivations that do nothing, beside Nix's hook, and beside one builder that Nix gives all of them."""
    count = 200
    ours = own(lab.dispatch(lab.instantiate("trivial", count)))
    return {
        "count": count,
        "dispatch": ours,
        "hook": against(ours, lab.stock_build("trivial", count, 8 if lab.quick else 20), target),
        "one_builder": against(ours, lab.one_builder(count), 1.0),
    }


def far(lab: Lab) -> Json:
    """The same with a long way to every builder."""
    with lab.far_away():
        return {"round_trip_seconds": ROUND_TRIP, **trivial(lab, 50.0)}


def copies(lab: Lab) -> Json:
    """A closure of 1,000 small paths, from a builder to the client, and to another builder."""
    count, few = 1000, 20 if lab.quick else 50
    origin = BUILDERS[0]

    def closure(count: int) -> str:
        command = graph("nix-instantiate --eval --read-write-mode", "paths", count)
        # The attribute is a string with a path's name.
        return lab.execute(f"{command} 2>/dev/null", origin)[0].strip('"')

    result: Json = {"paths": count}
    for name, target in (("to_client", "auto"), ("to_builder", uri(SPECIAL))):
        copied = lab.copy(closure(count), uri(origin), target)
        if copied["copied"] != count:
            raise SystemExit(f"bench: {copied['copied']} of {count} paths were copied")
        ways = f"--from {uri(origin)}" + (f" --to {target}" if target != "auto" else "")
        command = f"{NIX} copy --no-check-sigs {ways}"
        stock = lab.stock(f"{command} {closure(few)} 2>/dev/null", count, few)
        if stock["seconds"] < 60:
            stock = lab.stock(f"{command} {closure(count)} 2>/dev/null", count)
        result[name] = {"store_copy": own(copied), **against(own(copied), stock, 20.0)}
    return result


def bounded(lab: Lab, special: int) -> Json:
    """Four layers of twelve jobs of a second, so many of each for one builder only, beside what is possible."""
    # Layers follow each other, and so do as many jobs of one as there are too many for the slots.
    bound = 4 * max(-(-12 // (SLOTS * len(BUILDERS))), -(-special // SLOTS))
    result = lab.dispatch(lab.instantiate("layers", special=special))
    ratio = result["seconds"] / bound
    return {
        "special_of_twelve": special,
        "bound_seconds": bound,
        "dispatch": own(result),
        "stock": lab.stock_build("layers", 48, special=special) if not lab.quick else None,
        "ratio": round(ratio, 3),
        "target_ratio": 1.15,
        "reached": ratio <= 1.15,
    }


def layers(lab: Lab) -> Json:
    """Jobs that any builder takes."""
    return bounded(lab, 0)


def features(lab: Lab) -> Json:
    """As many in each layer as one builder has slots (a good choice keeps it free for them), and all of them."""
    return {"some": bounded(lab, SLOTS), "all": bounded(lab, 12)}


def silent(lab: Lab) -> Json:
    """50 derivations while a builder drops all packets, and while it does not."""
    count, allowed, lost = 50, 1.0, BUILDERS[2]
    without = own(lab.dispatch(lab.instantiate("trivial", count)))
    lab.fleet("cut", lost)
    try:
        result = lab.dispatch(lab.instantiate("trivial", count))
    finally:
        lab.fleet("reconnect", lost)
    if any(each["builder"] == lost and each["built"] for each in result["builders"]):
        raise SystemExit(f"bench: {lost} was cut off, and built nevertheless")
    while_cut = own(result)
    more = while_cut["seconds"] - without["seconds"]
    return {
        "count": count,
        "all": without,
        "one_silent": while_cut,
        "more_seconds": round(more, 3),
        "more_wall_seconds": round(while_cut["wall_seconds"] - without["wall_seconds"], 3),
        "target_more_seconds": allowed,
        "reached": more <= allowed,
    }


def large_path(lab: Lab) -> Json:
    """A path of 1 GB up to a builder and down again, beside a file that ssh moves from disk to disk."""
    megabytes = 128 if lab.quick else 1024
    # As root, whom this key opens for the time being: the builder's account runs nothing but Nix.
    blob, ssh = f"/var/tmp/bench-{time.time_ns()}", f"ssh -o BatchMode=yes -l root {SPECIAL}"
    public, _seconds = lab.execute("cat /root/.ssh/nixremote.pub")
    lab.execute(
        f"cp -p /root/.ssh/authorized_keys {blob}.keys; echo {shlex.quote(public)} >>/root/.ssh/authorized_keys",
        SPECIAL,
    )
    path, _seconds = lab.execute(f"head -c {megabytes}M /dev/urandom >{blob}; nix-store --add {blob}")
    result: Json = {"megabytes": megabytes}
    try:
        for name, stock, ways in (
            ("up", f"{ssh} 'cat >{blob}' <{blob}", ("auto", uri(SPECIAL))),
            ("down", f"{ssh} cat {blob} >{blob}.back", (uri(SPECIAL), "auto")),
        ):
            _output, plain = lab.execute(stock)
            if name == "down":
                lab.execute(f"nix-store --delete {path} 2>/dev/null")
            copied = lab.copy(path, *ways)
            ratio = plain / copied["seconds"]
            result[name] = {
                "store_copy": own(copied),
                "ssh_cat_seconds": round(plain, 3),
                "megabytes_per_second": round(megabytes / copied["seconds"]),
                "ratio": round(ratio, 2),
                "wall_ratio": round(plain / copied["wall_seconds"], 2),
                "target_ratio": 0.8,
                "reached": ratio >= 0.8,
            }
    finally:
        lab.execute(f"mv {blob}.keys /root/.ssh/authorized_keys", SPECIAL)
        for host in (CLIENT, SPECIAL):
            lab.execute(f"rm -f {blob} {blob}.back; nix-store --delete {path} >/dev/null 2>&1 || true", host)
    return result


def large_graph(lab: Lab) -> Json:
    """A graph of 10,000 derivations: until the first build starts, from the start of the module's process."""
    count, news = 10_000, "/opt/bench/progress"
    drvs = lab.instantiate("large", count)
    lab.execute(f"rm -f {news}")
    # The first build fails, which ends the run.
    result = lab.module("dispatch", derivations=drvs, progress=news)
    if len(result.get("derivations", [])) != count:
        raise SystemExit(f"bench: dispatch saw {len(result.get('derivations', []))} of {count}: {result.get('msg')}")
    events = [json.loads(line) for line in lab.execute(f"cat {news}")[0].splitlines()]
    at = {kind: min(each["time"] for each in events if each["kind"] == kind) for kind in ("plan", "building")}
    seconds, memory = at["building"] - result["start"], result["memory_mb"]
    return {
        "derivations": count,
        "planned_seconds": round(at["plan"] - result["start"], 3),
        "seconds": round(seconds, 3),
        "memory_mb": round(memory),
        "wall_seconds": round(result["wall_seconds"], 3),
        "target_seconds": 5.0,
        "target_memory_mb": 500,
        "reached": seconds <= 5.0 and memory <= 500,
    }


def simulated(lab: Lab) -> Json:
    """The scheduler in virtual time. It needs no hosts."""
    sizes = (10_000, 200) if lab.quick else ()
    result: Json = simulation.simulation(*sizes)
    result["reached"] = result.pop("ok")
    return result


CASES: dict[str, t.Callable[[Lab], Json]] = {
    "trivial": trivial,
    "far": far,
    "copies": copies,
    "layers": layers,
    "features": features,
    "silent": silent,
    "large_path": large_path,
    "large_graph": large_graph,
    "simulation": simulated,
}


def measure(lab: Lab, names: t.Collection[str]) -> Json:
    """The cases of these names, in their order, each with the machine's load before it."""
    if set(names) - {"simulation"}:
        lab.prepare()
    result: Json = {}
    for name, case in CASES.items():
        if name in names:
            load, start = round(os.getloadavg()[0], 2), time.monotonic()
            result[name] = {"load_before": load, **case(lab)}
            say(f"{name}: {time.monotonic() - start:.0f} s, load {load}: {json.dumps(result[name])}")
    return result
