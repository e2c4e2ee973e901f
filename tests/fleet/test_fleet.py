# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The test fleet, tried for real: needs root, takes about two minutes. Run it with `pytest tests/fleet`."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

FLEET = Path(__file__).with_name("fleet")
NAME = f"selftest-{os.getpid()}"
HOSTS = {"b1": "bookworm", "b2": "trixie", "b3": "forky"}
UP = [f"{name}:{release}" for name, release in HOSTS.items()]
HEALTH = "systemctl is-system-running --wait; systemctl --failed --no-legend"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

Done = subprocess.CompletedProcess[str]


def fleet(command: str, *arguments: str, check: bool = True) -> Done:
    """Run the tool on this test's own fleet."""
    done = subprocess.run([FLEET, command, "--fleet", NAME, *arguments], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


def start(*arguments: str) -> subprocess.Popen[bytes]:
    """Start `up` without waiting for it."""
    return subprocess.Popen([FLEET, "up", "--fleet", NAME, *arguments], stderr=subprocess.DEVNULL)


def variables() -> tuple[dict[str, str], dict[str, str]]:
    """The inventory's common variables, and the address of each host."""
    read = yaml.safe_load(fleet("inventory").stdout)["all"]
    return read["vars"], {name: values["ansible_host"] for name, values in read["hosts"].items()}


def ssh(name: str, command: str, user: str = "root", known_hosts: str = "") -> Done:
    """Log in as Ansible would with the fleet's inventory; known_hosts stands before the fleet's own file."""
    common, addresses = variables()
    options = ["-F", "none", "-o", "BatchMode=yes", "-o", "ConnectTimeout=3"]
    options += ["-o", f"UserKnownHostsFile={known_hosts}"] if known_hosts else []
    options += common["ansible_ssh_common_args"].split()
    return subprocess.run(
        ["ssh", *options, "-i", common["ansible_ssh_private_key_file"], f"{user}@{addresses[name]}", command],
        capture_output=True,
        text=True,
        check=False,
    )


def states() -> dict[str, str]:
    """What `list` says about this fleet's hosts."""
    done = subprocess.run([FLEET, "list"], capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    return {row[1]: row[5] for row in rows if row[0] == NAME}


@pytest.fixture(scope="module", autouse=True)
def hosts() -> Iterator[None]:
    """One host per release; nothing is left of them."""
    try:
        fleet("up", *UP)
        yield
    finally:
        fleet("down", check=False)
    assert not states()
    assert not list(Path("/run/netns").glob(f"nixfleet-{NAME}.*"))
    assert not list(Path("/sys/fs/cgroup").glob(f"*/nixfleet-test/nixfleet-test-{NAME}.*"))
    assert not Path(f"/var/lib/nixfleet-test/fleets/{NAME}").exists()


@pytest.mark.parametrize("name", HOSTS)
def test_a_host_is_up_whole_and_answers(name: str) -> None:
    assert HOSTS[name] in ssh(name, "cat /etc/os-release").stdout
    assert ssh(name, "hostname").stdout == f"{NAME}-{name}\n"
    assert fleet("exec", name, "--", "sh", "-c", HEALTH).stdout == "running\n"
    assert "Accepted publickey" in ssh(name, "sudo journalctl -u ssh", user="operator").stdout
    assert ssh(name, "sudo -n id -u", user="operator").stdout == "0\n"


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("user", ["root", "operator"])
def test_nix_builds_with_the_shell_and_with_the_tools(name: str, user: str) -> None:
    expression = """
      let tools = builtins.path { path = /opt/fleet-tools; name = "tools"; };
          make = name: builder: script: derivation {
            name = "${name}-${toString builtins.currentTime}-%s"; system = builtins.currentSystem;
            inherit builder; args = [ "-c" script ]; PATH = "${tools}/bin";
          };
      in [ (make "shell" "/bin/sh" "echo made > $out")
           (make "tools" "${tools}/bin/sh" "mkdir $out && seq 3 | grep 2 > $out/x") ]
    """
    done = ssh(name, f"NIX_REMOTE=daemon nix-build --no-out-link -E '{expression % user}'", user=user)
    assert done.stdout.count("/nix/store/") == 2, done.stderr


def test_names_are_resolved_and_the_way_out_is_open() -> None:
    done = ssh("b2", "apt-get -q update")
    assert done.returncode == 0, done.stderr
    assert "b1" not in ssh("b2", "getent hosts b1").stdout
    assert ssh("b2", f"ping -c 1 -W 2 {variables()[1]['b1']}").returncode == 0


def test_cut_off_and_back() -> None:
    fleet("cut", "b1")
    fleet("cut", "b1")
    assert states()["b1"] == "cut"
    assert ssh("b1", "true").returncode == 255
    assert fleet("exec", "b1", "--", "ping", "-c", "1", "-W", "1", "198.18.0.1", check=False).returncode == 1
    fleet("reconnect", "b1")
    assert states()["b1"] == "running"
    assert ssh("b1", "true").returncode == 0


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_the_disk_outlives_the_power(how: str) -> None:
    ssh("b3", f"echo {how} > /root/kept")
    fleet(how, "b3")
    assert states()["b3"] == "stopped"
    assert ssh("b3", "true").returncode == 255
    assert "does not run" in fleet("exec", "b3", "--", "true", check=False).stderr
    fleet("start", "b3")
    assert ssh("b3", "cat /root/kept").stdout == f"{how}\n"


def test_a_killed_host_says_nothing_to_its_peers() -> None:
    common, addresses = variables()
    connection = subprocess.Popen(
        ["ssh", "-F", "none", *common["ansible_ssh_common_args"].split(), "-o", "ServerAliveInterval=0"]
        + ["-i", common["ansible_ssh_private_key_file"], f"root@{addresses['b3']}", "echo here; sleep 60"],
        stdout=subprocess.PIPE,
    )
    try:
        assert connection.stdout and connection.stdout.readline() == b"here\n"
        fleet("kill", "b3")
        time.sleep(1)
        assert connection.poll() is None
    finally:
        connection.kill()
        connection.wait()
        fleet("start", "b3")


def test_a_host_may_reboot_itself() -> None:
    boot_id = ssh("b2", "cat /proc/sys/kernel/random/boot_id").stdout
    ssh("b2", "systemctl reboot")
    for _attempt in range(60):
        answer = ssh("b2", "cat /proc/sys/kernel/random/boot_id").stdout
        if answer not in ("", boot_id):
            return
        time.sleep(0.5)
    pytest.fail("b2 did not come back")


def test_reset_makes_a_new_machine(tmp_path: Path) -> None:
    before = Path(f"/var/lib/nixfleet-test/fleets/{NAME}/known_hosts").read_text()
    (tmp_path / "before").write_text(before)
    ssh("b1", "touch /root/mark; nix-store --add /etc/os-release")
    fleet("reset", "b1")
    assert ssh("b1", "ls /root/mark").returncode == 2
    assert ssh("b1", "ls /nix/store | grep os-release").stdout == ""
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in ssh("b1", "true", known_hosts=str(tmp_path / "before")).stderr
    after = Path(f"/var/lib/nixfleet-test/fleets/{NAME}/known_hosts").read_text()
    assert {line for line in before.splitlines() if ",b2 " in line} <= set(after.splitlines())


def test_exec_passes_input_output_and_exit_code() -> None:
    assert fleet("exec", "b2", "--", "sh", "-c", "exit 7", check=False).returncode == 7
    done = subprocess.run(
        [FLEET, "exec", "--fleet", NAME, "b2", "--", "cat"], input="in", capture_output=True, text=True, check=False
    )
    assert done.stdout == "in"


def test_up_leaves_running_hosts_alone_and_refuses_another_release() -> None:
    boot_id = ssh("b2", "cat /proc/sys/kernel/random/boot_id").stdout
    fleet("up", "b2")
    assert ssh("b2", "cat /proc/sys/kernel/random/boot_id").stdout == boot_id
    assert "exists as trixie:nix" in fleet("up", "b2:forky", check=False).stderr
    assert "say which release" in fleet("up", "b9", check=False).stderr


@pytest.mark.parametrize("release", HOSTS.values())
def test_a_bare_host_installs_nix_without_a_download(release: str) -> None:
    fleet("up", f"bare:{release}:bare")
    try:
        assert fleet("exec", "bare", "--", "nix", "--version", check=False).returncode == 127
        done = ssh("bare", "DEBIAN_FRONTEND=noninteractive apt-get -q -y install nix-bin nix-setup-systemd")
        assert "Need to get 0 B/" in done.stdout
        assert ssh("bare", "systemctl is-active nix-daemon.service").stdout == "active\n"
        assert "substituters =" in ssh("bare", "cat /etc/nix/nix.conf").stdout
    finally:
        fleet("down", "bare")
    assert "bare" not in states()


@pytest.mark.parametrize("seconds", [0.3, 0.8, 1.3, 2.0])
def test_a_killed_run_is_finished_by_the_next(seconds: float) -> None:
    first = start("x:trixie", "y:bookworm:bare")
    try:
        time.sleep(seconds)
        first.send_signal(signal.SIGKILL)
        first.wait()
        fleet("up", "x:trixie", "y:bookworm:bare")
        assert ssh("x", "hostname").stdout == f"{NAME}-x\n"
        assert ssh("y", "hostname").stdout == f"{NAME}-y\n"
    finally:
        fleet("down", "x", "y")


def test_runs_at_the_same_time_do_not_disturb_each_other() -> None:
    try:
        runs = [start("x:trixie", "y:bookworm") for _each in range(3)]
        assert [run.wait() for run in runs] == [0, 0, 0]
        assert ssh("x", HEALTH).stdout == "running\n"
        addresses = list(variables()[1].values())
        assert len(set(addresses)) == len(addresses)
    finally:
        fleet("down", "x", "y")


def test_what_hosts_have_told_the_kernel_goes_with_them_however_they_end() -> None:
    shown = "/proc/sys/fs/binfmt_misc"
    mine, theirs = f"nixfleet-{NAME}", f"other-{NAME}"
    # Since Linux 6.7 the list is gone with its last mount; the machine, or another fleet's host, may have one.
    hold = "mount -t binfmt_misc binfmt_misc /mnt && echo held && exec sleep 600"
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-ec", hold], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        fleet("up", "x:trixie")
        fleet("binfmt", "x")
        for name in (mine, theirs):
            fleet("exec", "x", "--", "sh", "-ec", f"echo ':{name}:E::{name}::/bin/true:F' >{shown}/register")
        # The host's own service would empty the machine's list.
        refused = fleet("exec", "x", "--", "systemctl", "restart", "systemd-binfmt.service", check=False)
        assert refused.returncode and "masked" in refused.stderr
        fleet("kill", "x")
        fleet("up", "x")
        fleet("binfmt", "x")
        names = fleet("exec", "x", "--", "ls", shown).stdout.split()
        assert mine in names and theirs in names
        fleet("exec", "x", "--", "sh", "-c", f"echo -1 >{shown}/{theirs}")
        fleet("down", "x")
        fleet("binfmt", "b1")
        # Another fleet's host may have its own still.
        others = list(Path("/var/lib/nixfleet-test/fleets").glob("*/hosts/*/handlers"))
        assert len(others) > 1 or mine not in fleet("exec", "b1", "--", "ls", shown).stdout.split()
    finally:
        fleet("down", "x")
        holder.kill()
        holder.communicate()


def test_down_is_idempotent() -> None:
    fleet("up", "x:trixie")
    fleet("down", "x")
    fleet("down", "x", "never-was")
    assert "x" not in states()
