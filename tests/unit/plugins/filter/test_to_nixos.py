# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter to_nixos: its examples and its errors."""

from __future__ import annotations

import typing as t

import jinja2
import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.nixfleet.builders.plugins.filter import to_nixos
from ansible_collections.nixfleet.builders.plugins.module_utils import nixos


@pytest.mark.parametrize("task", yaml.safe_load(to_nixos.EXAMPLES), ids=lambda task: str(task["name"]))
def test_the_examples_are_rendered(task: dict[str, t.Any]) -> None:
    templates = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
    for name, function in to_nixos.FilterModule().filters().items():
        templates.filters[f"nixfleet.builders.{name}"] = function
    (side,) = task["vars"]
    text = templates.from_string(task["ansible.builtin.copy"]["content"]).render(task["vars"])
    assert text == {"builder": nixos.builder, "client": nixos.client}[side](task["vars"][side])


def test_what_is_said_of_the_keys_is_so() -> None:
    """The documentation names each key."""
    documented = yaml.safe_load(to_nixos.DOCUMENTATION)["options"]["_input"]["description"]
    of_builder, of_client, of_both = (
        next(text for text in documented if text.startswith(f"Of {who}")) for who in ("a b", "a c", "both")
    )
    for fields, text in ((nixos.BUILDER, of_builder), (nixos.CLIENT, of_client), (nixos.GATE_KEYS, of_builder)):
        assert [key for key in fields if f"C({key})" not in text + of_both] == []


def test_a_module_that_says_nothing() -> None:
    assert to_nixos.to_nixos({}, "absent") == nixos.absent()


@pytest.mark.parametrize(
    ("given", "side", "reason"),
    [
        ({}, "host", "'host' is none of builder, client, absent"),
        ({"user": "root"}, "builder", "nixfleet.builders.to_nixos: user is root"),
        ("builder1", "client", "'builder1' is no dict"),
    ],
)
def test_errors(given: t.Any, side: str, reason: str) -> None:
    with pytest.raises(AnsibleFilterError, match=reason):
        to_nixos.to_nixos(given, side)
