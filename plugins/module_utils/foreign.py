# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether programs of other systems run on this host: asked of the kernel, by running one."""

from __future__ import annotations

import errno
import os
import subprocess
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils import binfmt

#: Where the kernel shows its handlers.
BINFMT_MISC = "/proc/sys/fs/binfmt_misc"

#: Seconds that a program which ends at once is given.
PATIENCE = 20


def read_handlers(directory: str = BINFMT_MISC) -> list[binfmt.Handler]:
    """The registered handlers; none where binfmt_misc is not mounted.

    By name: the kernel does not tell in which order they were registered. An own one comes first.
    """
    try:
        names = sorted(os.listdir(directory), key=lambda name: (not name.startswith(binfmt.PREFIX), name))
    except OSError:
        return []
    handlers = []
    for name in names:
        if name in ("register", "status"):
            continue
        try:
            with open(os.path.join(directory, name), encoding="utf-8", errors="replace") as file:
                handlers.append(binfmt.parse_handler(name, file.read()))
        except OSError:  # removed meanwhile
            continue
    return handlers


def why_not_run(system: str) -> str | None:
    """Why a program of the system does not run here; '' if it does, None where that cannot be asked.

    The program lies in memory alone, so that no file system mounted with noexec is in its way.
    """
    if not hasattr(os, "memfd_create") or binfmt.processor(system) is None:
        return None
    # An interpreter has to open it again, so it stays open in the child.
    descriptor = os.memfd_create("nixfleet-probe", 0)
    try:
        os.write(descriptor, binfmt.probe_program(system))
        status = _run(f"/proc/self/fd/{descriptor}", descriptor)
    except subprocess.TimeoutExpired:
        return f"a program of {system} did not end within {PATIENCE} s"
    except OSError as error:
        if error.errno == errno.ENOEXEC:
            return "neither the processor nor a handler in binfmt_misc runs its programs"
        if error.errno == errno.ENOENT:
            return "the interpreter of its handler in binfmt_misc is not there"
        return f"its programs cannot be started: {error.strerror}"
    finally:
        os.close(descriptor)
    if status == binfmt.PROBE_STATUS:
        return ""
    return f"a program that should end with status {binfmt.PROBE_STATUS} ended with {status}"


def _run(path: str, descriptor: int) -> int:
    # pylint: disable-next=ansible-bad-function
    done = subprocess.run(
        [path],
        check=False,
        pass_fds=(descriptor,),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=PATIENCE,
    )
    return done.returncode


def unrunnable(systems: t.Iterable[str], sandbox: bool, sandbox_paths: t.Sequence[str]) -> dict[str, str]:
    """Those of the systems whose builds would fail here, and why each. What cannot be asked is believed."""
    handlers = read_handlers()
    found: dict[str, str] = {}
    for system in systems:
        why = why_not_run(system)
        if why == "" and not _runs_natively(system):
            handler = binfmt.handler_of(system, handlers)
            why = binfmt.why_not_in_sandbox(handler, sandbox, sandbox_paths) if handler else ""
        if why:
            found[system] = why
    return found


def emulated(systems: t.Iterable[str]) -> dict[str, binfmt.Handler]:
    """Those of the systems which a handler runs, and that handler."""
    handlers = read_handlers()
    known = [system for system in systems if binfmt.processor(system) is not None and not _runs_natively(system)]
    found = {system: binfmt.handler_of(system, handlers) for system in known}
    return {system: handler for system, handler in found.items() if handler is not None}


def _runs_natively(system: str) -> bool:
    """Whether it is the processor's own, which needs no handler."""
    mine = binfmt.processor(f"{os.uname().machine}-linux")
    return mine is not None and mine == binfmt.processor(system)
