# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Nix's command line says of many texts, in one call: the questions are JSON on stdin, the answers JSON on stdout.

A question is {"files": {name: text}, "input": text, "env": {name: value}, "commands": [[argument, …], …]}. Each has a
directory of its own, in which its files are and its commands run, `nix` before each. In arguments and values {own} is
that directory, {store} a store that all questions share, and {last} what the command before has printed. The answer is
{"status", "stdout", "stderr"} of the first command that fails, or of the last one.

Needs nothing but Python 3.9 and Nix, so that it can be sent to any host.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import typing as t
from pathlib import Path

NIX = ["nix", "--extra-experimental-features", "nix-command"]
#: Seconds for a command.
PATIENCE = 60


def answer(question: dict[str, t.Any], own: Path, store: Path) -> dict[str, t.Any]:
    """The answer to one question. Raises TimeoutExpired where Nix does not end."""
    own.mkdir()
    for name, text in question.get("files", {}).items():
        (own / name).write_text(text, encoding="utf-8")
    said: dict[str, t.Any] = {"stdout": ""}

    def filled(word: str) -> str:
        places = {"{own}": str(own), "{store}": str(store), "{last}": said["stdout"].strip()}
        return places.get(word, word)

    for command in question["commands"]:
        done = subprocess.run(
            [*NIX, *map(filled, command)],
            input=question.get("input", ""),
            capture_output=True,
            encoding="utf-8",
            # A message of Nix may be cut off within a character.
            errors="backslashreplace",
            timeout=PATIENCE,
            check=False,
            cwd=own,
            env={**os.environ, **{name: filled(value) for name, value in question.get("env", {}).items()}},
        )
        said = {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
        if done.returncode:
            break
    return said


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        top = Path(directory)
        answers = [
            answer(question, top / str(number), top / "store") for number, question in enumerate(json.load(sys.stdin))
        ]
        print(json.dumps(answers))
        # What is in a store cannot be written to, not even by who removes it.
        subprocess.run(["chmod", "-R", "u+w", directory], check=True)


if __name__ == "__main__":
    main()
