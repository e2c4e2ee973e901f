# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tool asks of the machine it runs on: commands, locks, packages, process groups that can be killed whole."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Callable

from fleetlib.model import FleetError

LOCKS = Path("/run/nixfleet-test")
# Command -> package which has it, on Debian and Ubuntu.
TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "iptables": "iptables",
    "ip": "iproute2",
    "ssh-keygen": "openssh-client",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "setpriv": "util-linux",
}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_say_lock = threading.Lock()


def say(text: str) -> None:
    """One line of progress."""
    with _say_lock:
        print(text, file=sys.stderr, flush=True)


def run(argv: Sequence[str], check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command quietly; with check, a failure is a FleetError with the command's own words."""
    done = subprocess.run(list(argv), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise FleetError(f"`{' '.join(argv)}` failed ({done.returncode}): {(done.stderr or done.stdout).strip()}")
    return done


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold the named lock. The kernel drops it with the process, so a crash never leaves one behind."""
    LOCKS.mkdir(parents=True, exist_ok=True)
    # Lock files stay: deleting one would let two holders in.
    fd = os.open(LOCKS / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file atomically."""
    temp = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    with open(os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as stream:
        stream.write(text)
    os.replace(temp, path)


def remove_tree(path: Path) -> None:
    """Delete a directory tree that a dying process may still write to for a moment."""
    for attempt in range(20):
        try:
            shutil.rmtree(path)
            return
        except FileNotFoundError:
            return
        except OSError:
            if attempt == 19:
                raise
            time.sleep(0.1)


def in_parallel(jobs: dict[str, Callable[[], None]]) -> None:
    """Run named jobs in threads; afterwards raise one FleetError with every failure in it."""
    errors: dict[str, str] = {}

    def guarded(name: str, job: Callable[[], None]) -> None:
        try:
            job()
        except (FleetError, OSError) as error:
            errors[name] = str(error)

    threads = [threading.Thread(target=guarded, args=item, daemon=True) for item in jobs.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise FleetError("\n".join(f"{name}: {text}" for name, text in sorted(errors.items())))


def require_root() -> None:
    """Everything but reading needs root."""
    if os.geteuid() != 0:
        raise FleetError("the test fleet needs root: run it with sudo")


def require_tools() -> None:
    """Install what is missing, once."""

    def missing() -> list[str]:
        wanted = {package for command, package in TOOLS.items() if not shutil.which(command)}
        if not KEYRING.exists():
            wanted.add("debian-archive-keyring")
        return sorted(wanted)

    if not missing():
        return
    with lock("packages"):
        packages = missing()
        if not packages:
            return
        if not shutil.which("apt-get"):
            raise FleetError(
                f"missing: {', '.join(packages)}; they can be installed by the tool on Debian and Ubuntu only"
            )
        say(f"installing {' '.join(packages)}")
        environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        install = [
            "apt-get",
            "-qq",
            "-y",
            "-o",
            "DPkg::Lock::Timeout=300",
            "install",
            "--no-install-recommends",
            *packages,
        ]
        for command in (install, ["apt-get", "-qq", "update"], install):
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=environment
            )
            if command is install and done.returncode == 0:
                return
        raise FleetError(f"cannot install {' '.join(packages)}: {done.stderr.strip()}")


# --- process groups: one control group per host -----------------------------------------------------------------------


def has_systemd() -> bool:
    """Whether systemd is PID 1 of this machine."""
    return Path("/run/systemd/system").is_dir()


def _cgroup_mounts(kind: str) -> list[Path]:
    """Where hierarchies of control groups are mounted: cgroup2, or the old cgroup beside it."""
    with open("/proc/self/mountinfo", encoding="utf-8") as stream:
        halves = [line.partition(" - ") for line in stream]
    return [Path(left.split()[4]) for left, _sep, right in halves if right.split()[0] == kind]


class Group:
    """All processes of one host. With systemd a transient service, without it a plain control group."""

    def __init__(self, name: str) -> None:
        self.unit = f"nixfleet-test-{name}.service"
        mounts = _cgroup_mounts("cgroup2")
        if not mounts:
            raise FleetError("no cgroup2 file system is mounted on this machine")
        self.parent = "system.slice" if has_systemd() else "nixfleet-test"
        self.path = mounts[0] / self.parent / self.unit

    def start(self, argv: Sequence[str], log: Path, environment: dict[str, str]) -> None:
        """Start argv detached from the tool, with its output appended to log."""
        if has_systemd():
            run(["systemctl", "reset-failed", self.unit], check=False)
            run(
                [
                    "systemd-run",
                    "--quiet",
                    "--collect",
                    "--description=nixfleet test host",
                    f"--unit={self.unit}",
                    "--property=Delegate=yes",
                    "--property=KillMode=mixed",
                    f"--property=StandardOutput=append:{log}",
                    f"--property=StandardError=append:{log}",
                    *(f"--setenv={k}={v}" for k, v in environment.items()),
                    *argv,
                ]
            )
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as stream:
            subprocess.Popen(  # pylint: disable=consider-using-with
                ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self.path), *argv],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                env={**os.environ, **environment},
            )

    def alive(self) -> bool:
        """Whether any process is left."""
        try:
            return "populated 1" in (self.path / "cgroup.events").read_text()
        except OSError:
            return False

    def pids(self) -> list[int]:
        """Every process of the group, children's groups included."""
        found: list[int] = []
        for procs in self.path.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                found += [int(word) for word in procs.read_text().split()]
        return found

    def leader(self) -> int | None:
        """The process which is PID 1 of the host."""
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith("NSpid:") and len(line.split()) == 3 and line.split()[2] == "1":
                        return pid
        return None

    def wait_leader(self, seconds: float) -> int | None:
        """Wait for the host's PID 1 to be there; None when the time is up or everything died."""
        end = time.monotonic() + seconds
        seen = False
        while True:
            pid, alive = self.leader(), self.alive()
            if pid or time.monotonic() > end or (seen and not alive):
                return pid
            seen = seen or alive
            time.sleep(0.05)

    def wait_gone(self, seconds: float) -> bool:
        """Wait until no process is left."""
        end = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    def kill(self) -> None:
        """Kill every process at once and remove the group."""
        end = time.monotonic() + 30
        while self.alive():
            try:
                (self.path / "cgroup.kill").write_text("1")
            except OSError:  # Linux before 5.14
                for pid in self.pids():
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
            if time.monotonic() > end:
                raise FleetError(f"processes {self.pids()} of {self.unit} do not die")
            time.sleep(0.02)
        if has_systemd():
            run(["systemctl", "stop", self.unit], check=False)
            return
        # nspawn repeats the group in the old hierarchy, where there is one.
        for mount in _cgroup_mounts("cgroup2") + _cgroup_mounts("cgroup"):
            group = mount / self.parent / self.unit
            for directory in [*sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True), group]:
                with contextlib.suppress(OSError):
                    directory.rmdir()
            with contextlib.suppress(OSError):
                group.parent.rmdir()  # succeeds with the last host


def strays() -> list[str]:
    """Names of groups which exist, whatever the state directory says."""
    parent = Group("x").path.parent
    return [path.name[len("nixfleet-test-") : -len(".service")] for path in parent.glob("nixfleet-test-*.service")]
