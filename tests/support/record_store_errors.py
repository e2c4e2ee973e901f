# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records what Nix and ssh say when a store cannot be opened, for the unit tests of store_probe.

Runs as root inside a host of the test fleet that nothing else uses, which is client and builder in one, and leaves an
account and sshd drop-ins behind:

    tests/fleet/fleet up --fleet record r:forky
    tests/fleet/fleet exec --fleet record r -- python3 - < tests/support/record_store_errors.py > part.yml
    tests/fleet/fleet down --fleet record

Prints a YAML list of {name, reason (the expected one), uri, nix, stdout, stderr}, one a line. Those of all versions,
one after the other, are tests/unit/plugins/module_utils/store_errors.yml.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

WORK = Path("/root/record")
DROP_IN = Path("/etc/ssh/sshd_config.d/00-record.conf")
HOME = Path("/home/nixremote")
HOST = "127.0.0.1"
NO_PATH = "/nix/store/00000000000000000000000000000000-none"
LOGIN = f"nixremote@{HOST}"
FOUND: list[dict[str, str]] = []


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def version() -> str:
    return run("nix", "--version").split()[-1]


def since(*wanted: int) -> bool:
    return tuple(map(int, version().split(".")[:2])) >= wanted


def probe(name: str, reason: str, uri: str, options: str = "", key: str = "key") -> None:
    """Asks for a store as the module does and keeps what was said."""
    if uri.startswith("ssh://"):
        argv = ["nix-store", "--store", uri, "--check-validity", NO_PATH]
    else:
        words = ["info", "--json"] if since(2, 20) else ["ping"]
        argv = ["nix", "--extra-experimental-features", "nix-command", "store", *words, "--store", uri]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/root",
        "LC_ALL": "C",
        "NIX_SSHOPTS": f"{options} -oBatchMode=yes -oConnectTimeout=2 -F{WORK}/config -oIdentityFile={WORK}/{key}",
    }
    done = subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    out, err = (part.decode(errors="replace") for part in (done.stdout, done.stderr))
    if (done.returncode == 0 or f"'{NO_PATH}' is not valid" in err) != (reason == "ok"):
        print(f"{name}: status {done.returncode}: {err}", file=sys.stderr)
    FOUND.append({"name": name, "reason": reason, "uri": uri, "nix": version(), "stdout": out, "stderr": err})


def both(name: str, reason: str, options: str = "", login: str = LOGIN, query: str = "", key: str = "key") -> None:
    for scheme in ("ssh-ng", "ssh"):
        probe(name, reason, f"{scheme}://{login}{query}", options, key)


def account(shell: str = "/bin/sh", groups: str = "nix-users", bashrc: str = "") -> None:
    run("usermod", "-s", shell, "-G", groups, "nixremote")
    (HOME / ".bashrc").write_text(bashrc)


def sshd(*lines: str) -> None:
    """Reloads sshd with these lines in force for the account, and without penalties for the many failed logins."""
    penalties = ["PerSourcePenalties no"] if "persourcepenalties" in run("sshd", "-T").lower() else []
    DROP_IN.write_text("\n".join([*penalties, "Match User nixremote", *lines, "Match all", ""]))
    run("systemctl", "reload", "ssh")


def listener(port: int, close: bool) -> None:
    """A port where nothing sensible answers: silence, or an end at once."""
    server = socket.create_server((HOST, port))
    kept = []

    def serve() -> None:
        while True:
            connection = server.accept()[0]
            if close:
                connection.close()
            else:
                kept.append(connection)

    threading.Thread(target=serve, daemon=True).start()


def prepare() -> None:
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(mode=0o700)
    if subprocess.run(["id", "nixremote"], capture_output=True, check=False).returncode:
        run("useradd", "-m", "-d", str(HOME), "-p", "*", "nixremote")
    for name in ("key", "other", "host"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(WORK / name))
    (HOME / ".ssh").mkdir(exist_ok=True)
    shutil.copy(WORK / "key.pub", HOME / ".ssh/authorized_keys")
    shutil.chown(HOME / ".ssh/authorized_keys", "nixremote")
    shutil.chown(HOME / ".ssh", "nixremote")
    right = Path("/etc/ssh/ssh_host_ed25519_key.pub").read_text()
    (WORK / "right").write_text(f"{HOST},[{HOST}]:22 {right}")
    (WORK / "wrong").write_text(f"{HOST} {(WORK / 'host.pub').read_text()}")
    (WORK / "none").touch()
    (WORK / "config").write_text(
        f"IdentitiesOnly yes\nUserKnownHostsFile {WORK}/right\n"
        "GlobalKnownHostsFile /dev/null\nHostKeyAlgorithms ssh-ed25519\nStrictHostKeyChecking yes\n"
    )
    account()
    sshd()


def record() -> None:
    both("as it should be", "ok")
    probe("the daemon", "ok", "daemon")
    probe("the local store", "ok", "local")
    both("a name that nobody knows", "name_resolution", login="nixremote@nosuchhost.invalid")
    both("no sshd on the port", "connection_refused", "-p2298")
    listener(2297, close=True)
    both("sshd closes at once", "connection_refused", "-p2297")
    listener(2296, close=False)
    both("nothing but silence", "timeout", "-p2296")
    both("an address without a host", "no_route", "-oConnectTimeout=9", login="nixremote@198.18.0.253")
    both("a host key that nobody pinned", "host_key_unknown", f"-oUserKnownHostsFile={WORK}/none")
    both("another host key", "host_key_changed", f"-oUserKnownHostsFile={WORK}/wrong")
    both("another user's key", "permission_denied", key="other")
    both("a key that is not there", "permission_denied", query="?ssh-key=/nonexistent", key="nonexistent")
    both("an account that is not there", "permission_denied", login=f"nobodyhere@{HOST}")
    os.chmod(WORK / "key", 0o644)
    both("a key that others can read", "permission_denied")
    os.chmod(WORK / "key", 0o600)
    run("chage", "-E", "1", "nixremote")
    both("an expired account", "permission_denied")
    run("chage", "-E", "-1", "nixremote")
    for shell in ("/bin/sh", "/bin/bash"):
        account(shell)
        sshd("SetEnv PATH=/nonexistent")
        both(f"no Nix in the PATH of {shell}", "no_nix")
    account()
    sshd()
    both("a remote program that is not there", "no_nix", query="?remote-program=/opt/nix/bin/nix-daemon")
    account("/bin/bash", bashrc="echo Welcome to this host\n")
    both("a greeting", "protocol_mismatch")
    # Debian 13 and later have no nologin, and sshd refuses an account whose shell is not there.
    account("/usr/sbin/nologin")
    both("nologin", "protocol_mismatch" if Path("/usr/sbin/nologin").exists() else "permission_denied")
    account(groups="")
    both("not in the socket's group", "daemon_socket_permission")
    account()
    run("systemctl", "stop", "nix-daemon.socket", "nix-daemon.service")
    both("no daemon on the builder", "daemon_unavailable")
    probe("no daemon on the client", "daemon_unavailable", "daemon")
    Path("/nix/var/nix/daemon-socket/socket").unlink(missing_ok=True)
    both("no socket on the builder", "daemon_unavailable")
    probe("no socket on the client", "daemon_unavailable", "daemon")
    run("systemctl", "start", "nix-daemon.socket")
    for uri in ("bogus://x", "ssh-ng://-oProxyCommand=x", "ssh-ng://", "ssh-ng://nixremote@[::1"):
        probe("a URI that is none", "bad_uri", uri)
    probe("a port that is none", "bad_uri", "ssh-ng://b1:port")
    probe("a port", "ok" if since(2, 31) else "bad_uri", f"ssh-ng://{LOGIN}:22")
    probe("an experiment", "unsupported" if since(2, 20) else "bad_uri", f"mounted-ssh-ng://{LOGIN}")


if __name__ == "__main__":
    prepare()
    record()
    for record_of_one in FOUND:
        print(f"- {json.dumps(record_of_one)}")
