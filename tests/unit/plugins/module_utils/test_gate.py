# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate, run for real by the shells that are /bin/sh somewhere. Over real ssh: the Molecule scenario locked."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import gate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SHELLS = {
    name: [shutil.which(name) or name, *words]
    for name, words in {"dash": [], "bash": ["--posix"], "busybox": ["sh"]}.items()
    if shutil.which(name)
}
PRINTABLE = re.compile(rb"[ -~]*")

#: Stands for a program of Nix: writes down how it was started, and says so.
PROGRAM = """#!/bin/sh
{ printf '%s\\n' "$0" "$@"; env; } >>"$(dirname "$0")/started"
echo started
"""
LOGGER = """#!/bin/sh
printf '%s\\0' "$@" >>"$(dirname "$0")/logged"
"""


class Outcome(t.NamedTuple):
    rc: int
    out: bytes
    err: bytes
    started: list[str]
    logged: list[bytes]


class Gate:
    """A gate whose Nix and whose logger write down what they were started with."""

    def __init__(self, directory: Path, shell: list[str], **options: t.Any) -> None:
        self.shell = shell
        self.bin = directory
        for name, text in (("nix-daemon", PROGRAM), ("nix-store", PROGRAM), ("logger", LOGGER)):
            (directory / name).write_text(text)
            (directory / name).chmod(0o755)
        text = gate.render(str(directory), **{"serve": True, **options})
        self.path = directory / "gate"
        # The one thing that is changed: the log of this machine is not for tests.
        self.path.write_text(text.replace("\nPATH=", f"\nPATH={directory}:", 1))

    def __call__(self, command: bytes | None, **more: str) -> Outcome:
        environment: dict[bytes, bytes] = {
            b"PATH": os.environ["PATH"].encode(),
            b"SSH_CONNECTION": b"192.0.2.7 50000 192.0.2.1 22",
            **{name.encode(): value.encode() for name, value in more.items()},
        }
        if command is not None:
            environment[b"SSH_ORIGINAL_COMMAND"] = command
        done = subprocess.run(
            [*self.shell, self.path], env=environment, capture_output=True, timeout=60, cwd=self.bin, check=False
        )
        started, logged = self.bin / "started", self.bin / "logged"
        outcome = Outcome(
            done.returncode,
            done.stdout,
            done.stderr,
            started.read_text().splitlines() if started.exists() else [],
            logged.read_bytes().split(b"\0")[:-1] if logged.exists() else [],
        )
        started.unlink(missing_ok=True)
        logged.unlink(missing_ok=True)
        return outcome


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> list[str]:
    return SHELLS[request.param]


@pytest.fixture
def run(tmp_path: Path, shell: list[str]) -> Gate:
    return Gate(tmp_path, shell)


def is_refused(outcome: Outcome) -> None:
    """Nothing was started; one line of bounded printable text for the client, and one for the log."""
    assert outcome.rc == 126
    assert outcome.out == b""
    assert outcome.started == []
    assert outcome.err.startswith(gate.REFUSAL.encode())
    assert outcome.err.endswith(b"\n")
    assert PRINTABLE.fullmatch(outcome.err[:-1]) and len(outcome.err) < 500
    assert outcome.logged[:2] == [b"-p", b"authpriv.notice"]
    assert len(outcome.logged) == 6
    assert outcome.logged[5].startswith(b"refused for ")
    assert b" from 192.0.2.7: '" in outcome.logged[5]
    assert PRINTABLE.fullmatch(outcome.logged[5]) and len(outcome.logged[5]) < 500


@pytest.mark.parametrize(
    ("command", "argv"),
    [(gate.DAEMON, ["nix-daemon", "--stdio"]), (gate.SERVE, ["nix-store", "--serve", "--write"])],
)
def test_what_nix_sends_is_let_through(run: Gate, command: str, argv: list[str]) -> None:
    outcome = run(command.encode(), NIX_USER_CONF_FILES="/hostile")
    assert (outcome.rc, outcome.out, outcome.err, outcome.logged) == (0, b"started\n", b"", [])
    assert outcome.started[: len(argv)] == [str(run.bin / argv[0]), *argv[1:]]
    environment = outcome.started[len(argv) :]
    # Nix's children find what sshd's PATH has, and the account's own nix.conf is not read.
    assert f"PATH={os.environ['PATH']}" in environment
    assert "NIX_USER_CONF_FILES=" in environment


def test_load_probe(run: Gate) -> None:
    outcome = run(gate.LOAD.encode())
    assert (outcome.rc, outcome.err, outcome.started, outcome.logged) == (0, b"", [], [])
    assert outcome.out.count(b"\n") == 1
    answer = gate.parse_load(outcome.out.decode())
    assert len(answer["load"]) == 3 and all(isinstance(value, float) for value in answer["load"])
    assert answer["cpus"] == len(os.sched_getaffinity(0))
    assert list(answer["pressure"]) == ["cpu", "memory", "io"]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < answer["memory"]["available"] < answer["memory"]["total"] <= memory
    if os.path.isdir("/nix/store"):
        disk = os.statvfs("/nix/store")
        assert abs(answer["store"]["total"] - disk.f_blocks * disk.f_frsize) < 1 << 20
        assert 0 <= answer["store"]["free"] <= answer["store"]["total"]


def test_load_probe_where_the_kernel_tells_nothing(run: Gate) -> None:
    text = run.path.read_text().replace("/proc/", "/nonexistent/").replace("/nix/store", "/nonexistent/store")
    run.path.write_text(text)
    outcome = run(gate.LOAD.encode())
    answer = gate.parse_load(outcome.out.decode())
    assert (outcome.rc, outcome.err) == (0, b"")
    assert answer["load"] == [None, None, None]
    assert answer["pressure"] == {"cpu": None, "memory": None, "io": None}
    assert answer["memory"] == {"available": None, "total": None}
    assert answer["store"] == {"free": None, "total": None}


HOSTILE = {
    "nothing": None,
    "empty": b"",
    "blank": b" ",
    "shell": b"/bin/sh",
    "more arguments": b"nix-daemon --stdio --store /tmp/x",
    "fewer": b"nix-daemon",
    "daemon": b"nix-daemon --daemon",
    "case": b"Nix-Daemon --stdio",
    "blank before": b" nix-daemon --stdio",
    "blank after": b"nix-daemon --stdio ",
    "two blanks": b"nix-daemon  --stdio",
    "tab": b"nix-daemon\t--stdio",
    "newline after": b"nix-daemon --stdio\n",
    "newline and more": b"nix-daemon --stdio\nid",
    "carriage return": b"nix-daemon --stdio\rid",
    "semicolon": b"nix-daemon --stdio;id",
    "and": b"nix-daemon --stdio && id",
    "pipe": b"nix-daemon --stdio | sh",
    "background": b"nix-daemon --stdio & id",
    "comment": b"nix-daemon --stdio #",
    "path": b"/usr/bin/nix-daemon --stdio",
    "way up": b"../nix-daemon --stdio",
    "quoted": b"'nix-daemon' '--stdio'",
    "double quotes": b'"nix-daemon --stdio"',
    "one quote": b"'",
    "end of quote": b"'; id; '",
    "backslash": b"nix-daemon --stdio\\",
    "substitution": b"$(touch pwned)",
    "backquotes": b"`touch pwned`",
    "variable": b"$IFS${PATH}",
    "nested": b"nix-daemon $(touch pwned) --stdio",
    "assignment": b"PATH=. nix-daemon --stdio",
    "glob": b"*",
    "question marks": b"nix-daemon --stdi?",
    "brackets": b"nix-daemon --stdi[o]",
    "tilde": b"~",
    "printf": b"%s%n%d\\n\\0001",
    "option": b"-c id",
    "dashes": b"--",
    "escape sequence": b"\x1b]0;pwned\x07\x1b[2J",
    "not UTF-8": b"\xff\xfe\x80nix-daemon --stdio",
    "UTF-8": "nix-daemon --stdiö\u202e\u2028".encode(),
    "no-break space": "nix-daemon\u00a0--stdio".encode(),
    "forged log": b"x\nNov 20 12:00:00 host sshd[1]: Accepted publickey for root",
    "sftp": b"internal-sftp",
    "sftp server": b"/usr/lib/openssh/sftp-server",
    "scp": b"scp -t /tmp",
    "rsync": b"rsync --server -e.LsfxCIvu . /tmp",
    "git": b"git-upload-pack '/x'",
    "load and more": b"nixfleet-load /etc/shadow",
    "long": b"nix-daemon --stdio" + b" " * 100_000,
    "long words": b"A" * 120_000,
    "long and not UTF-8": b"\xf0\x9f" * 60_000,
    "newlines": b"\n" * 120_000,
}


@pytest.mark.parametrize("command", HOSTILE.values(), ids=HOSTILE)
def test_hostile_commands_are_refused(run: Gate, command: bytes | None) -> None:
    is_refused(run(command))
    assert not (run.bin / "pwned").exists()


def test_what_the_kernel_does_not_hand_on_is_not_run(run: Gate) -> None:
    """Beyond 128 KiB there is no process at all: not for sshd either, which ends the login then."""
    with pytest.raises(OSError, match="Argument list too long"):
        run(b"nix-daemon --stdio" + b" " * 200_000)


def test_refused_text_is_shown(run: Gate) -> None:
    outcome = run(b"rm -rf /\n\x1b[1m")
    assert b"refused: 'rm -rf /??[1m ... (13 characters)'; this account runs nothing but: " in outcome.err
    assert b"refused: 'id'; this" in run(b"id").err


def test_hostile_environment(run: Gate) -> None:
    """Whatever of it gets past sshd."""
    (run.bin / "env.sh").write_text("touch pwned\n")
    hostile = {
        "ENV": str(run.bin / "env.sh"),
        "BASH_ENV": str(run.bin / "env.sh"),
        "IFS": "-ino",
        "LC_ALL": "POSIX",
        "CDPATH": "/",
        "PS4": "$(touch pwned)",
        "POSIXLY_CORRECT": "1",
        "PATH": "/nonexistent",
    }
    is_refused(run(b"id", **hostile))
    outcome = run(gate.DAEMON.encode(), **{**hostile, "PATH": os.environ["PATH"]})
    assert (outcome.rc, outcome.started[:2]) == (0, [str(run.bin / "nix-daemon"), "--stdio"])
    assert run(gate.LOAD.encode(), **hostile).rc == 0
    assert not (run.bin / "pwned").exists()


def test_connection_that_is_none(run: Gate) -> None:
    outcome = run(b"id", SSH_CONNECTION="x'\ny$(id) 1 2 3")
    assert PRINTABLE.fullmatch(outcome.logged[5])
    assert b" from x??y??id?: 'id'" in outcome.logged[5]


_BYTES = st.binary(max_size=300).filter(lambda command: b"\0" not in command)
_PARTS = st.sampled_from(
    [b"nix-daemon", b"--stdio", b"nix-store", b"--serve", b"--write", b"nixfleet-load", b"'", b" "]
)
_NEAR = (
    st.lists(st.one_of(_PARTS, st.binary(max_size=2)), max_size=6).map(b" ".join).filter(lambda line: b"\0" not in line)
)
_ALLOWED = [command.encode() for command in gate.allowed(serve=True)]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(command=st.one_of(_BYTES, _NEAR, st.sampled_from(_ALLOWED)))
def test_fuzz(run: Gate, command: bytes) -> None:
    outcome = run(command)
    if command in _ALLOWED:
        assert outcome.rc == 0 and outcome.logged == []
    else:
        is_refused(outcome)


def test_switch(tmp_path: Path, shell: list[str]) -> None:
    run = Gate(tmp_path, shell, serve=False)
    is_refused(run(gate.SERVE.encode()))
    assert b"nix-store" not in run(b"id").err
    assert run(gate.DAEMON.encode()).rc == 0


def test_wrapper(tmp_path: Path, shell: list[str]) -> None:
    wrapper = tmp_path / "with 'quotes' and $(touch pwned)"
    wrapper.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    wrapper.chmod(0o755)
    run = Gate(tmp_path, shell, wrapper=[str(wrapper), "a b", "$HOME", "*", "--"])
    lines = run(gate.DAEMON.encode()).out.decode().splitlines()
    assert lines == ["a b", "$HOME", "*", "--", str(tmp_path / "nix-daemon"), "--stdio"]
    is_refused(run(b"id"))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(("own", "seen"), [(False, b"()"), (True, b"(not set)")])
def test_own_settings(tmp_path: Path, shell: list[str], own: bool, seen: bytes) -> None:
    run = Gate(tmp_path, shell, own_settings=own, wrapper=["/bin/sh", "-c", 'echo "(${NIX_USER_CONF_FILES-not set})"'])
    outcome = run(gate.DAEMON.encode(), NIX_USER_CONF_FILES="/mine")
    assert (outcome.rc, outcome.out.strip()) == (0, seen)


def test_nix_is_gone(run: Gate) -> None:
    (run.bin / "nix-daemon").unlink()
    outcome = run(gate.DAEMON.encode())
    assert (outcome.rc, outcome.out) == (127, b"")
    assert b"nix-daemon: not found; run the role" in outcome.err


@pytest.mark.parametrize(
    "options", [{"serve": True}, {"serve": False, "wrapper": ["/bin/env", "A=it's"], "own_settings": True}]
)
def test_shellcheck(options: dict[str, t.Any]) -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("no shellcheck")
    text = gate.render("/usr/bin", **options)
    done = subprocess.run(["shellcheck", "-"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "eval" not in text


@pytest.mark.parametrize(
    ("nix_bin", "wrapper", "says"),
    [
        ("usr/bin", [], "must be an absolute path"),
        ("/usr/bin", ["proot"], "must be an absolute path"),
        ("/usr/bin", ["/bin/proot", ""], "is empty, or has a control character"),
        ("/usr/bin", ["/bin/proot", "a\nid"], "is empty, or has a control character"),
    ],
)
def test_gate_that_cannot_be_made(nix_bin: str, wrapper: list[str], says: str) -> None:
    with pytest.raises(gate.GateError, match=says):
        gate.render(nix_bin, serve=True, wrapper=wrapper)


@pytest.mark.parametrize("line", ["", "{", "[]", '{"load": 1}'])
def test_load_that_is_none(line: str) -> None:
    with pytest.raises(gate.GateError, match="load probe's answer"):
        gate.parse_load(line)


def test_a_daemon_apart_from_the_other_programs() -> None:
    text = gate.render("/usr/bin", serve=True, daemon_bin="/usr/sbin")
    assert "'nix-daemon --stdio') run /usr/sbin/nix-daemon --stdio ;;" in text
    assert "'nix-store --serve --write') run /usr/bin/nix-store --serve --write ;;" in text
