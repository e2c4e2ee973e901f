# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From what a user names to derivations: .drv paths, a file's attributes, an expression, flake installables."""

from __future__ import annotations

import os
import re
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import Nix

#: Wanted outputs by .drv path; none named: all of them.
Roots = dict[str, tuple[str, ...]]

_DERIVATION = re.compile(r"(/[^!^]+/[0-9a-df-np-sv-z]{32}-[0-9a-zA-Z+._?=-]+\.drv)(?:[!^](\*|[^!^*,]+(?:,[^!^*,]+)*))?")
#: Flake installables need it, whatever the configuration says. Check mode is not to write a lock file.
_FLAKES = ("--extra-experimental-features", "flakes", "--no-write-lock-file")


class NoDerivation(ValueError):
    """What is named is no derivation. The text says what to write."""


def parse(texts: t.Iterable[str]) -> Roots:
    """C(PATH.drv), C(PATH.drv!out,dev) or C(PATH.drv^out,dev); links are followed. Raises NoDerivation."""
    roots: dict[str, set[str] | None] = {}
    for text in texts:
        path = os.path.realpath(text) if os.path.islink(text) else text
        found = _DERIVATION.fullmatch(path)
        if not found:
            raise NoDerivation(f"{text!r} is no derivation; write the path of a .drv file, or PATH!out,dev")
        drv, names = found.groups()
        known = roots.setdefault(drv, set())
        if names in (None, "*"):
            roots[drv] = None
        elif known is not None:
            known.update(names.split(","))
    return {drv: tuple(sorted(names or ())) for drv, names in roots.items()}


def instantiate(
    nix: Nix, file: str | None, attributes: t.Sequence[str], expression: str | None, arguments: t.Sequence[str] = ()
) -> Roots:
    """The derivations of a file or an expression, of these attributes of it, each with the output that nix-build takes.

    Raises NixError, NoDerivation.
    """
    source = ["--expr", expression] if expression is not None else [file or "."]
    chosen = [word for attribute in attributes for word in ("--attr", attribute)]
    found = nix.run("nix-instantiate", *source, *chosen, *arguments).split()
    # nix-instantiate.cc leaves out the name of an output that is called out.
    return parse(f"{each}!out" if each.endswith(".drv") else each for each in found)


def installables(nix: Nix, names: t.Sequence[str]) -> Roots:
    """The derivations of flakes; all outputs, or those in C(NAME^out,dev). Raises NixError, NoDerivation."""
    wanted: dict[str, list[str]] = {}
    for name in names:
        flake, _mark, outputs = name.partition("^")
        found = nix.run("nix", "path-info", "--derivation", *_FLAKES, flake).split()
        for drv in found:
            wanted.setdefault(drv.partition("!")[0].partition("^")[0], []).append(outputs or "*")
    return parse(f"{drv}!{output}" for drv, outputs in wanted.items() for output in outputs)
