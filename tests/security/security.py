# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The security figures, each with what is to be reached; a table on stdout, files in .build/security/.

logins   all checks of login_probe on three Debian releases, with PAM and without, after a hostile home
audit    ssh-audit of sshd before the role and after: no finding that is new
fuzz     inputs to each parser and to the gate: no crash, no hang, nothing that Nix reads differently
keys     what a builder and a client do while their private keys are made, by strace: 0600 from creation, in no
         argument, no log at -vvvv --diff, no result, and in no second file afterwards
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import time
import typing as t
from pathlib import Path

ROOT = Path(os.environ["ROOT"])
BUILD = Path(os.environ["BUILD"])
sys.path[:0] = [str(ROOT / "tests/fleet")]

import traces  # noqa: E402
import yaml  # noqa: E402
from fleetlib.hosts import load  # noqa: E402
from fleetlib.machine import Group  # noqa: E402

FLEET = os.environ.get("NIXFLEET_FLEET", "security")
FLEET_TOOL = str(ROOT / "tests/fleet/fleet")
HERE = ROOT / "tests/security"
SCENARIO = ROOT / "extensions/molecule/probed"
STATE = BUILD / "security"
INVENTORY = STATE / "inventory.yml"
BUILDERS = {"builder1": "bookworm", "builder2": "trixie", "builder3": "forky"}
CLIENTS = {"client1": "bookworm", "client2": "forky"}
PARTS = ("fuzz", "audit", "keys", "logins")

#: What is traced: where the key is, and which part of its base64 is nothing but secret.
TRACED = {"builder2": "/etc/nix/nixfleet-signing-key", "client1": "/root/.ssh/nixremote"}


class Figure(t.NamedTuple):
    """One line of the table."""

    name: str
    value: str
    target: str
    reached: bool


def say(text: str) -> None:
    """Progress, which is not part of the result."""
    print(text, file=sys.stderr, flush=True)


def fleet(*words: str) -> str:
    """Runs the fleet's tool. Raises CalledProcessError."""
    command, *rest = words
    argv = [FLEET_TOOL, command, "--fleet", FLEET, *rest]
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


def play(name: str, *arguments: str, **env: str) -> None:
    """Runs a playbook on the fleet; its output goes to a file. Raises SystemExit where it fails."""
    log = STATE / f"{Path(name).name.replace('.yml', '')}.log"
    say(f"playing {name}, see {log.relative_to(ROOT)}")
    argv = ["ansible-playbook", "-i", str(INVENTORY), name, *arguments]
    settings = {"ANSIBLE_PIPELINING": "1", "ANSIBLE_INJECT_FACT_VARS": "false", "ANSIBLE_FORKS": "10", **env}
    with log.open("w") as stream:
        done = subprocess.run(
            argv, stdout=stream, stderr=subprocess.STDOUT, env={**os.environ, **settings}, check=False
        )
    if done.returncode:
        sys.exit(f"{name} failed:\n" + log.read_text()[-3000:])


def up() -> None:
    hosts = [f"{name}:{release}:nix" for name, release in {**BUILDERS, **CLIENTS}.items()]
    fleet("down")
    fleet("up", *hosts)
    INVENTORY.write_text(fleet("inventory"))


# ------------------------------------------------------------------------------------------------------- ssh-audit


def penalties(wanted: bool) -> None:
    """ssh-audit opens so many connections that sshd would refuse the later ones; that is not what it is asked for."""
    for name, release in BUILDERS.items():
        if release != "bookworm":
            path = "/etc/ssh/sshd_config.d/00-audit.conf"
            change = f"rm -f {path}" if wanted else f"echo PerSourcePenalties no >{path}"
            fleet("exec", name, "--", "sh", "-c", f"{change}; systemctl restart ssh")


def audit(when: str) -> dict[str, set[str]]:
    """The warnings and failures of each builder's sshd, as ssh-audit words them."""
    program = BUILD / "venv-security/bin/ssh-audit"
    running = {}
    for name in BUILDERS:
        argv = [str(program), "--json", "--skip-rate-test", "--timeout", "20", host(name).address]
        running[name] = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    found = {}
    for name, process in running.items():
        text = process.communicate(timeout=120)[0]
        (STATE / f"audit-{name}-{when}.json").write_text(text)
        report = json.loads(text)
        found[name] = {
            f"{kind} {each['algorithm']}: {level}: {note}"
            for kind in ("kex", "key", "enc", "mac")
            for each in report[kind]
            for level in ("fail", "warn")
            for note in each.get("notes", {}).get(level, [])
        }
        if not report["kex"] or not report["key"]:
            sys.exit(f"ssh-audit has not seen all of {name}: {text[:500]}")
    return found


def host(name: str) -> t.Any:
    """A host of the fleet."""
    return next(each for each in load(FLEET) if each.name == name)


def audited(before: dict[str, set[str]], after: dict[str, set[str]]) -> list[Figure]:
    figures = []
    for name, release in BUILDERS.items():
        new = sorted(after[name] - before[name])
        value = f"{len(new)} new of {len(after[name])}" + (f": {'; '.join(new)}" if new else "")
        figures.append(Figure(f"ssh-audit, {release}", value, "0 new findings", not new))
    return figures


# ------------------------------------------------------------------------------------------------------- private keys


def secret_part(text: str) -> str:
    """A piece of a private key's text that is in no public key."""
    if "BEGIN OPENSSH" in text:
        # 161 bytes before the seed (PROTOCOL.key of OpenSSH), 210 characters of base64 in three lines.
        line = text.splitlines()[4]
        return line[6:46]
    # Nix: NAME:BASE64, the seed and then the public key.
    return text.split(":", 1)[1][:40]


def check_marks() -> None:
    """The pieces are what they are said to be."""
    with_seed = base64.b64encode(bytes(range(64))).decode()
    if secret_part(f"n:{with_seed}") != with_seed[:40]:
        raise RuntimeError("the secret part of a signing key is not where it should be")


def keys() -> tuple[list[Figure], dict[str, str]]:
    """Provisions the fleet under strace. The figures, and the secrets' parts by host."""
    running = {}
    for name in TRACED:
        pids = [pid for pid in Group(host(name).id).pids() if Path(f"/proc/{pid}/comm").read_text().strip() == "sshd"]
        running[name] = traces.Trace(STATE / f"trace-{name}", pids)
    try:
        play(
            "nixfleet.builders.fleet",
            "-vvvv",
            "--diff",
            # New connections, so that strace sees their processes begin.
            ANSIBLE_SSH_CONTROL_PATH_DIR=str(STATE / "cp-keys"),
            # The same once more, as a user would keep it.
            ANSIBLE_LOG_PATH=str(STATE / "vvvv.log"),
        )
    finally:
        for trace in running.values():
            trace.stop()
    secrets = {name: secret_part(fleet("exec", name, "--", "cat", path)) for name, path in TRACED.items()}
    figures = []
    for name, path in TRACED.items():
        seen = traces.read(STATE / f"trace-{name}", {path: secrets[name]})
        mode = fleet("exec", name, "--", "stat", "-c", "%a %U", path).strip()
        copies = fleet(
            "exec", name, "--", "sh", "-c",
            f"grep -rlsF -e '{secrets[name]}' --exclude-dir=proc --exclude-dir=sys --exclude-dir=dev / || true",
        ).split()  # fmt: skip
        faults = [*seen.faults, *(f"a copy in {copy}" for copy in copies if copy != path)]
        if mode != "600 root":
            faults.append(f"{path} is {mode}")
        if not seen.written:
            faults.append("strace has not seen it written, so it proves nothing")
        places = ", ".join(
            f"{place.rsplit('/', 1)[-1]} {shown.rsplit(' ', 1)[-1]}" for place, shown in seen.written.items()
        )
        value = f"written to {places}; in none of {seen.commands} command lines; copies: {len(copies) - 1}"
        figures.append(Figure(path, "; ".join(faults) or value, "0600 from creation, no copy", not faults))
    texts = [STATE / "nixfleet.builders.fleet.log", STATE / "vvvv.log"]
    found = [f"{name} in {file.name}" for file in texts for name, part in secrets.items() if part in file.read_text()]
    size = sum(file.stat().st_size for file in texts) >> 10
    figures.append(
        Figure(
            "log, results and diffs", ", ".join(found) or f"no key in {size} KiB", "no key at -vvvv --diff", not found
        )
    )
    return figures, secrets


def control(secrets: dict[str, str]) -> Figure:
    """The same look at processes that do all of it wrong."""
    name, path = next(iter(TRACED.items()))
    pids = [pid for pid in Group(host(name).id).pids() if Path(f"/proc/{pid}/comm").read_text().strip() == "sshd"]
    trace = traces.Trace(STATE / "trace-control", pids)
    try:
        play_command(name, f'cat {path} >/tmp/copy; /bin/echo "$(cat {path})"; rm /tmp/copy')
    finally:
        trace.stop()
    faults = traces.read(STATE / "trace-control", {path: secrets[name]}).faults
    kinds = [
        any("is an argument" in fault for fault in faults),
        any("/tmp/copy" in fault for fault in faults),
        any("pipe" in fault or "socket" in fault for fault in faults),
    ]
    value = f"{sum(kinds)} of 3 found: an argument, a file 0644, its output"
    return Figure("the same of a leaking command", value, "all found", all(kinds))


def play_command(name: str, command: str) -> None:
    """Runs a command by ssh, which strace follows."""
    variables = yaml.safe_load(INVENTORY.read_text())["all"]["vars"]
    argv = ["ssh", "-i", variables["ansible_ssh_private_key_file"], *variables["ansible_ssh_common_args"].split()]
    subprocess.run([*argv, f"root@{host(name).address}", command], check=True, stdout=subprocess.DEVNULL)


# ------------------------------------------------------------------------------------------------------- logins, fuzz


def logins() -> list[Figure]:
    play(str(HERE / "probe.yml"), "-e", f"results={STATE}")
    figures = []
    for name, release in BUILDERS.items():
        for pam in ("yes", "no"):
            found = json.loads((STATE / f"probe-{name}-{pam}.json").read_text())
            passed = sum(check["verdict"] == "passed" for check in found["checks"])
            bad = [f"{check['name']}: {check['evidence']}" for check in found["checks"] if check["verdict"] != "passed"]
            value = f"{passed} of {len(found['checks'])}" + (f"; {'; '.join(bad)}" if bad else "")
            figures.append(Figure(f"logins, {release}, UsePAM {pam}", value, "all checks", found["passed"]))
    return figures


def fuzz(count: int) -> list[Figure]:
    say("fuzzing")
    done = subprocess.run(
        [
            *(sys.executable, "-B", str(HERE / "fuzz.py"), "--count", str(count)),
            *("--hosts", *(f"{FLEET}/{name}" for name in BUILDERS)),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    (STATE / "fuzz.json").write_text(done.stdout)
    figures = []
    for name, found in json.loads(done.stdout).items():
        if name == "seed":
            continue
        bad = [*found["crashes"], *found["hangs"], *found["different"]]
        total = found["accepted"] + found["refused"] + len(found["crashes"]) + len(found["hangs"])
        by = f" by {len(found['hosts'])} versions of Nix" if len(found.get("hosts", [])) > 1 else ""
        value = f"{total} inputs, {found['accepted']} taken, {found['compared']} compared{by}, {len(bad)} bad"
        figures.append(
            Figure(f"fuzz, {name}", value + (f": {bad[0][:200]}" if bad else ""), "0 bad", not bad and total >= count)
        )
    return figures


def provisioned(parts: t.Collection[str]) -> list[Figure]:
    """The figures of hosts before, while and after they are set up."""
    figures: list[Figure] = []
    before: dict[str, set[str]] = {}
    if "audit" in parts:
        penalties(False)
        before = audit("before")
        penalties(True)
    play(str(SCENARIO / "prepare.yml"))
    if "keys" in parts:
        found, secrets = keys()
        figures += [*found, control(secrets)]
    else:
        play("nixfleet.builders.fleet")
    if "logins" in parts:
        figures += logins()
    if "audit" in parts:
        penalties(False)
        figures += audited(before, audit("after"))
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--count", type=int, default=100_000, help="inputs for each format")
    parser.add_argument("--keep", action="store_true", help="leave the hosts up")
    options = parser.parse_args()
    start = time.monotonic()
    check_marks()
    shutil.rmtree(STATE, ignore_errors=True)
    STATE.mkdir(parents=True)
    figures: list[Figure] = []
    try:
        up()
        if "fuzz" in options.only:
            figures += fuzz(options.count)
        if set(options.only) - {"fuzz"}:
            figures += provisioned(options.only)
    finally:
        if not options.keep:
            fleet("down")
    width = max(len(figure.name) for figure in figures)
    for figure in figures:
        state = "ok    " if figure.reached else "FAILED"
        print(f"{state}  {figure.name:{width}}  {figure.value}  (to reach: {figure.target})")
    reached = sum(figure.reached for figure in figures)
    print(f"{reached} of {len(figures)} reached, {time.monotonic() - start:.0f} s")
    (STATE / "figures.json").write_text(json.dumps([figure._asdict() for figure in figures], indent=2) + "\n")
    return reached != len(figures)


if __name__ == "__main__":
    sys.exit(main())
