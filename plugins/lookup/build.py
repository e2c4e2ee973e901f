# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lookup C(build)."""

from __future__ import annotations

DOCUMENTATION = r"""
name: build
short_description: Output paths of derivations, built on the fleet where they are not there yet
version_added: 0.1.0
author:
  - nixfleet.builders contributors (@nixfleet)
description:
  - Gives the paths of wanted outputs in the store of the controller. What is missing there is built first, as
    M(nixfleet.builders.dispatch) does it, with the controller as the client of the builders.
  - What is there already costs an evaluation, and no connection to any builder.
  - Ansible evaluates lookups in check mode too, and once for each use of a variable that is made of one; then the first
    use builds.
  - The paths are on the controller only; M(ansible.builtin.copy) brings what is in them to a host.
options:
  _terms:
    description:
      - Paths of C(.drv) files on the controller, or links to them.
      - All outputs are wanted, or those named like V(/nix/store/…-hello.drv!out,dev).
      - When there are none, one of O(file), O(expression) and O(installables) says what is wanted.
    type: list
    elements: str
  file:
    description:
      - A file, or a directory with a C(default.nix), which C(nix-instantiate) evaluates.
      - One that is not absolute is looked for as other files of the play or the role are, in C(files) first.
    type: str
  builders:
    description:
      - The machines that build, as the dicts of lookup P(nixfleet.builders.machines#lookup).
      - When neither this nor O(builders_file) is set, those of the inventory's builders, as that lookup gives them.
    type: list
    elements: dict
  ssh_key:
    description: The path of the controller's private key for the inventory's builders.
    type: str
extends_documentation_fragment:
  - nixfleet.builders.build
  - nixfleet.builders.nix
notes:
  - The host of the options is the controller.
  - The controller reaches a builder of the inventory under the builder's inventory name, as its configuration of ssh
    says, with a key that the builder's account takes. A controller that is one of the clients of the role
    P(nixfleet.builders.nix_client#role) has all of that, for root.
seealso:
  - module: nixfleet.builders.dispatch
  - plugin: nixfleet.builders.machines
    plugin_type: lookup
"""

EXAMPLES = r"""
- name: Install a program that the fleet has built
  ansible.builtin.copy:
    src: "{{ lookup('nixfleet.builders.build', file='tool.nix', attributes=['static']) }}/bin/tool"
    dest: /usr/local/bin/tool
    mode: "0755"

- name: Build derivations on the machines of the controller's own Nix
  ansible.builtin.debug:
    msg: "{{ query('nixfleet.builders.build', *drvs, builders_file='/etc/nix/machines', build_timeout=3600) }}"

- name: Keep the result from the garbage collector
  ansible.builtin.set_fact:
    site: "{{ lookup('nixfleet.builders.build', installables=['/srv/site#html'], out_link='/srv/site-result') }}"
"""

RETURN = r"""
_raw:
  description: The paths of all wanted outputs, in the order in which they were asked for.
  type: list
  elements: str
  sample: [/nix/store/5wbhmwn9q94syv39gwnhfylbx43ah2zb-hello]
"""

import threading
import time
import typing as t

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase
from ansible.utils.display import Display
from ansible_collections.nixfleet.builders.plugins.module_utils import build_request, build_result, dispatch
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import Nix
from ansible_collections.nixfleet.builders.plugins.module_utils.progress import Progress
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh import ParamikoMissing, load_early
from ansible_collections.nixfleet.builders.plugins.plugin_utils.inventory_machines import (
    InventoryError,
    inventory_machines,
)
from ansible_collections.nixfleet.builders.plugins.plugin_utils.run_command import run_command

#: Seconds between two looks at the news.
INTERVAL = 1.0

display = Display()


class LookupModule(LookupBase):  # type: ignore[misc]
    """See DOCUMENTATION."""

    def run(self, terms: list[str], variables: t.Any = None, **kwargs: t.Any) -> list[str]:
        self.set_options(var_options=variables, direct=kwargs)
        try:
            return self._built(self._params([str(term) for term in terms], variables))
        except ParamikoMissing as error:
            reason = f"{error}; install it for the Python that runs Ansible"
        except (InventoryError, OSError, ValueError, *build_request.ERRORS) as error:
            reason = str(error)
        raise AnsibleError(f"nixfleet.builders.build: on the controller: {reason}")

    def _params(self, terms: list[str], variables: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        """What build_request takes. Raises ValueError, InventoryError."""
        params = {**self.get_options(), "derivations": terms or None, "keep_going": False}
        params["copy_results"] = dispatch.TO_CLIENT
        named = [option for option in build_request.WANTED if params[option] is not None]
        if len(named) != 1:
            raise ValueError(
                f"{' and '.join(named) or 'nothing'} is given; name .drv files, or set one of file, expression and "
                "installables"
            )
        if params["builders"] is not None and params["builders_file"]:
            raise ValueError("builders and builders_file are given; leave out one")
        build_request.check(params)
        if params["file"] is not None:
            found = self.find_file_in_search_path(variables, "files", params["file"], ignore_missing=True)
            if found is None:
                raise ValueError(f"file {params['file']} is not there; name one of the controller's")
            params["file"] = found
        if params["builders"] is None and not params["builders_file"]:
            machines = [machine.to_dict() for machine in inventory_machines(self, variables)]
            key = {"ssh_key": params["ssh_key"]} if params["ssh_key"] else {}
            params["builders"] = [{**machine, **key} for machine in machines]
        return params

    def _built(self, params: t.Mapping[str, t.Any]) -> list[str]:
        nix = Nix(run_command, params["nix_bin_dir"])
        load_early()
        settings = nix.settings()
        request = build_request.make_request(params, nix, settings)
        stores = build_request.make_stores(params, nix, settings, request)
        shown = _Shown()
        try:
            found = dispatch.run(
                request,
                stores,
                build_request.read_bytes,
                time.time,
                shown.add,
                lambda plan: build_request.links(params, plan),
            )
        finally:
            shown.end()
        if not found.success:
            raise ValueError(build_result.complaint(build_result.summary(found)))
        build_request.make_links(stores, build_request.links(params, found.plan))
        return found.plan.wanted_paths


class _Shown:
    """Shows news every now and then, in a thread."""

    def __init__(self) -> None:
        self._progress = Progress(display.verbosity > 1)
        self._news: list[dict[str, t.Any]] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="build progress", daemon=True)
        self._thread.start()

    def add(self, event: dispatch.Event) -> None:
        self._news.append(event._asdict())

    def end(self) -> None:
        self._ending.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._ending.wait(INTERVAL):
            self._look()
        self._look()

    def _look(self) -> None:
        news, self._news = self._news, []
        for line in self._progress.lines(news, time.monotonic()):
            display.display(f"  {line}")
