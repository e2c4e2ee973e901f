#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Builds derivations on the fleet."""

from __future__ import annotations

DOCUMENTATION = r"""
module: dispatch
short_description: Builds derivations on the builders that may take them
version_added: 0.1.0
author:
  - nixfleet.builders contributors (@nixfleet)
description:
  - Builds what is missing of the wanted derivations, each on a builder that has its system and features, many at a
    time, and brings the wanted outputs to the client. What the client's substituters have is fetched, not built.
  - It does so beside Nix's own build hook, sharing its slots, but keeps one connection to each builder, gives each
    derivation to the builder that ends it first, and moves inputs straight to where they are needed.
  - A builder that cannot be reached, is cut off or fails is left alone for a growing time, and others do its work. A
    build that fails by itself is never tried elsewhere.
  - A derivation that no builder can ever take is reported before anything is built, with the reason for each builder.
  - While it runs, the task shows what is built where.
  - Derivations whose output paths are known beforehand are built (input-addressed and fixed-output ones); others are
    refused by name before anything runs.
  - Whatever ends the task, no lock is held afterwards, builders stop, and what is built already is found by the next
    run.
options:
  derivations:
    description:
      - Paths of C(.drv) files on the host, or links to them.
      - All outputs are wanted, or those named like V(/nix/store/…-hello.drv!out,dev).
    type: list
    elements: str
  file:
    description: A file, or a directory with a C(default.nix), which C(nix-instantiate) evaluates.
    type: path
  builders:
    description:
      - The machines that build, as the dicts of lookup P(nixfleet.builders.machines#lookup).
      - When neither this nor O(builders_file) is set, the machines that the host's Nix is configured with (its setting
        C(builders)).
    type: list
    elements: dict
  keep_going:
    description:
      - Whether what does not depend on a failed build is built nevertheless.
      - With V(false) the first failure ends the other builds, as it does in Nix.
    type: bool
    default: false
  copy_results:
    description:
      - Where the wanted outputs go, with all that they refer to; V(client) is the store of the host.
      - With V(none) they stay on the builders that built them. Any other value is the URI of a store, like
        V(ssh-ng://nixremote@cache).
      - O(out_link) needs V(client).
    type: str
    default: client
  report:
    description:
      - Where to write a page (HTML) that shows what was built where and when, and what took the time.
      - A run that has nothing to do leaves a page that is there already as it is.
    type: path
  trace:
    description: Where to write the same as a trace for the browser's C(chrome://tracing), likewise.
    type: path
  progress:
    description:
      - A file to which news is appended while the task runs, one JSON object in a line.
      - The task's own display uses it; there is no need to set it.
    type: path
extends_documentation_fragment:
  - nixfleet.builders.build
  - nixfleet.builders.nix
  - nixfleet.builders.attributes
  - nixfleet.builders.attributes.actiongroup_builders
attributes:
  check_mode:
    details: Returns RV(plan). What is built already on builders only is not known then.
notes:
  - Run it as root (C(become)), so that slots are shared with Nix's own builds, and the keys of Nix's daemon are used.
    Other users need an account that the builders know, and share no slots.
  - Builders over ssh are reached as ssh_config says. A certificate is offered where there is one (C(KEY-cert.pub), or
    C(CertificateFile)). C(KnownHostsCommand), host certificates and security keys (but by an agent) are not used.
  - Where Nix suspects that a build failed because the builder's disk is full, the build counts as V(lost).
seealso:
  - module: nixfleet.builders.store_copy
  - plugin: nixfleet.builders.build
    plugin_type: lookup
  - plugin: nixfleet.builders.route
    plugin_type: lookup
"""

EXAMPLES = r"""
- name: Build on all builders that this host's Nix knows
  nixfleet.builders.dispatch:
    file: /srv/project/default.nix
    attributes: [world]
    out_link: /srv/project/result
  become: true

- name: Build on some machines, carry on after failures, and see where the time went
  nixfleet.builders.dispatch:
    derivations: "{{ drvs }}"
    builders: "{{ lookup('nixfleet.builders.machines', wantlist=true) }}"
    keep_going: true
    build_timeout: 3600
    report: /srv/reports/night.html
  become: true
  register: night

- name: Leave the results in another store
  nixfleet.builders.dispatch:
    installables: ["/srv/project#packages.x86_64-linux.default"]
    copy_results: ssh-ng://nixremote@cache
  become: true
"""

RETURN = r"""
paths:
  description: The paths of all wanted outputs.
  returned: always
  type: list
  elements: str
  sample: [/nix/store/5wbhmwn9q94syv39gwnhfylbx43ah2zb-hello]
outputs:
  description: The paths of the wanted outputs by output, by derivation.
  returned: always
  type: dict
  sample:
    /nix/store/1lxbbh9zd697xyd519j7dyzq36l45fw1-hello.drv:
      out: /nix/store/5wbhmwn9q94syv39gwnhfylbx43ah2zb-hello
plan:
  description: What is to be built, inputs first, each with the machines that may take it, the first choice first.
  returned: in check mode
  type: list
  elements: dict
  sample:
    - derivation: /nix/store/1lxbbh9zd697xyd519j7dyzq36l45fw1-hello.drv
      name: hello
      system: x86_64-linux
      features: []
      outputs: {out: /nix/store/5wbhmwn9q94syv39gwnhfylbx43ah2zb-hello}
      machines: [b1, b2]
substituted:
  description: The wanted paths that are fetched from the host's substituters, in check mode those that would be.
  returned: always
  type: list
  elements: str
  sample: []
derivations:
  description: What became of each derivation that was missing.
  returned: when not in check mode
  type: list
  elements: dict
  contains:
    derivation:
      description: The path of its C(.drv) file.
      type: str
    name:
      description: Its name.
      type: str
    status:
      description: How it ended.
      type: str
      choices: [built, failed, cancelled]
    found:
      description: Whether it was found on a builder, so that nothing had to be built.
      type: bool
    builder:
      description: Where it ended, V(null) where it did not start or was found.
      type: str
    start:
      description: When the last attempt began, in seconds since 1970, V(null) where there was none.
      type: float
    stop:
      description: When the last attempt ended, likewise.
      type: float
    attempts:
      description:
        - All attempts, each with C(builder), C(start), C(stop), C(reason), and C(outcome), which is V(built),
          V(failed), V(lost) (the builder failed, or did not take an input) or V(returned) (it was not to blame, as
          an input was missing or another builder turned out to have the outputs).
      type: list
      elements: dict
    outputs:
      description: The path of each output.
      type: dict
    error:
      description: Why it was not built.
      type: str
    log:
      description: The last lines of its log.
      type: list
      elements: str
failures:
  description: The derivations that failed themselves, as in RV(derivations).
  returned: when not in check mode
  type: list
  elements: dict
builders:
  description: What each builder did, and the host itself where it may build.
  returned: when not in check mode
  type: list
  elements: dict
  contains:
    builder:
      description: Its name.
      type: str
    uri:
      description: Its URI.
      type: str
    built:
      description: How many builds it did.
      type: int
    failed:
      description: How many builds failed there by themselves.
      type: int
    lost:
      description: How many builds were lost because it failed.
      type: int
    busy_seconds:
      description: The sum of the seconds in which its slots were in use.
      type: float
    bytes_in:
      description: Bytes that came from there.
      type: int
    bytes_out:
      description: Bytes that went there.
      type: int
    nix_version:
      description: The version of its Nix, empty where it did not answer.
      type: str
    trouble:
      description: Why it was of no use at the end, empty where it was.
      type: str
    load:
      description:
        - What its load probe said last, V(null) where it has none; a part that is not known is V(null), too.
        - C(load_average) is of the last minute, C(pressure) the percentage of the last ten seconds in which something
          waited for a CPU, C(free_memory) and C(free_disk) are bytes.
      type: dict
      sample: {load_average: 0.5, cpus: 8, pressure: 1.5, free_memory: 8123456789, free_disk: 98123456789}
copied_bytes:
  description: The size of the wanted outputs that were copied, with what they refer to.
  returned: when not in check mode
  type: int
  sample: 5120
seconds:
  description: How long it took.
  returned: always
  type: float
  sample: 1.25
"""

import contextlib
import json
import os
import select
import signal
import tempfile
import threading
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.nixfleet.builders.plugins.module_utils import (
    build_request,
    build_result,
    dispatch,
    out_links,
)
from ansible_collections.nixfleet.builders.plugins.module_utils import plan as planning
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import Nix
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh import ParamikoMissing, load_early


def end_with_caller(progress_file: str | None) -> None:
    """Ends this process as soon as nobody reads its result any more: on Ctrl-C Ansible only closes the connection."""

    def watch() -> None:
        poll = select.poll()
        poll.register(1, 0)
        poll.poll()
        if progress_file:
            with contextlib.suppress(OSError):
                os.unlink(progress_file)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="caller", daemon=True).start()


def progress(path: str | None) -> t.Callable[[dispatch.Event], None]:
    """What writes news for who watches."""
    if not path:
        return lambda event: None
    # Open until the process ends.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(event: dispatch.Event) -> None:
        os.write(descriptor, (json.dumps(event._asdict()) + "\n").encode())

    return write


def difference(built: t.Iterable[str]) -> dict[str, str]:
    """What diff mode shows: the derivations that were built."""
    return {"before": "", "after": "".join(f"{path}\n" for path in built)}


def write_reports(module: AnsibleModule, found: dispatch.Run, request: dispatch.Request, start: float) -> None:
    """The files that were asked for. One that is there tells more than a run that had nothing to do. Raises OSError."""
    idle = not found.plan.tasks and not found.delivered
    files = [module.params[name] for name in ("report", "trace")]
    page, trace = (None if path and idle and os.path.exists(path) else path for path in files)
    if not (page or trace):
        return
    # Seldom needed, and long: Python compiles what Ansible sends each time.
    from ansible_collections.nixfleet.builders.plugins.module_utils import (
        report,
        report_page,
        run_report,
    )

    shown = ("policy", "keep_going", "max_attempts", "build_timeout", "copy_results")
    began = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(start))
    told_run = run_report.as_report(found, request, began, {name: module.params[name] for name in shown})
    if page:
        write_file(module, page, report_page.as_html(told_run))
    if trace:
        write_file(module, trace, json.dumps(report.as_trace(told_run)))


def write_file(module: AnsibleModule, path: str, text: str) -> None:
    """Replaces a file at once."""
    descriptor, new = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    if not os.path.exists(path):
        # As other programs would make it.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(new, 0o666 & ~mask)
    module.atomic_move(new, path)


def run(module: AnsibleModule) -> None:
    """Does it, and ends the module. Raises build_request.ERRORS, OSError, ValueError."""
    params = module.params
    start = time.time()
    nix = Nix(module.run_command, params["nix_bin_dir"])
    if not module.check_mode:
        load_early()
    settings = nix.settings()
    request = build_request.make_request(params, nix, settings)
    stores = build_request.make_stores(params, nix, settings, request)
    if module.check_mode:
        plan = dispatch.make_plan(request, stores, build_request.read_bytes)
        links = build_request.links(params, plan)
        result = build_result.wanted(plan)
        result["changed"] = bool(plan.tasks or result["substituted"] or out_links.differing(links))
        result["plan"] = planning.describe(plan, dispatch.candidates(request), request.client.system)
        result["diff"] = difference(plan.tasks)
        module.exit_json(seconds=round(time.time() - start, 3), **result)
    end_with_caller(params["progress"])
    found = dispatch.run(
        request,
        stores,
        build_request.read_bytes,
        time.time,
        progress(params["progress"]),
        lambda plan: build_request.links(params, plan),
    )
    result = {**build_result.wanted(found.plan), **build_result.summary(found), "changed": found.changed}
    write_reports(module, found, request, start)
    result["diff"] = difference(
        path for path, record in found.records.items() if any(each.outcome == "built" for each in record.attempts)
    )
    if not found.success:
        module.fail_json(msg=build_result.complaint(result), **result)
    if build_request.make_links(stores, build_request.links(params, found.plan)):
        result["changed"] = True
    module.exit_json(**result)


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "derivations": {"type": "list", "elements": "str"},
            "file": {"type": "path"},
            "expression": {"type": "str"},
            "attributes": {"type": "list", "elements": "str", "default": []},
            "installables": {"type": "list", "elements": "str"},
            "builders": {"type": "list", "elements": "dict"},
            "builders_file": {"type": "path"},
            "local_jobs": {"type": "int"},
            "policy": {"type": "str", "choices": ["load", "nix"], "default": "load"},
            "keep_going": {"type": "bool", "default": False},
            "copy_results": {"type": "str", "default": "client"},
            "out_link": {"type": "path"},
            "max_attempts": {"type": "int", "default": 3},
            "connect_timeout": {"type": "int", "default": 20},
            "build_timeout": {"type": "int", "default": 0},
            "builders_use_substitutes": {"type": "bool"},
            "report": {"type": "path"},
            "trace": {"type": "path"},
            "progress": {"type": "path"},
            "nix_bin_dir": {"type": "path"},
        },
        mutually_exclusive=[build_request.WANTED, ("builders", "builders_file")],
        required_one_of=[build_request.WANTED],
        supports_check_mode=True,
    )
    try:
        build_request.check(module.params)
        for option in ("report", "trace"):
            build_request.check_directory(module.params, option)
        run(module)
    except ParamikoMissing as error:
        module.fail_json(
            msg=missing_required_lib("paramiko", reason="to reach builders over ssh"), exception=error.reason
        )
    except (OSError, ValueError, *build_request.ERRORS) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
