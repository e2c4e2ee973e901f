# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""News shown while a played module runs. The commands that read them are run for real, by a shell of this machine."""

from __future__ import annotations

import json
import subprocess
import threading
import types
import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.action import dispatch

#: Nothing takes so long, however busy the machine is.
LIMIT = 30.0

Module = t.Callable[[dict[str, t.Any]], dict[str, t.Any]]


class Screen:
    """What is shown; in the place of Ansible's display."""

    def __init__(self) -> None:
        self.verbosity = 0
        self.lines: list[str] = []
        self.details: list[str] = []
        self._changed = threading.Condition()

    def display(self, text: str) -> None:
        with self._changed:
            self.lines.append(text)
            self._changed.notify_all()

    def vv(self, text: str) -> None:
        self.details.append(text)

    def wait_for(self, count: int) -> list[str]:
        """The lines, as soon as there are so many."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.lines) >= count, LIMIT), self.lines
            return list(self.lines)


class Connection:
    """As much of a connection as is used."""

    def __init__(self, directory: Path) -> None:
        self.become: t.Any = None
        self.has_native_async = False
        self._shell = types.SimpleNamespace(
            tmpdir=None, get_option=lambda name: {"system_tmpdirs": [str(directory)]}[name]
        )

    def set_become_plugin(self, become: t.Any) -> None:
        self.become = become


class Action(dispatch.ActionModule):
    """The action plugin, with what would happen on the host in methods of its own."""

    def __init__(self, directory: Path, args: dict[str, t.Any]) -> None:
        task = types.SimpleNamespace(args=args, async_val=0, check_mode=False, action="dispatch")
        super().__init__(task, Connection(directory), None, None, None)
        self.directory = directory
        self.module: Module = lambda given: {}
        #: Options with which the module was run; commands with the connection that they went by.
        self.runs: list[dict[str, t.Any]] = []
        self.commands: list[tuple[str, Connection]] = []
        self.command: t.Callable[[str], str] = self._shell
        self.looked = threading.Semaphore(0)

    @staticmethod
    def _shell(command: str) -> str:
        return subprocess.run(["/bin/sh", "-c", command], check=True, capture_output=True, text=True).stdout

    def _low_level_execute_command(self, command: str, sudoable: bool = False) -> dict[str, t.Any]:
        assert sudoable
        self.commands.append((command, self._connection))
        answer = self.command(command)
        self.looked.release()
        return {"stdout": answer}

    def _execute_module(self, **options: t.Any) -> dict[str, t.Any]:
        self.runs.append(options)
        return self.module(options.get("module_args", {}))

    @property
    def left(self) -> list[Path]:
        """Files on the host."""
        return list(self.directory.iterdir())

    def wait_for_looks(self, count: int) -> None:
        for _number in range(count):
            assert self.looked.acquire(timeout=LIMIT)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    shown = Screen()
    monkeypatch.setattr(dispatch, "display", shown)
    monkeypatch.setattr(dispatch, "INTERVAL", 0.01)
    monkeypatch.setattr(dispatch, "LAST_LOOK", LIMIT)
    return shown


@pytest.fixture
def action(tmp_path: Path, screen: Screen) -> Action:
    # A directory that a shell would take for two.
    directory = tmp_path / "of the 'host'"
    directory.mkdir()
    return Action(directory, {"file": "/p"})


def down(machine: str) -> str:
    """A line of news, of which one line is shown."""
    event = {"time": 0.0, "kind": "down", "step": "", "name": "", "machine": machine, "text": "gone", "counts": {}}
    return json.dumps(event) + "\n"


def shown(*machines: str) -> list[str]:
    return [f"  {machine} cannot be reached: gone" for machine in machines]


def write(args: dict[str, t.Any], text: str) -> None:
    with open(args["progress"], "a") as file:
        file.write(text)


def running() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "dispatch progress"]


def test_news_are_shown_while_the_module_runs(action: Action, screen: Screen) -> None:
    def module(args: dict[str, t.Any]) -> dict[str, t.Any]:
        write(args, down("b1") + down("b2"))
        assert screen.wait_for(2) == shown("b1", "b2")
        write(args, down("b3"))
        assert screen.wait_for(3) == shown("b1", "b2", "b3")
        write(args, down("b4"))
        return {"changed": True, "invocation": {"module_args": dict(args)}}

    action.module = module
    result = action.run(task_vars={"a": 1})
    # What came last is shown too, nothing twice, and no trace is left of it.
    assert screen.lines == shown("b1", "b2", "b3", "b4")
    assert result == {"changed": True, "invocation": {"module_args": {"file": "/p"}}}
    assert action.left == [] and running() == []
    ((options),) = action.runs
    assert options["task_vars"] == {"a": 1} and options["module_args"]["file"] == "/p"
    assert Path(options["module_args"]["progress"]).parent == action.directory
    assert action._task.args == {"file": "/p"}
    assert screen.details == []


def test_each_run_has_a_file_of_its_own(action: Action) -> None:
    action.run()
    action.run()
    first, second = (options["module_args"]["progress"] for options in action.runs)
    assert first != second


def test_lines_that_are_written_in_parts(action: Action, screen: Screen) -> None:
    def module(args: dict[str, t.Any]) -> dict[str, t.Any]:
        write(args, down("b1") + down("b2")[:9])
        screen.wait_for(1)
        action.wait_for_looks(len(action.commands) + 2)
        write(args, down("b2")[9:])
        assert screen.wait_for(2) == shown("b1", "b2")
        return {}

    action.module = module
    action.run()
    assert screen.lines == shown("b1", "b2") and screen.details == []


def test_a_terminal_in_between(action: Action, screen: Screen) -> None:
    """It ends lines in another way."""
    action.command = lambda command: action._shell(command).replace("\n", "\r\n")

    def module(args: dict[str, t.Any]) -> dict[str, t.Any]:
        for number in range(3):
            write(args, down(f"b{number}"))
            screen.wait_for(number + 1)
        return {}

    action.module = module
    action.run()
    assert screen.lines == shown("b0", "b1", "b2")


@pytest.mark.parametrize("verbosity", [0, 1, 2])
def test_the_curious_see_more(action: Action, screen: Screen, verbosity: int) -> None:
    screen.verbosity = verbosity
    action.module = lambda args: t.cast("t.Any", write(args, down("b1").replace("down", "up"))) or {}
    action.run()
    assert screen.lines == (["  b1 is there: gone"] if verbosity > 1 else [])


@pytest.mark.parametrize(
    ("task", "args", "native", "wrap"),
    [
        ({"check_mode": True}, {}, False, False),
        ({"async_val": 60}, {}, False, True),
        ({"async_val": 60}, {}, True, False),
        ({}, {"progress": "/p/mine"}, False, False),
    ],
)
def test_when_nothing_is_shown(
    action: Action, screen: Screen, task: dict[str, t.Any], args: dict[str, t.Any], native: bool, wrap: bool
) -> None:
    """In check mode, in the background, and where the user reads the news: the module runs with the task's options."""
    for name, value in task.items():
        setattr(action._task, name, value)
    action._task.args.update(args)
    action._connection.has_native_async = native
    action.module = lambda given: {"invocation": {"module_args": {"progress": "kept"}}}
    assert action.run(task_vars={"a": 1}) == {"invocation": {"module_args": {"progress": "kept"}}}
    assert action.runs == [{"task_vars": {"a": 1}, "wrap_async": wrap}]
    assert action.commands == []


def test_commands_go_by_a_connection_of_their_own(action: Action, screen: Screen) -> None:
    """Plugins for connections and for become remember things of the command that runs."""
    become = action._connection.become = types.SimpleNamespace(success="")
    action.module = lambda args: t.cast("t.Any", action.wait_for_looks(1)) or {}
    action.run()
    used = {id(connection): connection for _command, connection in action.commands}
    (connection,) = used.values()
    assert connection is not action._connection and connection.become is not become
    assert connection.become == become and action._connection.become is become


def test_a_module_that_cannot_be_run(action: Action, screen: Screen) -> None:
    """E.g. as the host cannot be reached. What is there of news is shown and removed nevertheless."""

    def module(args: dict[str, t.Any]) -> dict[str, t.Any]:
        write(args, down("b1"))
        raise ConnectionError("no route to host")

    action.module = module
    with pytest.raises(ConnectionError, match="no route to host"):
        action.run()
    assert screen.lines == shown("b1")
    assert action.left == [] and running() == []


def test_news_that_cannot_be_read(action: Action, screen: Screen) -> None:
    """They end the display, not the task."""

    def module(args: dict[str, t.Any]) -> dict[str, t.Any]:
        write(args, "Last login: yesterday\n")
        return {"changed": True}

    action.module = module
    assert action.run() == {"changed": True}
    assert len(screen.details) == 1 and screen.details[0].startswith("dispatch: its progress cannot be shown: ")
    assert action.left == []


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_commands_that_fail(action: Action, screen: Screen) -> None:
    """As the host cannot be reached any more: that is the module's to tell, and no traceback disturbs the screen."""

    def command(text: str) -> str:
        raise ConnectionError("no route to host")

    action.command = command
    action.module = lambda args: {"changed": True}
    assert action.run() == {"changed": True}
    assert screen.details == ["dispatch: its progress cannot be shown: no route to host"]
    assert screen.lines == [] and running() == []


def test_a_command_that_hangs_does_not_keep_the_task(
    action: Action, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "LAST_LOOK", 0.05)
    hangs, ends = threading.Event(), threading.Event()
    ended: list[bool] = []

    def command(text: str) -> str:
        hangs.set()
        ended.append(ends.wait(LIMIT))
        return ""

    action.command = command
    action.module = lambda args: {"changed": hangs.wait(LIMIT)}
    assert action.run() == {"changed": True}
    assert ended == []
    ends.set()
    for thread in running():
        thread.join(LIMIT)
    assert ended == [True] * len(ended)
