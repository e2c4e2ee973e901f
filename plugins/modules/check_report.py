#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action plugin check_report."""

from __future__ import annotations

DOCUMENTATION = r"""
module: check_report
short_description: Shows what clients have found out about their builders, and writes it to files
version_added: 0.1.0
author:
  - nixfleet.builders contributors (@nixfleet)
description:
  - Prints a table with a row for each client and builder, then what failed and what mends it, in lines of at most 100
    columns.
  - Writes the same as JSON, and as JUnit's XML for CI servers. Both files are written whole or not at all.
  - It is an action plugin. All of it happens on the controller, and no connection is made.
options:
  results:
    description:
      - For each client, by name, what M(nixfleet.builders.builder_checks) has returned there.
      - One without C(builders) in it is shown as failed or, with C(unreachable), as unreachable, with its C(msg).
    type: dict
    required: true
  unreachable:
    description: Hosts that Ansible has not reached otherwise, by name, each with the message.
    type: dict
    default: {}
  path:
    description:
      - Where the report is written on the controller.
      - A path that ends in C(.json) or C(.xml) is that one file. Any other is a directory, made where it is missing,
        that gets C(verify.json) and C(verify.xml).
      - Also written in check mode, as it is the result of the run.
    type: path
extends_documentation_fragment:
  - nixfleet.builders.attributes.info
  - nixfleet.builders.attributes.actiongroup_builders
attributes:
  action:
    description: Has an action plugin, which does everything.
    support: full
  diff_mode:
    support: N/A
    details: The report is not a state that is kept.
seealso:
  - module: nixfleet.builders.builder_checks
"""

EXAMPLES = r"""
- name: Ask
  nixfleet.builders.builder_checks:
    builders: "{{ nix_client_fact.builders }}"
    fail: false
  become: true
  register: found

- name: Show what was found, and keep it for CI
  nixfleet.builders.check_report:
    results: "{{ {inventory_hostname: found} }}"
    path: report
"""

RETURN = r"""
passed:
  description: Whether no check has failed and no host was unreachable.
  returned: always
  type: bool
failures:
  description: What failed and what mends it, as one text for each host, which a following task can fail with.
  returned: always
  type: dict
  contains:
    clients:
      description: By client, what it found out about its builders.
      type: dict
    builders:
      description: By builder, what clients found out about it.
      type: dict
files:
  description: The files that were written.
  returned: always
  type: list
  elements: str
  sample: [/home/me/report/verify.json, /home/me/report/verify.xml]
"""
