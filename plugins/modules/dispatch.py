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
  expression:
    description: A Nix expression, which C(nix-instantiate) evaluates.
    type: str
  attributes:
    description:
      - Which attributes of O(file) or O(expression) are wanted, like V(world) or V(hello.dev).
      - When there are none, all derivations that the expression gives are wanted.
    type: list
    elements: str
    default: []
  installables:
    description: What is wanted of flakes, like V(.#hello) or V(nixpkgs#hello^dev).
    type: list
    elements: str
  builders:
    description:
      - The machines that build, as the dicts of lookup P(nixfleet.builders.machines#lookup).
      - When neither this nor O(builders_file) is set, the machines that the host's Nix is configured with (its setting
        C(builders)).
    type: list
    elements: dict
  builders_file:
    description: A machines file to read the builders from.
    type: path
  local_jobs:
    description:
      - How many builds the host itself may run at a time, beside the builders.
      - When it is not set, the C(max-jobs) of the host's Nix.
    type: int
  policy:
    description:
      - V(load) gives a derivation to the builder that should end it first, counting free slots, speed factor, and the
        inputs that would have to be moved.
      - V(nix) chooses exactly as Nix 2.20 and newer does.
    type: str
    choices: [load, nix]
    default: load
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
    type: str
    default: client
  out_link:
    description:
      - A symbolic link to the result, which also keeps it from the garbage collector.
      - Further results and outputs get links named as C(nix-build) names them, like C(result-2) and C(result-dev).
      - Only with O(copy_results=client).
    type: path
  max_attempts:
    description: How often a derivation is tried, on different builders if possible, when it is the builder that fails.
    type: int
    default: 3
  connect_timeout:
    description: After how many seconds an attempt to reach a builder is given up. The others go on meanwhile.
    type: int
    default: 20
  build_timeout:
    description: After how many seconds a single build is ended and counts as failed. V(0) means never.
    type: int
    default: 0
  builders_use_substitutes:
    description:
      - Whether builders fetch from their own substituters what they can, before inputs are copied to them.
      - When it is not set, as the host's Nix is configured (C(builders-use-substitutes)).
    type: bool
  report:
    description: Where to write a page (HTML) that shows what was built where and when, and what took the time.
    type: path
  trace:
    description: Where to write the same as a trace for the browser's C(chrome://tracing).
    type: path
  progress:
    description:
      - A file to which news is appended while the task runs, one JSON object in a line.
      - The task's own display uses it; there is no need to set it.
    type: path
extends_documentation_fragment:
  - nixfleet.builders.nix
  - nixfleet.builders.attributes
  - nixfleet.builders.attributes.actiongroup_builders
requirements:
  - The Python library paramiko, and OpenSSH's client, for builders over ssh
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
    installables: [".#packages.x86_64-linux.default"]
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
      description: Where it ended, V(null) where it did not start.
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
          V(failed), V(lost) (the builder failed) or V(returned) (it was not to blame, an input was missing).
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
    dispatch,
    evaluate,
    machines,
    out_links,
    report,
    report_page,
    run_report,
    slots,
)
from ansible_collections.nixfleet.builders.plugins.module_utils import plan as planning
from ansible_collections.nixfleet.builders.plugins.module_utils.channel import ChannelError
from ansible_collections.nixfleet.builders.plugins.module_utils.derivation import DerivationError
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine, MachinesError
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import Nix, NixError
from ansible_collections.nixfleet.builders.plugins.module_utils.openers import RealStores
from ansible_collections.nixfleet.builders.plugins.module_utils.protocol import Options, RemoteError
from ansible_collections.nixfleet.builders.plugins.module_utils.route import LocalMachine
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh import ParamikoMissing
from ansible_collections.nixfleet.builders.plugins.module_utils.wire import ProtocolError

#: How many failures the message of a failed task tells of, and how many lines of each one's log.
TOLD = 5
TOLD_LINES = 10

ERRORS = (
    NixError,
    MachinesError,
    evaluate.NoDerivation,
    DerivationError,
    planning.PlanError,
    dispatch.DispatchError,
    slots.SlotsError,
    ChannelError,
    RemoteError,
    ProtocolError,
)


def read_text(path: str) -> str:
    """A machines file's text; bytes that are no UTF-8 as surrogate escapes."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def read_bytes(path: str) -> bytes:
    """A .drv file."""
    with open(path, "rb") as file:
        return file.read()


def builders(params: t.Mapping[str, t.Any], nix: Nix, settings: t.Mapping[str, t.Any]) -> list[Machine]:
    """The machines meant. Raises MachinesError."""
    if params["builders"] is not None:
        given = [Machine.from_dict(each, number) for number, each in enumerate(params["builders"], 1)]
        machines.check(given, nix.machines_version)
        return given
    if params["builders_file"]:
        text, file = read_text(params["builders_file"]), params["builders_file"]
    else:
        text, file = settings.get("builders", ""), None
    return machines.parse(text, file, nix.machines_version, read_text)


def roots(params: t.Mapping[str, t.Any], nix: Nix) -> evaluate.Roots:
    """The wanted outputs by .drv path. Raises NixError, NoDerivation."""
    if params["derivations"] is not None:
        return evaluate.parse(params["derivations"])
    if params["installables"] is not None:
        return evaluate.installables(nix, params["installables"])
    return evaluate.instantiate(nix, params["file"], params["attributes"], params["expression"])


def make_request(params: t.Mapping[str, t.Any], nix: Nix, settings: t.Mapping[str, t.Any]) -> dispatch.Request:
    """What is asked for. Raises ERRORS, OSError."""
    substitute = params["builders_use_substitutes"]
    return dispatch.Request(
        roots=roots(params, nix),
        machines=builders(params, nix, settings),
        client=LocalMachine.from_settings(settings, params["local_jobs"]),
        policy=params["policy"],
        keep_going=params["keep_going"],
        max_attempts=params["max_attempts"],
        build_timeout=params["build_timeout"] or None,
        builders_substitute=settings.get("builders-use-substitutes", False) if substitute is None else substitute,
        destination=params["copy_results"],
        # The locks are root's.
        slots=slots.Slots(slots.directory(), nix.version) if os.geteuid() == 0 else None,
    )


def make_stores(
    params: t.Mapping[str, t.Any], nix: Nix, settings: t.Mapping[str, t.Any], request: dispatch.Request
) -> RealStores:
    """How stores are reached. The client's daemon is not to give builds to builders itself."""
    options = Options(
        max_build_jobs=max(request.client.max_jobs, 1),
        build_cores=settings.get("cores", 0),
        max_silent_time=settings.get("max-silent-time", 0),
        overrides={"builders": ""},
    )
    return RealStores(nix.argv("nix-daemon")[0], params["connect_timeout"], options)


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


def told(record: dispatch.Record, labels: t.Mapping[str, str]) -> dict[str, t.Any]:
    """One derivation's result."""
    attempts = [
        {
            "builder": labels[each.machine],
            "start": each.given,
            "stop": each.stopped,
            "outcome": each.outcome,
            "reason": each.reason,
        }
        for each in record.attempts
    ]
    last = attempts[-1] if attempts else {}
    return {
        "derivation": record.task.drv.path,
        "name": record.task.drv.name,
        "status": record.status,
        "found": record.found,
        "builder": last.get("builder"),
        "start": last.get("start"),
        "stop": last.get("stop"),
        "attempts": attempts,
        "outputs": dict(record.task.outputs),
        "error": record.error,
        "log": record.log,
    }


def summary(run: dispatch.Run) -> dict[str, t.Any]:
    """The module's result."""
    labels = {machine.key: machine.label for machine in run.machines}
    derivations = [told(record, labels) for record in run.records.values()]
    return {
        "derivations": derivations,
        "failures": [each for each in derivations if each["status"] == "failed"],
        "builders": [
            {
                "builder": machine.label,
                "uri": machine.key,
                "built": machine.built,
                "failed": machine.failed,
                "lost": machine.lost,
                "busy_seconds": round(machine.busy, 3),
                "bytes_in": machine.bytes_in,
                "bytes_out": machine.bytes_out,
                "nix_version": machine.nix_version,
                "trouble": machine.trouble,
            }
            for machine in run.machines
        ],
        "copied_bytes": run.delivered_bytes,
        "seconds": round(run.stopped - run.started, 3),
    }


def complaint(result: t.Mapping[str, t.Any]) -> str:
    """What failed, for the task's message."""
    failures = result["failures"]
    cancelled = sum(each["status"] == "cancelled" for each in result["derivations"])
    lines = [f"{len(failures)} of {len(result['derivations'])} derivations failed, {cancelled} were not built for that"]
    for each in failures[:TOLD]:
        where = f" on {each['builder']}" if each["builder"] else ""
        lines.append(f"{each['name']}{where}: {each['error']}")
        lines += [f"  > {line}" for line in each["log"][-TOLD_LINES:]]
    if len(failures) > TOLD:
        lines.append(f"and {len(failures) - TOLD} more")
    return "\n".join(lines)


def difference(built: t.Iterable[str]) -> dict[str, str]:
    """What diff mode shows: the derivations that were built."""
    return {"before": "", "after": "".join(f"{path}\n" for path in built)}


def wanted(plan: planning.Plan) -> dict[str, t.Any]:
    """What is returned of what was wanted."""
    return {
        "paths": plan.wanted_paths,
        "outputs": {drv: dict(outputs) for drv, outputs in plan.wanted.items()},
        "substituted": sorted(plan.substitute.intersection(plan.wanted_paths)),
    }


def write_reports(module: AnsibleModule, found: dispatch.Run, request: dispatch.Request, start: float) -> None:
    """The files that were asked for. Raises OSError."""
    if not (module.params["report"] or module.params["trace"]):
        return
    shown = ("policy", "keep_going", "max_attempts", "build_timeout", "copy_results")
    began = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(start))
    told_run = run_report.as_report(found, request, began, {name: module.params[name] for name in shown})
    if module.params["report"]:
        write_file(module, module.params["report"], report_page.as_html(told_run))
    if module.params["trace"]:
        write_file(module, module.params["trace"], json.dumps(report.as_trace(told_run)))


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
    """Does it, and ends the module. Raises ERRORS, OSError, ValueError."""
    params = module.params
    start = time.time()
    nix = Nix(module.run_command, params["nix_bin_dir"])
    settings = nix.settings()
    request = make_request(params, nix, settings)
    stores = make_stores(params, nix, settings, request)
    if module.check_mode:
        plan = dispatch.make_plan(request, stores, read_bytes)
        links = out_links.names(params["out_link"], list(plan.wanted.values())) if params["out_link"] else {}
        out_links.check(links)
        result = wanted(plan)
        result["changed"] = bool(plan.tasks or result["substituted"] or out_links.differing(links))
        result["plan"] = planning.describe(plan, dispatch.candidates(request), request.client.system)
        result["diff"] = difference(plan.tasks)
        module.exit_json(seconds=round(time.time() - start, 3), **result)
    end_with_caller(params["progress"])
    found = dispatch.run(request, stores, read_bytes, time.time, progress(params["progress"]))
    result = {**wanted(found.plan), **summary(found), "changed": found.changed}
    write_reports(module, found, request, start)
    result["diff"] = difference(
        path for path, record in found.records.items() if any(each.outcome == "built" for each in record.attempts)
    )
    if not found.success:
        module.fail_json(msg=complaint(result), **result)
    if params["out_link"]:
        links = out_links.names(params["out_link"], list(found.plan.wanted.values()))
        out_links.check(links)
        new = out_links.differing(links)
        store = stores.client().open()
        out_links.make(store, new)
        store.close()
        result["changed"] = bool(result["changed"] or new)
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
        mutually_exclusive=[
            ("derivations", "file", "expression", "installables"),
            ("builders", "builders_file"),
        ],
        required_one_of=[("derivations", "file", "expression", "installables")],
        supports_check_mode=True,
    )
    params = module.params
    for option, least in (("local_jobs", 0), ("max_attempts", 1), ("connect_timeout", 1), ("build_timeout", 0)):
        if params[option] is not None and params[option] < least:
            module.fail_json(msg=f"{option} is {params[option]}, it has to be at least {least}")
    if params["out_link"] and params["copy_results"] != dispatch.TO_CLIENT:
        module.fail_json(msg="out_link needs the results on this host: leave out copy_results, or out_link")
    for option in ("out_link", "report", "trace"):
        directory = os.path.dirname(params[option] or "")
        if directory and not os.path.isdir(directory):
            module.fail_json(msg=f"there is no directory {directory} for {option}; make it first")
    if params["attributes"] and not (params["file"] or params["expression"]):
        module.fail_json(msg="attributes are those of a file or an expression: give one of these, too")
    try:
        run(module)
    except ParamikoMissing as error:
        module.fail_json(
            msg=missing_required_lib("paramiko", reason="to reach builders over ssh"), exception=error.reason
        )
    except (OSError, ValueError, *ERRORS) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
