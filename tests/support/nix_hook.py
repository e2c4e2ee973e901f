# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a real Nix reads out of a machines file: its own build hook is asked, with an ssh that only takes notes.

Two questions are put to the hook (its protocol: src/build-remote/build-remote.cc). A derivation with a feature that
nobody has makes it print its table of machines. Then one derivation for each set of mandatory features in that table
makes it connect to every machine with a free slot; the stand-in for ssh writes down how it was called and fails, so the
hook goes on to the next.

Needs nothing but Python 3.9 and Nix, so that it can be sent to any host:
    python3 nix_hook.py < machines     prints the answer as JSON
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import typing as t

SYSTEM = "x86_64-linux"
NOBODY = "nixfleet-nobody-has-this"
DRV = "/nix/store/00000000000000000000000000000000-probe.drv"

#: Keeps its arguments and the pinned host key, a directory for each call; a question for a master is no call.
FAKE_SSH = """#!/bin/sh
set -eu
[ "$1" != -O ] || exit 255
n=$(ls "$NIX_HOOK_NOTES" | wc -l)
note=$NIX_HOOK_NOTES/$(printf %06d "$n")
mkdir "$note"
for word in "$@"; do
    printf '%s\\n' "$word" >> "$note/argv"
    case $word in -oUserKnownHostsFile=*) cp "${word#*=}" "$note/known_hosts" ;; esac
done
exit 255
"""


class Machine(t.TypedDict):
    """One row of the hook's table, sets as sorted lists."""

    systems: list[str]
    max_jobs: int
    supported_features: list[str]
    mandatory_features: list[str]


class Connection(t.TypedDict):
    """One attempt to reach a machine: the URI in the hook's message, ssh's arguments, the line it pinned."""

    uri: str
    argv: list[str]
    known_hosts: str | None


class Answer(t.TypedDict):
    """`error` is what the hook said when it refused the file; then the lists are empty."""

    version: list[int]
    machines: list[Machine]
    connections: list[Connection]
    error: str | None


def nix_version() -> tuple[int, ...] | None:
    """The version of the Nix on PATH, None without one."""
    try:
        shown = subprocess.run(["nix", "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.search(r"(\d+(?:\.\d+)+)", shown.split(")", 1)[-1])
    return tuple(int(part) for part in found.group(1).split(".")) if found else None


def hook_argv(version: tuple[int, ...]) -> list[str] | None:
    """How Nix of this version starts its hook, without the verbosity; None if this host has no such program."""
    if version >= (2, 10):
        nix = shutil.which("nix")
        return [nix, "__build-remote"] if nix else None
    for libexec in ("/usr/libexec/nix", "/usr/lib/nix", "/run/current-system/sw/libexec/nix"):
        program = os.path.join(libexec, "build-remote")
        if os.path.exists(program):
            return [program]
    return None


def _number(value: int) -> bytes:
    return struct.pack("<Q", value)


def _string(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogateescape")
    return _number(len(raw)) + raw + b"\0" * (-len(raw) % 8)


def _settings(settings: dict[str, str]) -> bytes:
    return b"".join(_number(1) + _string(name) + _string(value) for name, value in settings.items()) + _number(0)


def _try(system: str, features: t.Sequence[str]) -> bytes:
    """One request; the build is not possible locally."""
    return b"".join(
        [_string("try"), _number(0), _string(system), _string(DRV), _number(len(features)), *map(_string, features)]
    )


def _run(argv: list[str], machines: str, notes: str, work: str, requests: list[bytes]) -> tuple[int, list[str]]:
    """(exit status, messages with their colours) of one hook process."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("NIX_")},
        "PATH": os.path.join(work, "bin") + os.pathsep + os.environ["PATH"],
        "HOME": work,
        "NIX_STATE_DIR": os.path.join(work, "state"),
        "NIX_CONF_DIR": os.path.join(work, "conf"),
        "NIX_HOOK_NOTES": notes,
    }
    settings = {"system": SYSTEM, "builders": "@" + machines, "store": "dummy://", "max-jobs": "0"}
    done = subprocess.run(
        # The hook of ssh:// hands descriptor 4 on to ssh as its log, and reads ssh's words from 5.
        ["sh", "-c", 'exec "$@" 4>/dev/null 5</dev/null', "sh", *argv, "3"],
        check=False,
        input=_settings(settings) + b"".join(requests),
        capture_output=True,
        env=environment,
        cwd="/",
        timeout=120,
    )
    messages = []
    for line in done.stderr.decode("utf-8", "surrogateescape").splitlines():
        if line.startswith("@nix "):
            event = json.loads(line[5:])
            if event.get("action") == "msg":
                messages.append(event.get("raw_msg") or event["msg"])
        elif not line.startswith("# "):
            messages.append(line)
    return done.returncode, messages


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def _table(messages: list[str]) -> list[Machine]:
    """The machines in the hook's message; each value of a row is wrapped in one colour."""
    rows: list[Machine] = []
    for message in messages:
        head, found, body = message.partition("available machines:")
        if not found:
            continue
        for line in body.splitlines():
            values = [_plain(value) for value in re.findall(r"\x1b\[35;1m(.*?)\x1b\[0m", line)]
            if len(values) != 4:
                continue
            sets = [sorted(filter(None, re.split(r"[\s,]+", value.strip("[]")))) for value in values]
            rows.append(
                Machine(
                    systems=sets[0], max_jobs=int(values[1]), supported_features=sets[2], mandatory_features=sets[3]
                )
            )
        return rows
    return rows


def _notes(directory: str) -> list[tuple[list[str], str | None]]:
    found = []
    for name in sorted(os.listdir(directory)):
        with open(os.path.join(directory, name, "argv"), encoding="utf-8", errors="surrogateescape") as file:
            argv = file.read().splitlines()
        known_hosts = None
        pinned = os.path.join(directory, name, "known_hosts")
        if os.path.exists(pinned):
            with open(pinned, encoding="utf-8", errors="surrogateescape", newline="") as file:
                known_hosts = file.read()
        found.append((argv, known_hosts))
    return found


def ask(text: str, version: tuple[int, ...], argv: list[str], files: dict[str, str] | None = None) -> Answer:
    """What the hook makes of a machines file with this text.

    files: texts by name of files beside it, which the texts include as @DIR/NAME.
    """
    with tempfile.TemporaryDirectory(prefix="nix-hook-") as work:
        for name in ("bin", "state", "conf", "notes"):
            os.mkdir(os.path.join(work, name))
        ssh = os.path.join(work, "bin", "ssh")
        with open(ssh, "w", encoding="utf-8") as file:
            file.write(FAKE_SSH)
        os.chmod(ssh, 0o755)
        for name, content in {"machines": text, **(files or {})}.items():
            with open(os.path.join(work, name), "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                file.write(content.replace("@DIR/", f"@{work}/"))
        machines = os.path.join(work, "machines")
        notes = os.path.join(work, "notes")

        status, messages = _run(argv, machines, notes, work, [_try(SYSTEM, [NOBODY])])
        answer = Answer(version=list(version), machines=[], connections=[], error=None)
        if status:
            answer["error"] = "\n".join(map(_plain, messages))
            return answer
        answer["machines"] = _table(messages)

        # The hook opens a lock file for every slot before it connects: with billions of them it never does.
        if any(machine["max_jobs"] > 10_000 for machine in answer["machines"]):
            return answer

        mandatory = sorted({tuple(machine["mandatory_features"]) for machine in answer["machines"]})
        _reply, messages = _run(argv, machines, notes, work, [_try("builtin", features) for features in mandatory])
        uris = re.findall(r"cannot build on '(.*?)': ", _plain("\n".join(messages)))
        calls = _notes(notes)
        for uri, (words, known_hosts) in zip(uris, calls):
            answer["connections"].append(Connection(uri=uri, argv=words, known_hosts=known_hosts))
        if len(uris) != len(calls):
            answer["error"] = f"{len(uris)} machines were tried, ssh was called {len(calls)} times: {calls} {messages}"
        return answer


def main() -> None:
    """Reads a machines file, or with --many a JSON list of [text, files]; prints what Nix makes of each."""
    version = nix_version()
    argv = hook_argv(version) if version else None
    if version is None or argv is None:
        sys.exit("no Nix with a build hook on this host")
    given = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    if sys.argv[1:] == ["--many"]:
        print(json.dumps([ask(text, version, argv, files) for text, files in json.loads(given)]))
    else:
        print(json.dumps(ask(given, version, argv), indent=1))


if __name__ == "__main__":
    main()
