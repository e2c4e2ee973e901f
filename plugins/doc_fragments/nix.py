# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The option of every module that runs Nix."""

from __future__ import annotations


class ModuleDocFragment:
    """Option C(nix_bin_dir); as C(nix.wrapper) those for a Nix that only another program can start."""

    DOCUMENTATION = r"""
options:
  nix_bin_dir:
    description:
      - The directory of Nix's programs on the host.
      - When it is not set, the first that has a C(nix-store) is taken out of
        C(/nix/var/nix/profiles/default/bin), C(/run/current-system/sw/bin), C(/usr/local/bin) and C(/usr/bin), and
        where an ordinary user owns C(/nix), out of that user's profile.
    type: path
    version_added: 0.1.0
requirements:
  - Nix 2.8 or newer on the host
notes:
  - Where an ordinary user owns C(/nix) (a single-user installation), root calls Nix as that user.
"""

    WRAPPER = r"""
options:
  nix_user:
    description:
      - The account that calls Nix, where the module runs as root.
      - When it is not set, the one that owns C(/nix).
    type: str
    version_added: 0.1.0
  nix_wrapper:
    description:
      - Words that are put in front of Nix's command, for a Nix that only another program can start, such as one under
        nix-user-chroot or PRoot. The first is an absolute path. No shell reads them.
      - O(nix_bin_dir) is then where that program shows Nix. It has to show C(/etc), too.
    type: list
    elements: str
    default: []
    version_added: 0.1.0
"""
