# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module on a played fleet, with scripts in the place of Nix's programs."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import build_request, slots, ssh
from ansible_collections.nixfleet.builders.plugins.module_utils.channel import ChannelError
from ansible_collections.nixfleet.builders.plugins.module_utils.openers import RealStores
from ansible_collections.nixfleet.builders.plugins.modules import dispatch
from ansible_collections.nixfleet.builders.tests.support.evaluating_nix import make_programs
from ansible_collections.nixfleet.builders.tests.support.played_fleet import NAR, Drv, Host, World, drv, store_path

Result = dict[str, t.Any]
Run = t.Callable[..., Result]


class Client:
    """A client of a played fleet, with two builders."""

    def __init__(self, root: Path, run: Run) -> None:
        self._run = run
        self.root = root
        self.world = World()
        self.settings: dict[str, t.Any] = {"system": "x86_64-linux", "max-jobs": 0}
        #: What the programs that evaluate answer.
        self.answer = ""
        #: What the module asked of others: stores with these arguments; to be ended with its caller.
        self.stores: list[t.Any] = []
        self.callers: list[str | None] = []
        self.bin = make_programs(root)

    def wants(self, *wanted: Drv) -> list[str]:
        self.world.know(wanted)
        return [each.path for each in wanted]

    def builders(self, **values: t.Any) -> list[dict[str, t.Any]]:
        return [
            {"uri": f"ssh-ng://{name}", "systems": ["x86_64-linux"], "max_jobs": 2, **values}
            for name in self.world.hosts
        ]

    def __call__(self, *wanted: Drv, check: bool = False, **options: t.Any) -> Result:
        """The module's result, by default for these derivations on all builders."""
        shown = {name: {"value": value} for name, value in self.settings.items()}
        (self.root / "settings").write_text(json.dumps(shown))
        (self.root / "answer").write_text(self.answer)
        if wanted:
            options["derivations"] = self.wants(*wanted)
        if "builders_file" not in options:
            options.setdefault("builders", self.builders())
        return self._run(dispatch, check, **{"nix_bin_dir": str(self.bin), **options})

    @property
    def calls(self) -> list[str]:
        return (self.root / "calls").read_text().splitlines()


@pytest.fixture
def client(tmp_path: Path, run_module: Run, monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client(tmp_path, run_module)

    def real_stores(*arguments: t.Any) -> World:
        made.stores.append(arguments)
        return made.world

    monkeypatch.setattr(build_request, "RealStores", real_stores)
    monkeypatch.setattr(build_request, "read_bytes", made.world.read_file)
    monkeypatch.setattr(dispatch, "end_with_caller", made.callers.append)
    monkeypatch.setattr(slots, "directory", lambda: str(tmp_path / "current-load"))
    return made


# ---------------------------------------------------------------------------------------------------- what is built


def test_a_run(client: Client) -> None:
    low = drv("low")
    top = drv("top", [low], outputs=("out", "dev"))
    start = time.time()
    result = client(top)
    assert not result.get("failed") and result["changed"]
    assert sorted(client.world.built) == sorted([low.path, top.path])
    assert result["paths"] == [top.outputs["dev"], top.out]
    assert result["outputs"] == {top.path: top.outputs}
    assert result["substituted"] == result["failures"] == []
    made = {each["name"]: each for each in result["derivations"]}
    assert list(made) == ["low", "top"]
    (attempt,) = made["top"].pop("attempts")
    assert attempt["outcome"] == "built" and attempt["reason"] == ""
    assert start <= attempt["start"] <= attempt["stop"] <= start + 60
    assert made["top"] == {
        "derivation": top.path,
        "name": "top",
        "status": "built",
        "found": False,
        "builder": attempt["builder"],
        "start": attempt["start"],
        "stop": attempt["stop"],
        "outputs": top.outputs,
        "error": "",
        "log": [],
    }
    assert [(each["builder"], each["uri"]) for each in result["builders"]] == [
        ("b1", "ssh-ng://b1"),
        ("b2", "ssh-ng://b2"),
    ]
    for each in result["builders"]:
        assert each["built"] == len(client.world.hosts[each["builder"]].built)
        assert (each["failed"], each["lost"], each["trouble"], each["nix_version"]) == (0, 0, "", "2.26.3")
        assert (each["busy_seconds"] > 0) == (each["built"] > 0)
    # Both outputs, and what they refer to.
    assert result["copied_bytes"] == 3 * len(NAR)
    assert 0 < result["seconds"] < 60
    assert client.callers == [None]

    again = client(top)
    assert (again["changed"], again["derivations"], again["copied_bytes"]) == (False, [], 0)
    assert again["paths"] == result["paths"]


def test_check_mode(client: Client) -> None:
    low, side = drv("low", features="kvm"), drv("side")
    top = drv("top", [low])
    client.world.substitutable = {side.out}
    able = [{**each, "supported_features": ["kvm"]} for each in client.builders(speed_factor=2)[1:]]
    builders = [*client.builders()[:1], *able]
    foreseen = client(top, side, check=True, builders=builders)
    assert (foreseen["changed"], foreseen["paths"]) == (True, [top.out, side.out])
    assert [(each["name"], each["features"], each["machines"]) for each in foreseen["plan"]] == [
        ("low", ["kvm"], ["b2"]),
        ("top", [], ["b2", "b1"]),
    ]
    assert foreseen["substituted"] == [side.out] and foreseen["seconds"] >= 0
    assert "derivations" not in foreseen
    assert foreseen["diff"]["after"].splitlines() == [each["derivation"] for each in foreseen["plan"]]
    assert not client.world.built and side.out not in client.world.here.valid
    assert not client.callers and not (client.root / "current-load").exists()

    result = client(top, side, builders=builders)
    assert all(result[name] == foreseen[name] for name in ("changed", "paths", "outputs", "substituted"))
    assert side.out in client.world.here.valid
    again = client(top, side, check=True, builders=builders)
    assert (again["changed"], again["plan"], again["substituted"]) == (False, [], [])


def test_only_a_substitution_is_a_change_too(client: Client) -> None:
    side = drv("side")
    client.world.substitutable = {side.out}
    assert client(side, check=True)["changed"]
    assert client(side)["changed"]
    assert not client(side)["changed"] and not client(side, check=True)["changed"]


def test_a_failed_build(client: Client) -> None:
    bad = drv("bad", fails=True)
    top, side = drv("top", [bad]), drv("side")
    link = client.root / "result"
    result = client(top, side, keep_going=True, out_link=str(link), report=str(client.root / "report"))
    assert result["failed"] and result["changed"]
    first, second = result["msg"].splitlines()
    assert first == "1 of 3 derivations failed, 1 were not built for that"
    (failure,) = result["failures"]
    assert failure in result["derivations"]
    assert second == f"bad on {failure['builder']}: {failure['error']}" and "exit code 1" in second
    made = {each["name"]: each for each in result["derivations"]}
    assert {name: each["status"] for name, each in made.items()} == {
        "bad": "failed",
        "top": "cancelled",
        "side": "built",
    }
    assert [made["top"][name] for name in ("builder", "start", "stop", "attempts")] == [None, None, None, []]
    assert sum(each["failed"] for each in result["builders"]) == 1
    assert side.out in client.world.here.valid
    assert not link.is_symlink() and "bad" in (client.root / "report").read_text()


def test_what_is_substituted_on_the_way_is_not_told(client: Client) -> None:
    low = drv("low")
    client.world.substitutable = {low.out}
    result = client(drv("top", [low]))
    assert low.out in client.world.here.valid and result["substituted"] == []


def test_without_keep_going(client: Client) -> None:
    """What most waits for has the only slot first."""
    bad, side = drv("bad", fails=True), drv("side")
    top = drv("top", [drv("middle", [bad])])
    client.world.hosts = {"b1": Host("b1")}
    builders = client.builders(max_jobs=1)
    result = client(side, top, builders=builders)
    assert result["failed"] and not client.world.built
    assert result["msg"].startswith("1 of 4 derivations failed, 3 were not built for that\nbad on b1: ")
    result = client(side, top, builders=builders, keep_going=True)
    assert result["failed"] and client.world.built == [side.path]


def test_results_stay_or_go_elsewhere(client: Client) -> None:
    low, top = drv("low"), drv("top")
    result = client(low, copy_results="none")
    assert result["changed"] and result["copied_bytes"] == 0 and low.out not in client.world.here.valid
    builders = client.builders()
    cache = client.world.hosts["cache"] = Host("cache")
    result = client(top, copy_results="ssh-ng://cache", builders=builders)
    assert top.out in cache.valid and top.out not in client.world.here.valid
    assert result["copied_bytes"] == len(NAR)


def test_what_a_builder_has_is_found(client: Client) -> None:
    made = drv("made")
    client(made, copy_results="none")
    result = client(made, copy_results="none")
    (found,) = result["derivations"]
    assert (found["status"], found["found"], found["attempts"], result["changed"]) == ("built", True, [], False)


def test_the_host_itself_builds(client: Client) -> None:
    made, other = drv("made"), drv("other")
    result = client(made, builders=[], local_jobs=1)
    assert client.world.here.built == [made.path]
    assert [(each["builder"], each["built"]) for each in result["builders"]] == [("this host", 1)]
    client.settings["max-jobs"] = 3
    assert client(other, builders=[])["builders"][0]["built"] == 1


def test_slots_are_shared_with_nix(client: Client) -> None:
    """Those of the Nix that is there, and root's only."""
    client(drv("made"))
    assert (client.root / "current-load").is_dir() == (os.geteuid() == 0)


# ---------------------------------------------------------------------------------------------------- links


def test_links_to_results(client: Client) -> None:
    low, top = drv("low"), drv("top", outputs=("out", "dev"))
    link = client.root / "result"
    assert client(low, top, check=True, out_link=str(link))["changed"]
    assert not link.is_symlink() and not client.world.built
    client(low, top, out_link=str(link))
    links = {str(link): low.out, f"{link}-2": top.out, f"{link}-2-dev": top.outputs["dev"]}
    assert {name: os.readlink(name) for name in links} == links
    assert sorted(client.world.here.roots) == sorted(links)
    assert not client(low, top, out_link=str(link))["changed"]
    assert not client(low, top, check=True, out_link=str(link))["changed"]

    os.unlink(f"{link}-2")
    assert client(low, top, check=True, out_link=str(link))["changed"] and not os.path.lexists(f"{link}-2")
    result = client(low, top, out_link=str(link))
    assert result["changed"] and result["derivations"] == [] and os.readlink(f"{link}-2") == top.out
    # Only what was made is told to the store once more.
    assert sorted(client.world.here.roots) == sorted([*links, f"{link}-2"])


@pytest.mark.parametrize("check", [True, False])
def test_what_stands_in_the_place_of_a_link_is_left_alone(client: Client, check: bool) -> None:
    place = client.root / "result"
    place.write_text("mine")
    result = client(drv("made"), check=check, out_link=str(place))
    assert result["failed"] and "is no symbolic link" in result["msg"]
    assert place.read_text() == "mine" and not client.world.built


# ---------------------------------------------------------------------------------------------------- what is wanted


@pytest.mark.parametrize(
    ("options", "call"),
    [
        ({"file": "/p/default.nix"}, "nix-instantiate /p/default.nix"),
        ({"file": "/p", "attributes": ["a", "b"]}, "nix-instantiate /p --attr a --attr b"),
        ({"expression": "import ./x", "attributes": ["a"]}, "nix-instantiate --expr import ./x --attr a"),
        (
            {"installables": [".#a"]},
            "nix --extra-experimental-features nix-command path-info --derivation "
            "--extra-experimental-features flakes --no-write-lock-file .#a",
        ),
    ],
)
def test_what_is_wanted(client: Client, options: dict[str, t.Any], call: str) -> None:
    made = drv("made", outputs=("out", "dev"))
    client.wants(made)
    client.answer = made.path + "\n"
    result = client(check=True, **options)
    assert client.calls == [call]
    assert result["outputs"] == {made.path: made.outputs if "installables" in options else {"out": made.out}}


def test_some_outputs_of_a_derivation(client: Client) -> None:
    made = drv("made", outputs=("out", "dev"))
    client.wants(made)
    assert client(derivations=[f"{made.path}!dev"])["paths"] == [made.outputs["dev"]]


@pytest.mark.parametrize("machines", ["text", "file", "included"])
def test_builders_of_the_hosts_nix(client: Client, machines: str) -> None:
    line = "ssh-ng://b2 x86_64-linux - 3 1.5 kvm\n"
    client.settings["builders"] = "ssh-ng://b1 x86_64-linux"
    file = client.root / "machines"
    file.write_text("# mine\n" + line)
    options: dict[str, t.Any] = {"builders": None}
    if machines == "text":
        client.settings["builders"] = line
    elif machines == "included":
        client.settings["builders"] = f"@{file}"
    else:
        options = {"builders_file": str(file)}
    made = drv("made", features="kvm")
    result = client(made, **options)
    assert [each["uri"] for each in result["builders"]] == ["ssh-ng://b2"]
    assert client.world.hosts["b2"].built == [made.path]


def test_builders_that_are_none(client: Client) -> None:
    result = client(drv("made"), builders=[{"uri": "ssh-ng://b1", "color": "red"}])
    assert result["failed"] and "color" in result["msg"]
    result = client(drv("made"), builders=client.builders()[:1] * 2)
    assert result["failed"] and "it is named twice" in result["msg"]
    file = client.root / "machines"
    file.write_text("ssh-ng://b1 x86_64-linux - many\n")
    result = client(drv("made"), builders_file=str(file))
    assert result["failed"] and str(file) in result["msg"] and "many" in result["msg"]
    result = client(drv("made"), builders_file=str(client.root / "none"))
    assert result["failed"] and f"{client.root}/none" in result["msg"]


def test_how_the_clients_store_is_opened(client: Client) -> None:
    client.settings.update({"cores": 6, "max-silent-time": 7, "max-jobs": 8})
    client(drv("made"), check=True, connect_timeout=5)
    client(drv("made"), check=True, local_jobs=0)
    (daemon, timeout, options), (_daemon, _timeout, others) = client.stores
    assert (daemon, timeout) == (str(client.bin / "nix-daemon"), 5)
    assert (options.max_build_jobs, options.build_cores, options.max_silent_time) == (8, 6, 7)
    # The daemon is not to use the builders itself, and 0 jobs would keep it from substituting.
    assert (options.overrides, others.max_build_jobs) == ({"builders": ""}, 1)


# ---------------------------------------------------------------------------------------------------- files


def test_reports(client: Client) -> None:
    report, trace = client.root / "report.html", client.root / "trace.json"
    trace.write_text("old")
    trace.chmod(0o640)
    mask = os.umask(0o027)
    try:
        client(drv("made"), report=str(report), trace=str(trace), build_timeout=77)
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(mask)
    text = report.read_text()
    assert text.startswith("<!doctype html>") and "made" in text and "77" in text
    assert {"made"} <= {event["name"] for event in json.loads(trace.read_text())["traceEvents"]}
    assert [stat.S_IMODE(path.stat().st_mode) for path in (report, trace)] == [0o640, 0o640]


def test_a_run_with_nothing_to_do_leaves_reports_as_they_are(client: Client) -> None:
    made = drv("made")
    files = {name: str(client.root / name) for name in ("report", "trace")}
    client(made, report=files["report"])
    before = Path(files["report"]).read_text()
    again = client(made, **files)
    assert not again["changed"] and Path(files["report"]).read_text() == before
    # One that is not there is made.
    assert "traceEvents" in Path(files["trace"]).read_text()
    client(drv("other"), report=files["report"])
    after = Path(files["report"]).read_text()
    assert "other" in after and after != before


@pytest.mark.parametrize("option", ["report", "trace", "out_link"])
def test_files_whose_directory_is_not_there(client: Client, option: str) -> None:
    """That is told before anything is built."""
    options: dict[str, t.Any] = {option: str(client.root / "none/file")}
    result = client(drv("made"), **options)
    assert result["failed"] and not client.world.built
    assert result["msg"] == f"there is no directory {client.root}/none for {option}; make it first"


def test_news_are_appended_to_a_file(client: Client) -> None:
    path = client.root / "progress"
    made = drv("made")
    client(made, progress=str(path))
    assert client.callers == [str(path)] and stat.S_IMODE(path.stat().st_mode) == 0o600
    news = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(set(each) == {"time", "kind", "step", "name", "machine", "text", "counts"} for each in news)
    told = [(each["kind"], each["name"]) for each in news]
    assert told[0] == ("plan", "") and told.index(("building", "made")) < told.index(("built", "made"))
    assert news[told.index(("built", "made"))]["counts"] == {"built": 1}
    client(drv("other"), progress=str(path))
    assert path.read_text().splitlines()[: len(news)] == [json.dumps(each) for each in news]


def test_it_ends_with_its_caller(tmp_path: Path) -> None:
    """As soon as nobody reads its output; not before."""
    news = tmp_path / "news"
    news.touch()
    program = (
        "import sys, time\n"
        f"sys.path[:0] = {sys.path!r}\n"
        f"from {dispatch.__name__} import end_with_caller\n"
        "end_with_caller(sys.argv[1])\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read(1)\n"
        "print('alive', flush=True)\n"
        "time.sleep(100)\n"
    )
    argv = [sys.executable, "-c", program, str(news)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        try:
            assert process.stdout.readline() == b"ready\n"
            process.stdin.write(b"x")
            process.stdin.flush()
            assert process.stdout.readline() == b"alive\n" and news.exists()
            process.stdout.close()
            assert process.wait(60) == -signal.SIGTERM
            assert not news.exists()
        finally:
            process.kill()


# ---------------------------------------------------------------------------------------------------- failures


def test_nothing_is_built_when_a_derivation_can_be_built_nowhere(client: Client) -> None:
    for check in (True, False):
        result = client(drv("plain"), drv("needy", features="kvm"), check=check)
        assert result["failed"] and "needy" in result["msg"] and "kvm" in result["msg"]
    assert not client.world.built


def test_a_client_without_a_store(client: Client) -> None:
    def fault(operation: str, request: t.Any) -> None:
        raise ChannelError("the daemon", "cannot connect")

    client.world.here.fault = fault
    for check in (True, False):
        result = client(drv("made"), check=check)
        assert result["failed"] and "cannot connect" in result["msg"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of the following is required: derivations, file, expression, installables"),
        ({"derivations": [], "file": "x"}, "mutually exclusive"),
        ({"file": "x", "builders": [], "builders_file": "y"}, "mutually exclusive"),
        ({"file": "x", "local_jobs": -1}, "local_jobs is -1, it has to be at least 0"),
        ({"file": "x", "max_attempts": 0}, "max_attempts is 0, it has to be at least 1"),
        ({"file": "x", "connect_timeout": 0}, "connect_timeout is 0, it has to be at least 1"),
        ({"file": "x", "build_timeout": -1}, "build_timeout is -1, it has to be at least 0"),
        ({"file": "x", "out_link": "r", "copy_results": "none"}, "out_link needs the results on this host"),
        ({"installables": ["x"], "attributes": ["a"]}, "attributes are those of a file or an expression"),
        ({"file": "x", "policy": "random"}, "value of policy must be one of: load, nix"),
        ({"derivations": ["hello"]}, "'hello' is no derivation; write the path of a .drv file"),
        ({"derivations": [store_path("gone") + ".drv"]}, "not in the store of this host"),
        ({"file": "x", "nix_bin_dir": "/nowhere"}, "there is no nix-store in /nowhere"),
    ],
)
def test_bad_options(client: Client, options: dict[str, t.Any], message: str) -> None:
    result = client(**options)
    assert result["failed"]
    assert message in result["msg"]


def test_an_expression_that_fails(client: Client) -> None:
    (client.bin / "nix-instantiate").write_text("#!/bin/sh\necho 'error: so it is' >&2\nexit 1\n")
    result = client(file="/p")
    assert result["failed"] and "error: so it is" in result["msg"]


def test_without_paramiko(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> t.NoReturn:
        raise ssh.ParamikoMissing("No module named 'paramiko'")

    monkeypatch.setattr(ssh, "paramiko_library", missing)
    monkeypatch.setattr(RealStores, "client", lambda self: client.world.client())
    monkeypatch.setattr(build_request, "RealStores", RealStores)
    result = client(drv("made"), builders=[{"uri": "ssh-ng://nixremote@127.0.0.1", "systems": ["x86_64-linux"]}])
    assert result["failed"]
    assert "Failed to import the required Python library (paramiko)" in result["msg"]
