# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules of this repository that no linter knows."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
PLUGINS = sorted(
    path.relative_to(ROOT)
    for path in (ROOT / "plugins").rglob("*.py")
    if path.name != "__init__.py" and path.parent.name != "doc_fragments"
)

# Put together here, so that this file does not name them either.
REGISTRIES = re.compile(
    "|".join(
        re.escape(".".join(parts))
        for parts in (
            ("pypi", "org"),
            ("pythonhosted", "org"),
            ("npmjs", "org"),
            ("npmjs", "com"),
            ("debian", "org/debian"),
            ("deb", "debian", "org"),
            ("security", "debian", "org"),
            ("snapshot", "debian", "org"),
            ("archive", "ubuntu", "com"),
            ("galaxy", "ansible", "com"),
            ("proxy", "golang", "org"),
            ("crates", "io"),
        )
    )
)


def tracked() -> list[Path]:
    """Every file that is, or could be, committed."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def load(path: Path) -> dict:
    """A YAML file that may be missing or empty."""
    return yaml.safe_load(path.read_text()) or {} if path.exists() else {}


@pytest.mark.parametrize("role", ROLES)
def test_role_defaults_equal_argument_specs(role: str) -> None:
    """Key for key, and value for value; a variable that is not set has no default in the specification."""
    options = load(ROOT / "roles" / role / "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    defaults = load(ROOT / "roles" / role / "defaults/main.yml")
    assert defaults == {name: option.get("default") for name, option in options.items()}
    assert [name for name in options if not name.startswith(f"{role}_")] == []


@pytest.mark.parametrize("plugin", PLUGINS, ids=str)
def test_plugin_has_tests_at_its_mirrored_path(plugin: Path) -> None:
    """plugins/modules/x.py is tested by tests/unit/plugins/modules/test_x.py."""
    assert (ROOT / "tests/unit" / plugin.parent / f"test_{plugin.name}").is_file()


def test_action_group_names_every_module() -> None:
    """So that module_defaults for the group reach all of them."""
    group = load(ROOT / "meta/runtime.yml")["action_groups"]["builders"]
    assert group == sorted(path.stem for path in PLUGINS if path.parent.name == "modules")


def test_every_scenario_is_run() -> None:
    """Also the one that was added last."""
    listed = re.findall(r"^SCENARIOS=\((.*)\)$", (ROOT / "extensions/molecule/run").read_text(), re.MULTILINE)
    scenarios = sorted(path.parent.name for path in (ROOT / "extensions/molecule").glob("*/molecule.yml"))
    assert sorted(" ".join(listed).split()) == scenarios


def test_no_file_names_a_package_registry() -> None:
    """Which registries are used is the business of the machine that installs."""
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if REGISTRIES.search(line)
    ]
    assert found == []


def test_files_on_hosts_begin_with_the_same_words() -> None:
    """Those that a module writes, and the roles' templates."""
    paths = [path for path in tracked() if path.relative_to(ROOT).parts[0] in ("plugins", "roles")]
    text = "".join(path.read_text() for path in paths)
    assert len(set(re.findall(r"Written by the Ansible collection[^\n\"\\]*", text))) == 1


def test_links_in_pages_lead_somewhere() -> None:
    """Relative links of Markdown pages."""
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in tracked()
        if page.suffix == ".md"
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)", page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert broken == []


def test_every_requirement_is_pinned() -> None:
    """With ==, and the same version in every file."""
    versions: dict[str, set[str]] = {}
    for path in (ROOT / "requirements").glob("*.txt"):
        for line in path.read_text().splitlines():
            if line and not line.startswith("#"):
                name, separator, version = line.partition("==")
                assert separator and version, f"{path.name}: {line}"
                versions.setdefault(name.lower(), set()).add(version)
    del versions["ansible-core"]
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_variables_in_pages_are_those_of_the_roles() -> None:
    """What a page tells people to set, or a fact or a variable that the collection itself sets."""
    specs = [load(ROOT / "roles" / role / "meta/argument_specs.yml")["argument_specs"] for role in ROLES]
    known = {name for spec in specs for entry in spec.values() for name in entry["options"]}
    known |= {"nix_builder_fact", "nix_client_fact", "nix_builder_machine"}
    unknown = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
        for name in sorted(set(re.findall(rf"\b(?:{'|'.join(ROLES)})_[a-z_]+", page.read_text())) - known)
    ]
    assert unknown == []
