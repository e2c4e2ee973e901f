# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every command of the documentation is run by a test: here, or by one that commands.yml names.

A command is a line of a code block that begins with a program (PROGRAMS), every line of a block ```sh``` and every one
after C($) in a block ```console```, which also shows the output, and text in backquotes that begins with one of
Ansible's programs or make.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
MATCHES: list[dict[str, str]] = yaml.safe_load((ROOT / "tests/lint/commands.yml").read_text())

_INLINE_PROGRAMS = "ansible(?:-playbook|-galaxy|-inventory|-doc|-vault)?|make"
PROGRAMS = (
    f"{_INLINE_PROGRAMS}|nix|nix-[a-z-]+|nixos-rebuild|ssh|ssh-[a-z]+|scp|sshd|cp|mv|rm|mkdir|chmod|chown|cat|git|export|pip|apt|apt-get"
    "|sudo|systemctl|journalctl|curl|python3|useradd|usermod|jq|qemu-[a-z0-9_-]+|tools/[a-z]+|tests/[a-z/]+|extensions/[a-z/]+"
    r"|\./[a-z]+|\.build/\S+"
)
_COMMAND = re.compile(rf"(?:{PROGRAMS})(?: .*)?$")
_INLINE = re.compile(rf"`((?:{_INLINE_PROGRAMS}) [^`]+)`")
_FENCE = re.compile(r"^( *)```(\S*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^(?: {4,}.*)?\n)+", re.MULTILINE)
_FILE = re.compile(r"# (?:file: )?(\S+):?\n")


class Shown(t.NamedTuple):
    """A command, and the output that a console block shows after it; None where the page shows none."""

    command: str
    output: str | None


def blocks(text: str) -> list[tuple[str, str]]:
    """Code blocks as (language, text); an indented one has none."""
    found = [
        (language, re.sub(rf"^{indent}", "", body, flags=re.MULTILINE))
        for indent, language, body in _FENCE.findall(text)
    ]
    plain = _FENCE.sub("", text)
    return found + [("", body.group()) for body in _INDENTED.finditer(plain) if body.group().strip()]


def without_remark(line: str) -> str:
    return re.sub(r"\s{2,}# .*$| # .*$", "", line).strip()


def commands(text: str) -> list[Shown]:
    found: list[Shown] = []
    for language, body in blocks(text):
        body = re.sub(r" *\\\n\s*", " ", body)
        if language == "console":
            for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                command, _end, output = part.partition("\n")
                found.append(Shown(without_remark(command), output or None))
            continue
        lines = [line.strip() for line in body.splitlines()]
        found += [
            Shown(without_remark(line), None)
            for line in lines
            if (language in ("sh", "bash") and line and line[0] != "#")
            or (language in ("", "text") and is_command(line))
        ]
    return found + [Shown(" ".join(command.split()), None) for command in _INLINE.findall(_FENCE.sub("", text))]


def is_command(line: str) -> bool:
    # A key of YAML may have the name of a program.
    return bool(_COMMAND.match(line)) and not re.match(r"\S+:( |$)", line)


def runs_here(command: str) -> bool:
    """Whether the command reads and writes nothing but the directory it is in."""
    return bool(re.match(r"(ansible-doc|ansible-inventory|ssh-keygen|cp inventory\.example) ", command)) or (
        command.startswith("ansible-playbook ") and "--connection local" in command
    )


def match(command: str) -> dict[str, str] | None:
    return next((each for each in MATCHES if re.fullmatch(each["command"], command)), None)


def label(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_every_command_is_run_by_a_test(page: Path) -> None:
    left = [
        shown.command
        for shown in commands(page.read_text())
        if not runs_here(shown.command) and not match(shown.command)
    ]
    assert left == [], "no test is known to run this: name the one that does in tests/lint/commands.yml"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(runs_here(c.command) for c in commands(page.read_text()))], ids=label
)
def test_commands_that_need_no_host(page: Path, tmp_path: Path) -> None:
    """In one directory, in their order, with the files that the page gives (a first line like C(# NAME))."""
    text = page.read_text()
    (tmp_path / "inventory.example").write_bytes((ROOT / "inventory.example").read_bytes())
    for language, body in blocks(text):
        name = _FILE.match(body)
        if language and name and language != "console":
            (tmp_path / name.group(1)).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name.group(1)).write_text(body)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".build/collections"),
        "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml",
        "ANSIBLE_LOCAL_TEMP": str(tmp_path / ".tmp"),
        "NO_COLOR": "1",
        "COLUMNS": "200",
    }
    for shown in commands(text):
        if not runs_here(shown.command):
            continue
        done = subprocess.run(
            ["sh", "-c", shown.command], check=False, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        if shown.output is None:
            assert done.returncode == 0, f"{shown.command}\n{done.stdout}{done.stderr}"
        else:
            # As the page has it: with what goes wrong, without blanks at the ends of lines, and with ... for any lines.
            said = lines_of(done.stdout if done.stdout.strip() else done.stderr)
            wanted = ".*".join(map(re.escape, lines_of(shown.output).split("...")))
            assert re.search(wanted, said, re.DOTALL), f"{shown.command}\n{said}"


def lines_of(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


@pytest.mark.parametrize("each", MATCHES, ids=lambda each: each["command"])
def test_the_named_test_runs_it(each: dict[str, str]) -> None:
    """The file is part of a test that is run, and has the text; and some page has the command."""
    path = ROOT / each["test"]
    text = path.read_text()
    assert each["with"] in text, f"{each['test']} does not have {each['with']!r}"
    if path.is_relative_to(ROOT / "extensions/molecule") and "shared" not in path.parts:
        scenario = path.relative_to(ROOT / "extensions/molecule").parts[0]
        runner = (ROOT / "extensions/molecule/run").read_text()
        listed = re.findall(r"^SCENARIOS=\((.*)\)$", runner, re.MULTILINE)
        assert scenario in " ".join(listed).split()
    assert any(
        re.fullmatch(each["command"], shown.command) for page in PAGES for shown in commands(page.read_text())
    ), "no page has this command any more"


@pytest.mark.parametrize("source", ["git+file://{root}", "{root}"])
def test_the_collection_can_be_installed(source: str, tmp_path: Path) -> None:
    """From git, here by another transport, and from a checkout; then its documentation is there."""
    clone = tmp_path / "checkout"
    subprocess.run(["git", "clone", "-q", "--depth=1", f"file://{ROOT}", str(clone)], check=True, capture_output=True)
    programs = Path(sys.executable).parent
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "to"),
        "ANSIBLE_LOCAL_TEMP": str(tmp_path / ".tmp"),
    }
    for command in (
        [programs / "ansible-galaxy", "collection", "install", "-p", str(tmp_path / "to"), source.format(root=clone)],
        [programs / "ansible-doc", "-t", "role", "nixfleet.builders.nix_builder"],
    ):
        done = subprocess.run(command, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
