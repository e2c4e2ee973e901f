# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Derivations: the .drv files' text (ATerm), what they require of a machine, and the graph they make.

Pure. Texts are str; a byte that is no UTF-8 stands in them as its surrogate escape, so encode with "surrogateescape"
gives the very bytes back.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass


class Output(t.NamedTuple):
    """One output as Nix writes it, in the .drv file and in the protocols. What is not known or not fixed is empty.

    hash_algo: "sha256", "r:sha256", "text:sha256", "git:sha256"; hash: base 16, or "impure".
    """

    path: str
    hash_algo: str = ""
    hash: str = ""


@dataclass(frozen=True)
class BasicDerivation:
    """What BuildDerivation sends to a store: a derivation whose inputs are all paths. Its name is in the .drv's path.

    outputs, env: by name. input_srcs: full paths, sorted, each once.
    """

    outputs: t.Mapping[str, Output]
    input_srcs: tuple[str, ...]
    platform: str
    builder: str
    args: tuple[str, ...]
    env: t.Mapping[str, str]
