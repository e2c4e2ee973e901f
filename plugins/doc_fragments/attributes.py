# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What every module of the collection says of itself."""

from __future__ import annotations


class ModuleDocFragment:
    """C(attributes), the C(info) variant for modules that only read, and the action group."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in check mode and returns the changed status it would have had.
    support: full
  diff_mode:
    description: Returns what it changes, or would change, when C(--diff) is given. Never a secret.
    support: full
  idempotent:
    description: Running it twice in a row, with nothing in between, changes nothing the second time.
    support: full
  platform:
    description: The systems on which it runs.
    support: full
    platforms: posix
"""

    INFO = r"""
options: {}
attributes:
  check_mode:
    description: Can run in check mode, where it does the same, as it changes nothing.
    support: full
  diff_mode:
    description: Returns what it changes when C(--diff) is given.
    support: N/A
    details: This module changes nothing.
  idempotent:
    description: Running it twice in a row, with nothing in between, changes nothing.
    support: full
  platform:
    description: The systems on which it runs.
    support: full
    platforms: posix
"""

    ACTIONGROUP_BUILDERS = r"""
options: {}
attributes:
  action_group:
    description: Use C(group/nixfleet.builders.builders) in C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - nixfleet.builders.builders
"""
