# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How a machine is reached by ssh: its URI, its key and the ssh_config of the client, in one value.

The client's own OpenSSH reads ssh_config (C(ssh -G)), so that Include, Match, several values and their order mean what
they mean to plain Nix, which starts that very program with the same options (ssh.cc, SSHMaster::addCommonSSHOpts).
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import shlex
import socket
import subprocess
import typing as t
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl

from ansible_collections.nixfleet.builders.plugins.module_utils import store_uri
from ansible_collections.nixfleet.builders.plugins.module_utils.error_text import shown
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine

#: Jump hosts behind each other; more is a circle.
JUMPS_MAX = 8
#: Seconds for ssh -G; a C(Match exec) of the user's runs in it.
READ_TIMEOUT = 20

_TOKEN = re.compile(r"%(.?)", re.DOTALL)
_ENVIRONMENT = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_JUMP = re.compile(r"(?:(.+)@)?(?:\[([^\]]+)\]|([^:@]+))(?::([0-9]+))?")


class SshConfigError(Exception):
    """What is configured cannot be used. host: as in the machine's URI."""

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(f"ssh to {host}: {reason}")
        self.host = host
        self.reason = reason


@dataclass(frozen=True)
class Target:
    """Where to connect and as whom.

    name: the host as the machine names it. address, port: where its sshd listens. family: any, inet or inet6.
    known_as: what it is called in known_hosts. checks_bare_name: known_hosts may also have it without the port.
    public_host_key: the one line that counts instead of known_hosts, "" for none. known_hosts: files.
    known_hosts_command: whether there is one (it is not run). revoked_host_keys: a file with keys, or of OpenSSH's
    format KRL, "" for none. identity_files: paths, in order. certificate_files: those that are named, beside each
    KEY-cert.pub. agent: its socket, "" for none; agent_offers_all: not only keys that are also in
    identity_files. jump: the last jump host before. proxy_command: expanded, "" for none. connect_timeout: seconds.
    alive_interval, alive_count: seconds of silence before a sign of life is asked for, and how many may go unanswered.
    None: not configured.
    """

    name: str
    address: str
    port: int
    user: str
    family: str = "any"
    known_as: str = ""
    checks_bare_name: bool = False
    public_host_key: str = ""
    known_hosts: tuple[str, ...] = ()
    known_hosts_command: bool = False
    revoked_host_keys: str = ""
    identity_files: tuple[str, ...] = ()
    certificate_files: tuple[str, ...] = ()
    agent: str = ""
    agent_offers_all: bool = True
    jump: Target | None = None
    proxy_command: str = ""
    connect_timeout: int | None = None
    alive_interval: int | None = None
    alive_count: int | None = None

    def __str__(self) -> str:
        place = f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"
        return f"{self.user}@{self.name}" + ("" if self.name == self.address else f" ({place})")


#: Runs ssh with these arguments and gives back what it writes to stdout; raises OSError or SshConfigError.
SshRunner = t.Callable[[t.Sequence[str]], str]


def target_of(machine: Machine, run: SshRunner | None = None) -> Target:
    """Where a machine with an ssh URI is. Reads ssh_config by running ssh. Raises SshConfigError."""
    parts = machine.parts
    if parts.protocol not in store_uri.SSH_SCHEMES:
        raise SshConfigError(machine.uri, "its URI is not one of ssh; write ssh-ng://HOST")
    try:
        options = shlex.split(os.environ.get("NIX_SSHOPTS", ""))
    except ValueError as error:
        raise SshConfigError(parts.host, f"the environment variable NIX_SSHOPTS cannot be read ({error})") from error
    if parts.user:
        options += ["-l", parts.user]
    if parts.port:
        options += ["-p", str(parts.port)]
    parameters = _parameters(machine)
    key = machine.ssh_key or parameters.get("ssh-key", "")
    if key:
        options += ["-i", key]
    target = _resolve(parts.host, options, run or _run_ssh, 0)
    if key and key not in target.identity_files:
        # ssh -G leaves out a file that it cannot read; an error must be able to name it.
        target = replace(target, identity_files=(key, *target.identity_files))
    host_key = machine.public_host_key
    if not host_key and parameters.get("base64-ssh-public-host-key"):
        try:
            host_key = base64.b64decode(parameters["base64-ssh-public-host-key"]).decode().strip()
        except (binascii.Error, ValueError) as error:
            raise SshConfigError(parts.host, f"base64-ssh-public-host-key cannot be read ({error})") from error
    return replace(target, public_host_key=host_key)


def jump_of(text: str, run: SshRunner | None = None) -> Target:
    """The last of the jump hosts of a text like ProxyJump's, C([user@]host[:port],…), with those before it.

    Reads ssh_config by running ssh. Raises SshConfigError.
    """
    jump = _jump(text, text, [], run or _run_ssh, 0)
    if jump is None:
        raise SshConfigError(text, "it names no jump host; write [user@]host[:port]")
    return jump


def remote_command(machine: Machine) -> str:
    """What to run on a machine for the worker protocol: its remote-program and remote-store, as Nix does.

    SSHStore::openConnection (ssh-store.cc): the program's words, --stdio, --store; ssh joins them with blanks.
    """
    parameters = _parameters(machine)
    words = shlex.split(parameters.get("remote-program", "")) or ["nix-daemon"]
    words.append("--stdio")
    if parameters.get("remote-store"):
        words += ["--store", shlex.quote(parameters["remote-store"])]
    return " ".join(words)


def parse_settings(text: str) -> dict[str, list[str]]:
    """What C(ssh -G) prints, as a list of values for every keyword, in lower case."""
    settings: dict[str, list[str]] = {}
    for line in text.splitlines():
        keyword, _blank, value = line.partition(" ")
        if keyword:
            settings.setdefault(keyword.lower(), []).append(value)
    return settings


def target_from_settings(name: str, settings: t.Mapping[str, t.Sequence[str]]) -> Target:
    """The target that C(ssh -G) describes, without its jump host. Raises SshConfigError. Pure but for the user's home.

    What ssh leaves to later, expanding ~, %tokens and variables, is done here (ssh_config(5), TOKENS).
    """

    def one(keyword: str, default: str = "") -> str:
        return settings.get(keyword, [default])[0]

    address = one("hostname", name)
    port = _number(name, one("port", "22"), "Port") or 22
    user = one("user")
    alias = one("hostkeyalias")
    tokens = {
        "%": "%",
        "d": os.path.expanduser("~"),
        "h": address,
        "i": str(os.getuid()),
        "k": alias or name,
        "L": socket.gethostname().partition(".")[0],
        "l": socket.gethostname(),
        "n": name,
        "p": str(port),
        "r": user,
        "u": os.environ.get("USER", user),
    }

    def path(value: str) -> str:
        return _expand_path(name, value, tokens)

    def files(keyword: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(path(file) for file in settings.get(keyword, ()) if file and file != "none"))

    if one("proxyusefdpass") == "yes":
        raise SshConfigError(name, "ProxyUseFdpass is set for it in ssh_config, which is not supported; use ProxyJump")
    proxy_command = one("proxycommand")
    agent = one("identityagent", "SSH_AUTH_SOCK")
    if agent == "none":
        agent = ""
    elif agent == "SSH_AUTH_SOCK":
        agent = os.environ.get("SSH_AUTH_SOCK", "")
    elif agent.startswith("$") and not agent.startswith("${"):
        agent = os.environ.get(agent[1:], "")
    else:
        agent = path(agent)
    # OpenSSH looks names up in lower case, and an alias never has a port (sshconnect.c, get_hostfile_hostname_ipaddr).
    known_as = (alias or (address if port == 22 else f"[{address}]:{port}")).lower()
    return Target(
        name=name,
        address=address,
        port=port,
        user=user,
        family=one("addressfamily", "any"),
        known_as=known_as,
        checks_bare_name=not alias and port != 22,
        known_hosts=tuple(
            path(file)
            for keyword in ("userknownhostsfile", "globalknownhostsfile")
            for value in settings.get(keyword, ())
            for file in _split_paths(value)
            if file != "none"
        ),
        known_hosts_command=one("knownhostscommand", "none") != "none",
        revoked_host_keys="" if one("revokedhostkeys", "none") == "none" else path(one("revokedhostkeys")),
        identity_files=files("identityfile"),
        certificate_files=files("certificatefile"),
        agent=agent,
        agent_offers_all=one("identitiesonly") != "yes",
        proxy_command="" if proxy_command in ("", "none") else _expand(name, proxy_command, tokens),
        connect_timeout=_number(name, one("connecttimeout"), "ConnectTimeout"),
        alive_interval=_number(name, one("serveraliveinterval"), "ServerAliveInterval"),
        alive_count=_number(name, one("serveralivecountmax"), "ServerAliveCountMax"),
    )


def _parameters(machine: Machine) -> dict[str, str]:
    return dict(parse_qsl(machine.parts.rest.partition("?")[2]))


def _resolve(host: str, options: t.Sequence[str], run: SshRunner, depth: int) -> Target:
    if depth > JUMPS_MAX:
        raise SshConfigError(
            host, f"more than {JUMPS_MAX} jump hosts behind each other; look for a circle of ProxyJump"
        )
    if not host or host.startswith("-"):
        raise SshConfigError(host, f"{shown(host)} is no host name")
    settings = parse_settings(run([*options, "-G", host]))
    target = target_from_settings(host, settings)
    return replace(target, jump=_jump(host, settings.get("proxyjump", [""])[0], options, run, depth + 1))


def _jump(host: str, text: str, options: t.Sequence[str], run: SshRunner, depth: int) -> Target | None:
    """The last jump host of a ProxyJump, with those before it; None for none. host, options: of whom it leads to."""
    jumps = [word for word in text.split(",") if word and word != "none"]
    if not jumps:
        return None
    match = _JUMP.fullmatch(jumps[-1])
    if not match:
        raise SshConfigError(host, f"ProxyJump {shown(jumps[-1])} cannot be read; write [user@]host[:port]")
    user, bracketed, plain, port = match.groups()
    # ssh starts itself for the last of them, with -J for those before and the same -F (ssh.c).
    hop_options = _config_file(options)
    for option, value in (("-J", ",".join(jumps[:-1])), ("-l", user), ("-p", port)):
        hop_options += [option, value] if value else []
    return _resolve(bracketed or plain, hop_options, run, depth)


def _config_file(options: t.Sequence[str]) -> list[str]:
    """The -F FILE among the options of ssh."""
    for number, option in enumerate(options):
        if option.startswith("-F"):
            return list(options[number : number + (2 if option == "-F" else 1)])
    return []


def _run_ssh(arguments: t.Sequence[str]) -> str:
    host = arguments[-1]
    try:
        done = subprocess.run(  # pylint: disable=ansible-bad-function
            ["ssh", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=READ_TIMEOUT,
            check=False,
            encoding="utf-8",
            errors="surrogateescape",
        )
    except FileNotFoundError as error:
        raise SshConfigError(
            host, "there is no ssh on this host; install the OpenSSH client, Nix needs it too"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SshConfigError(host, f"ssh -G {host} took more than {READ_TIMEOUT} s; look at Match exec") from error
    if done.returncode:
        said = " / ".join(line.strip() for line in done.stderr.splitlines() if "Pseudo-terminal" not in line)
        raise SshConfigError(host, f"ssh cannot read its configuration: {said or f'exit status {done.returncode}'}")
    return done.stdout


def _expand(host: str, text: str, tokens: t.Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match.group(1) not in tokens:
            raise SshConfigError(host, f"{match.group(0)} in {shown(text)} of ssh_config is not supported")
        return tokens[match.group(1)]

    return _TOKEN.sub(value, text)


def _expand_path(host: str, text: str, tokens: t.Mapping[str, str]) -> str:
    def variable(match: re.Match[str]) -> str:
        if match.group(1) not in os.environ:
            raise SshConfigError(host, f"{shown(text)} in ssh_config: the variable {match.group(1)} is not set")
        return os.environ[match.group(1)]

    return os.path.expanduser(_ENVIRONMENT.sub(variable, _expand(host, text, tokens)))


def _split_paths(value: str) -> list[str]:
    """ssh -G prints several files with blanks between, and blanks in a name as they are."""
    return re.split(r" +(?=[/~%$]|none$)", value)


def _number(host: str, value: str, keyword: str) -> int | None:
    if value in ("", "none", "0"):
        return None
    try:
        return int(value)
    except ValueError:
        raise SshConfigError(host, f"{keyword} {shown(value)} of ssh_config is no number") from None
