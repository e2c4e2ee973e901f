# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of what has builds dispatched, which build_request.py reads."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of the module dispatch and the lookup build. The host is the client of the builders."""

    DOCUMENTATION = r"""
options:
  expression:
    description: A Nix expression, which C(nix-instantiate) evaluates.
    type: str
    version_added: 0.1.0
  attributes:
    description:
      - Which attributes of O(file) or O(expression) are wanted, like V(world) or V(hello.dev).
      - When there are none, all derivations that the expression gives are wanted.
      - As with C(nix-build), V(hello) is one output of a derivation, usually C(out).
    type: list
    elements: str
    default: []
    version_added: 0.1.0
  installables:
    description:
      - What is wanted of flakes, like V(/srv/project#hello), which is all outputs, or V(nixpkgs#hello^dev).
      - Lock files are not written.
    type: list
    elements: str
    version_added: 0.1.0
  builders_file:
    description: A machines file to read the builders from.
    type: path
    version_added: 0.1.0
  local_jobs:
    description:
      - How many builds the host itself may run at a time, beside the builders.
      - When it is not set, the C(max-jobs) of the host's Nix.
    type: int
    version_added: 0.1.0
  policy:
    description:
      - V(load) gives a derivation to the builder that should end it first, counting free slots, speed factor, how busy
        it really is where it says so, and the inputs that would have to be moved.
      - V(nix) chooses exactly as Nix 2.20 and newer does.
    type: str
    choices: [load, nix]
    default: load
    version_added: 0.1.0
  out_link:
    description:
      - A symbolic link to the result, which also keeps it from the garbage collector.
      - Further results and outputs get links named as C(nix-build) names them, like C(result-2) and C(result-dev).
      - What is in the place of a link and is none is left alone; that is told before anything is built.
    type: path
    version_added: 0.1.0
  max_attempts:
    description: How often a derivation is tried, on different builders if possible, when it is the builder that fails.
    type: int
    default: 3
    version_added: 0.1.0
  connect_timeout:
    description: After how many seconds an attempt to reach a builder is given up. The others go on meanwhile.
    type: int
    default: 20
    version_added: 0.1.0
  build_timeout:
    description: After how many seconds a single build is ended and counts as failed. V(0) means never.
    type: int
    default: 0
    version_added: 0.1.0
  builders_use_substitutes:
    description:
      - Whether builders fetch from their own substituters what they can, before inputs are copied to them.
      - When it is not set, as the host's Nix is configured (C(builders-use-substitutes)).
    type: bool
    version_added: 0.1.0
requirements:
  - The Python library paramiko, and OpenSSH's client, for builders over ssh
"""
