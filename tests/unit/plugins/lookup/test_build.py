# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lookup on a played fleet, with scripts in the place of Nix's programs. Real ones are in the scenario dispatch."""

from __future__ import annotations

import importlib
import json
import os
import sys
import typing as t
from pathlib import Path

import pytest
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import lookup_loader
from ansible.template import Templar
from ansible.utils.display import Display
from ansible_collections.nixfleet.builders.plugins.module_utils import build_request, slots, ssh
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine
from ansible_collections.nixfleet.builders.tests.support.evaluating_nix import make_programs
from ansible_collections.nixfleet.builders.tests.support.played_fleet import Drv, World, drv, store_path

COLLECTIONS = next(path for path in sys.path if (Path(path) / "ansible_collections/nixfleet").is_dir())


class Controller:
    """A controller, and an inventory with two builders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.world = World()
        self.settings: dict[str, t.Any] = {"system": "x86_64-linux", "max-jobs": 0}
        #: What the programs that evaluate answer.
        self.answer = ""
        self.bin = make_programs(root)
        self.variables: dict[str, t.Any] = {
            "groups": {"all": ["b1", "b2"], "nix_builders": ["b1", "b2"]},
            "hostvars": {
                name: {
                    "nix_builder_fact": {
                        "machine": {"uri": f"ssh-ng://{name}", "systems": ["x86_64-linux"], "max_jobs": 2}
                    }
                }
                for name in self.world.hosts
            },
        }

    def __call__(self, *wanted: Drv | str, **options: t.Any) -> list[str]:
        self.world.know([each for each in wanted if isinstance(each, Drv)])
        terms = [each.path if isinstance(each, Drv) else each for each in wanted]
        shown = {name: {"value": value} for name, value in self.settings.items()}
        (self.root / "settings").write_text(json.dumps(shown))
        (self.root / "answer").write_text(self.answer)
        loader = DataLoader()
        loader.set_basedir(str(self.root))
        # By its directory: ansible's finder of collections does not work once another test has imported this one.
        lookup_loader.add_directory(str(Path(COLLECTIONS) / "ansible_collections/nixfleet/builders/plugins/lookup"))
        lookup = lookup_loader.get("build", loader=loader, templar=Templar(loader, variables=self.variables))
        found: list[str] = lookup.run(terms, self.variables, **{"nix_bin_dir": str(self.bin), **options})
        return found

    @property
    def calls(self) -> list[str]:
        return (self.root / "calls").read_text().splitlines()


@pytest.fixture
def controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Controller:
    made = Controller(tmp_path)
    # Where ansible looks for fragments of documentation, when it is not its own finder that has imported them.
    package = importlib.import_module("ansible_collections.nixfleet.builders.plugins.doc_fragments")
    directory = next(iter(package.__path__))
    monkeypatch.setattr(package, "__file__", f"{directory}/__init__.py")
    monkeypatch.setattr(build_request, "RealStores", lambda *arguments: made.world)
    monkeypatch.setattr(build_request, "read_bytes", made.world.read_file)
    monkeypatch.setattr(slots, "directory", lambda: str(tmp_path / "current-load"))
    return made


def test_what_is_missing_is_built_by_the_inventorys_builders(controller: Controller) -> None:
    low = drv("low")
    first, second = drv("first", [low], outputs=("out", "dev")), drv("second")
    paths = controller(second, first)
    assert paths == [second.out, first.outputs["dev"], first.out]
    assert sorted(controller.world.built) == sorted(each.path for each in (low, first, second))
    assert set(paths) <= controller.world.here.valid.keys()
    opened = [host.opened for host in controller.world.hosts.values()]
    assert controller(second, f"{first.path}!dev") == [second.out, first.outputs["dev"]]
    assert [host.opened for host in controller.world.hosts.values()] == opened


@pytest.mark.parametrize(
    ("options", "call"),
    [
        ({"file": "/", "attributes": ["a"]}, "nix-instantiate / --attr a"),
        ({"file": "mine.nix"}, "nix-instantiate {root}/mine.nix"),
        ({"expression": "import ./x"}, "nix-instantiate --expr import ./x"),
        (
            {"installables": ["/p#a"]},
            "nix --extra-experimental-features nix-command path-info --derivation "
            "--extra-experimental-features flakes --no-write-lock-file /p#a",
        ),
    ],
)
def test_what_is_wanted(controller: Controller, options: dict[str, t.Any], call: str) -> None:
    (controller.root / "mine.nix").touch()
    made = drv("made")
    controller.world.know([made])
    controller.answer = made.path + "\n"
    assert controller(**options) == [made.out]
    assert controller.calls == [call.format(root=controller.root)]


def test_a_file_among_the_others_of_the_play(controller: Controller) -> None:
    (controller.root / "files").mkdir()
    file = controller.root / "files/mine.nix"
    file.touch()
    made = drv("made")
    controller.world.know([made])
    controller.answer = made.path
    assert controller(file="mine.nix") == [made.out] and controller.calls == [f"nix-instantiate {file}"]


def test_other_builders(controller: Controller) -> None:
    controller.variables = {"groups": {"all": []}, "hostvars": {}}
    first, second, third = drv("first"), drv("second"), drv("third")
    controller(first, builders=[{"uri": "ssh-ng://b2", "systems": ["x86_64-linux"]}])
    assert controller.world.hosts["b2"].built == [first.path]
    file = controller.root / "machines"
    file.write_text("ssh-ng://b1 x86_64-linux\n")
    controller(second, builders_file=str(file))
    assert controller.world.hosts["b1"].built == [second.path]
    controller(third, local_jobs=1)
    assert controller.world.here.built == [third.path]


def test_the_key_of_the_controller(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[str] = []
    played = controller.world.machine

    def machine(each: Machine) -> t.Any:
        keys.append(each.ssh_key)
        return played(each)

    monkeypatch.setattr(controller.world, "machine", machine)
    controller(drv("made"), ssh_key="/root/.ssh/mine")
    assert keys == ["/root/.ssh/mine"] * 2


def test_links(controller: Controller) -> None:
    made = drv("made")
    link = controller.root / "result"
    link.write_text("mine")
    with pytest.raises(AnsibleError, match="result is there and is no symbolic link"):
        controller(made, out_link=str(link))
    assert not controller.world.built
    link.unlink()
    for _each in range(2):
        controller(made, out_link=str(link))
        assert os.readlink(link) == made.out and controller.world.here.roots == [str(link)]


def test_what_is_built_is_shown(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(Display, "display", lambda self, text, *_rest, **_options: lines.append(text))
    made = drv("made")
    controller(made)
    assert lines[0] == "  1 to build, 0 to substitute" and lines[1].startswith("  [1/1] built made on b")
    del lines[:]
    controller(made)
    assert lines == []


# ---------------------------------------------------------------------------------------------------- failures


def test_a_failed_build(controller: Controller) -> None:
    with pytest.raises(AnsibleError) as caught:
        controller(drv("top", [drv("bad", fails=True)]))
    first, second = caught.value.message.splitlines()
    assert first.startswith("nixfleet.builders.build: on the controller: 1 of 2 derivations failed, 1 were not built")
    assert second.startswith("bad on b") and "exit code 1" in second


def test_no_builder(controller: Controller) -> None:
    variables = controller.variables
    controller.variables = {"groups": {"all": []}, "hostvars": {}}
    with pytest.raises(AnsibleError, match="No machine takes made"):
        controller(drv("made"))
    controller.variables = variables
    for host in controller.world.hosts.values():
        host.up = False
    with pytest.raises(AnsibleError, match="no route to host"):
        controller(drv("made"), connect_timeout=1)


@pytest.mark.parametrize(
    ("terms", "options", "message"),
    [
        ((), {}, "on the controller: nothing is given; name .drv files, or set one of"),
        ((store_path("a") + ".drv",), {"file": "/"}, "derivations and file is given"),
        ((), {"expression": "x", "installables": ["x"]}, "expression and installables is given"),
        ((), {"file": "/gone"}, "file /gone is not there"),
        ((), {"file": "/", "builders": [], "builders_file": "x"}, "leave out one"),
        ((), {"file": "/", "build_timeout": -1}, "build_timeout is -1"),
        ((), {"file": "/", "nix_bin_dir": "/nowhere"}, "there is no nix-store in /nowhere"),
        (("hello",), {}, "'hello' is no derivation"),
        ((store_path("gone") + ".drv",), {}, "not in the store of this host"),
    ],
)
def test_bad_options(controller: Controller, terms: t.Any, options: dict[str, t.Any], message: str) -> None:
    with pytest.raises(AnsibleError, match="nixfleet.builders.build: on the controller: ") as caught:
        controller(*terms, **options)
    assert message in caught.value.message


def test_a_builder_that_has_published_nothing(controller: Controller) -> None:
    controller.variables["hostvars"]["b2"] = {}
    with pytest.raises(AnsibleError, match="builder b2 has published nothing"):
        controller(drv("made"))


def test_without_paramiko(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*arguments: t.Any) -> t.NoReturn:
        raise ssh.ParamikoMissing("No module named 'paramiko'")

    monkeypatch.setattr(controller.world, "machine", missing)
    with pytest.raises(AnsibleError, match="paramiko is needed .*; install it for the Python that runs Ansible"):
        controller(drv("made"))
