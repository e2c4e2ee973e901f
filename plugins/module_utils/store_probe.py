# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What Nix and ssh say when they are asked for a store: the answer, or why there is none and what mends it.

Pure: texts are handed in. Those of Nix 2.8, 2.26 and 2.34 and of OpenSSH 9.2 to 10 were recorded on real hosts, see the
unit tests.
"""

from __future__ import annotations

import base64
import json
import re
import typing as t
from urllib.parse import quote

from ansible_collections.nixfleet.builders.plugins.module_utils.store_uri import normal_uri

#: `nix store ping` became `nix store info` in 2.20, and both had learned --json by then (src/nix/store-info.cc).
STORE_INFO_SINCE = (2, 20)

#: A path that is in no store.
NO_PATH = "/nix/store/00000000000000000000000000000000-none"

#: Every reason for which a store may be unreachable.
REASONS = (
    "name_resolution",
    "connection_refused",
    "no_route",
    "timeout",
    "host_key_unknown",
    "host_key_changed",
    "permission_denied",
    "no_nix",
    "command_refused",
    "protocol_mismatch",
    "daemon_socket_permission",
    "daemon_unavailable",
    "bad_uri",
    "unsupported",
    "other",
)

#: The first rule with a text that is found decides. More telling texts stand before those that follow from them.
RULES: tuple[tuple[str, str], ...] = (
    # Up to Nix 2.30 a port in the URI is a part of the name, and a URI that is none can end up there as a whole.
    ("bad_uri", r"could not resolve hostname (//\S*|[^:\s]+:\d+):"),
    ("name_resolution", r"could not resolve hostname"),
    ("host_key_changed", r"remote host identification has changed|host key for .* has changed"),
    ("host_key_unknown", r"host key verification failed|no .* host key is known for"),
    (
        "permission_denied",
        r"permission denied \([a-z,-]+\)|too many authentication failures|account (has expired|is locked)",
    ),
    ("connection_refused", r"^ssh: connect to host .*connection refused"),
    (
        "connection_refused",
        r"kex_exchange_identification|connection (closed|reset) by .* port \d+|not allowed at this time",
    ),
    ("no_route", r"no route to host|network is unreachable|host is down"),
    (
        "timeout",
        r"(connection|operation) timed out|timed out during banner exchange|timeout, server .* not responding",
    ),
    ("unsupported", r"experimental (nix )?feature '[^']*' is disabled|(version|protocol) .*not supported"),
    (
        "no_nix",
        r"(nix-daemon|nix-store|\bnix)['\"]?: (command )?not found|command not found: \S*nix"
        r"|nix(-daemon|-store)?['\"]?: no such file or directory|unknown command[: ].*nix",
    ),
    # What the gate says, which is also where the text of the next ones could stand.
    ("command_refused", r"^nixfleet-gate: refused:"),
    ("daemon_socket_permission", r"daemon-socket\S*: permission denied|socket at '[^']*': permission denied"),
    (
        "daemon_unavailable",
        # Without a socket an account that is not root's is left with the store itself, which it cannot write.
        r"cannot connect to socket at|daemon disconnected unexpectedly|single-user nix installation"
        r"|['\"]/\S+/nix/\S+['\"].*: (permission denied|operation not permitted)",
    ),
    ("protocol_mismatch", r"protocol mismatch|this account is currently not available"),
    (
        "bad_uri",
        r"don't know how to open nix store|cannot parse nix store|invalid ssh (host name|authority)"
        r"|is not a valid (url|uri)|requires a valid ssh host",
    ),
)

#: What mends it. {login} is user@host, {host} the host alone.
SUGGESTIONS = {
    "name_resolution": "give the builder an address that this host resolves (nix_builder_address), or its name in "
    "ssh's configuration (role nixfleet.builders.nix_client); 'getent hosts {host}' shows what is known of it",
    "connection_refused": "see on the builder whether sshd runs and on which port ('sshd -T | grep -i ^listen'); name "
    "it in nix_builder_port; when only some connections are refused, raise nix_builder_sshd_max_startups, and see "
    "sshd's log for an expired account or a penalty of this host",
    "no_route": "see whether the builder is up and which route leads to it ('ip route get ADDRESS'); "
    "nix_builder_address is what clients connect to",
    "timeout": "see whether the builder is up and no firewall drops its port ('ssh -v {login} true'); raise "
    "'timeout' if it is only slow",
    "host_key_unknown": "run role nixfleet.builders.nix_client on this host, which pins the host keys that the builder "
    "itself reports, or give public_host_key",
    "host_key_changed": "if the builder was reinstalled, run playbook nixfleet.builders.fleet, which pins its new host "
    "keys; if it was not, somebody answers in its place",
    "permission_denied": "run playbook nixfleet.builders.fleet with this client and this builder, which lets the "
    "client's key in; 'ssh -v -o BatchMode=yes {login} true' shows which keys are offered",
    "no_nix": "Nix is not in the PATH of logins on the builder: run role nixfleet.builders.nix_builder "
    "(nix_builder_sshd_path), or add '?remote-program=/nix/var/nix/profiles/default/bin/{program}' to the URI",
    "command_refused": "the builder's gate does not let this command through: use ssh-ng (nix_builder_protocol),"
    " or open it for ssh (nix_builder_gate_serve) and run playbook nixfleet.builders.fleet",
    "protocol_mismatch": "something other than Nix writes to the connection: see what 'ssh {login} true' prints, and "
    "take it out of the account's shell start-up files, or give the account the shell /bin/sh",
    "daemon_socket_permission": "add the account to the group of the daemon's socket, 'nix-users' on Debian "
    "(role nixfleet.builders.nix_builder does); 'ls -ld /nix/var/nix/daemon-socket' shows it",
    "daemon_unavailable": "start Nix's daemon: 'systemctl enable --now nix-daemon.socket' "
    "(role nixfleet.builders.nix_install does, where it installed that Nix)",
    "bad_uri": "write the store like ssh-ng://user@host; a port or an IPv6 address there needs Nix 2.31 on this "
    "host, older versions take it from ssh's configuration",
    "unsupported": "use a Nix on both sides that supports this store, or enable the feature in experimental-features",
    "other": "see what '{command}' says",
}

#: Lines that carry no reason: what Nix says on every attempt, and the frame of ssh's warning.
NOISE = re.compile(r"^(Store URL: .*|received daemon op \d+|Try 'nix --help' for more information\.|@+|)$")

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Failure(t.NamedTuple):
    """Why a store is not reachable."""

    reason: str
    message: str
    suggestion: str


class Answer(t.NamedTuple):
    """What a store said of itself; None where it did not."""

    version: str | None
    trusted: bool | None


def _split(uri: str) -> tuple[str, str, str, str]:
    """(scheme, authority, path, query) of a store URI; scheme '' for C(daemon), C(local), C(auto) and paths."""
    whole, _mark, query = normal_uri(uri).partition("?")
    scheme, separator, rest = whole.partition("://")
    if not separator:
        return "", "", whole, query
    authority, slash, path = rest.partition("/")
    return scheme, authority, slash + path, query


def complete(uri: str, ssh_key: str | None = None, public_host_key: str | None = None) -> str:
    """The URI as Nix makes it of a line in the machines file: key and host key become parameters of an ssh store.

    They overwrite what the URI says (libstore/machines.cc, completeStoreReference); other stores take none.
    """
    scheme, authority, path, query = _split(uri)
    if not scheme:
        return uri
    # By name, still encoded; urllib's parser would take a plus sign for a blank, which Nix does not.
    parameters = {part.partition("=")[0]: part for part in query.split("&") if part}
    if scheme in ("ssh", "ssh-ng"):
        if ssh_key:
            parameters["ssh-key"] = f"ssh-key={quote(ssh_key)}"
        if public_host_key:
            line = public_host_key.strip() + "\n"
            encoded = quote(base64.b64encode(line.encode()).decode(), safe="")
            parameters["base64-ssh-public-host-key"] = f"base64-ssh-public-host-key={encoded}"
    text = f"{scheme}://{authority}{path}"
    return f"{text}?{'&'.join(parameters.values())}" if parameters else text


def question(version: tuple[int, ...], uri: str) -> list[str]:
    """The program and arguments that ask for a store.

    With C(ssh://), C(nix store info) is content when C(nix-store --serve) starts, which opens no store until it needs
    one, so that a daemon that does not run goes unseen: a path that no store has is asked for instead.
    """
    if _split(uri)[0] == "ssh":
        return ["nix-store", "--store", uri, "--check-validity", NO_PATH]
    if version >= STORE_INFO_SINCE:
        return ["nix", "store", "info", "--json", "--store", uri]
    return ["nix", "store", "ping", "--store", uri]


def answered(rc: int, stderr: str) -> bool:
    """Whether the store was there, by the exit status and stderr of the question."""
    return rc == 0 or f"path '{NO_PATH}' is not valid" in ANSI.sub("", stderr)


def read_answer(stdout: str, stderr: str) -> Answer:
    """The answer of C(nix store info), as JSON on stdout, or as text (on stderr up to 2.13, on stdout from 2.14)."""
    if stdout.lstrip().startswith("{"):
        shown = json.loads(stdout)
        trusted = shown.get("trusted")
        return Answer(shown.get("version"), None if trusted is None else bool(trusted))
    text = ANSI.sub("", f"{stdout}\n{stderr}")
    version = re.search(r"^Version: (\S+)$", text, re.MULTILINE)
    found = re.search(r"^Trusted: ([01])$", text, re.MULTILINE)
    return Answer(version.group(1) if version else None, found.group(1) == "1" if found else None)


def clean(stderr: str) -> str:
    """What Nix and ssh said, without colours and without the lines that carry no reason."""
    lines = [line.strip() for line in ANSI.sub("", stderr).splitlines()]
    return "\n".join(line for line in lines if not NOISE.match(line))


def suggest(reason: str, uri: str) -> str:
    """The command or variable that mends a reason."""
    scheme, authority, _path, _query = _split(uri)
    login = authority or "localhost"
    return SUGGESTIONS[reason].format(
        login=login,
        host=login.rpartition("@")[2],
        program="nix-store" if scheme == "ssh" else "nix-daemon",
        command=f"nix store ping --store {uri}",
    )


def classify(stderr: str, uri: str) -> Failure:
    """Why Nix could not open a store, by what it wrote."""
    message = clean(stderr)
    for reason, pattern in RULES:
        if re.search(pattern, message, re.IGNORECASE | re.MULTILINE):
            return Failure(reason, message, suggest(reason, uri))
    return Failure("other", message or "Nix failed without a word", suggest("other", uri))


def timed_out(stderr: str, uri: str, seconds: float) -> Failure:
    """The failure of a store that had not answered when the time was up."""
    said = clean(stderr)
    message = f"no answer within {seconds:g} seconds" + (f": {said}" if said else "")
    return Failure("timeout", message, suggest("timeout", uri))
