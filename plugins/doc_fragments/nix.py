# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The option of every module that runs Nix."""

from __future__ import annotations


class ModuleDocFragment:
    """Option C(nix_bin_dir)."""

    DOCUMENTATION = r"""
options:
  nix_bin_dir:
    description:
      - The directory of Nix's programs on the host.
      - When it is not set, the first that has a C(nix-store) is taken out of
        C(/nix/var/nix/profiles/default/bin), C(/run/current-system/sw/bin), C(/usr/local/bin) and C(/usr/bin).
    type: path
    version_added: 0.1.0
requirements:
  - Nix 2.8 or newer on the host
"""
