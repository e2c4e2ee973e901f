# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Links to results, named as nix-build names them, which keep them from the garbage collector."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils.store import Store


def names(link: str, wanted: t.Sequence[t.Mapping[str, str]]) -> dict[str, str]:
    """The path that each link leads to. wanted: for each derivation its outputs' paths by name.

    As nix-build: C(result), C(result-2) for the second derivation, C(result-dev) for an output other than C(out).
    """
    found = {}
    for number, outputs in enumerate(wanted, 1):
        base = link if number == 1 else f"{link}-{number}"
        for name, path in outputs.items():
            found[base if name == "out" else f"{base}-{name}"] = path
    return found


def differing(links: t.Mapping[str, str]) -> dict[str, str]:
    """Those that do not lead where they should."""
    return {link: path for link, path in links.items() if not (os.path.islink(link) and os.readlink(link) == path)}


def check(links: t.Iterable[str]) -> None:
    """Raises ValueError where something that is no link stands in the place of one, or its directory is not there."""
    for link in links:
        if os.path.lexists(link) and not os.path.islink(link):
            raise ValueError(f"{link} is there and is no symbolic link; it is left alone: name another out_link")
        if not os.path.isdir(os.path.dirname(link) or "."):
            raise ValueError(f"there is no directory {os.path.dirname(link)} for the link {link}; make it first")


def make(store: Store, links: t.Mapping[str, str]) -> None:
    """Makes the links, each at once, and roots of them. Raises OSError and what Store raises."""
    for link, path in links.items():
        new = f"{link}.tmp-{os.getpid()}"
        os.symlink(path, new)
        try:
            os.replace(new, link)
        except BaseException:
            os.unlink(new)
            raise
        store.add_indirect_root(os.path.abspath(link))
