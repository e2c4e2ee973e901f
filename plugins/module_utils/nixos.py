# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A builder or a client as a NixOS module, the text of a file to import into the system's configuration.

Pure: a dict in, text out. The options are those of nixpkgs, below nixos/modules: config/nix.nix, nix-remote-build.nix
and users-groups.nix, programs/ssh.nix, services/networking/ssh/sshd.nix. Values judge themselves in the rooms that also
write the files of other systems: machines.py, nix_conf.py, sshd_config.py, authorized_keys.py, gate.py.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import typing as t
from dataclasses import replace

from ansible_collections.nixfleet.builders.plugins.module_utils import (
    authorized_keys,
    gate,
    machines,
    nix_conf,
    nix_expression,
    sshd_config,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.files import HEADER
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import BLANKS, Machine, MachinesError
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_expression import Call, NixExpressionError
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_version import (
    OLDEST,
    NixVersionError,
    parse_version,
)

#: Where NixOS has every program of the system.
BIN_DIR = "/run/current-system/sw/bin"
#: Where the gate is, below /etc: a file of the configuration, as its place must not change with its text.
GATE = "nixfleet/gate"
#: Where NixOS writes users.users.NAME.openssh.authorizedKeys.keys.
KEYS_FILE = "/etc/ssh/authorized_keys.d/%u"
CA_FILE = "ssh/nixfleet-ca.pub"
PRINCIPALS_FILE = "ssh/nixfleet-principals"
MACHINES_FILE = "/etc/nix/machines"

#: What the account may not do, as on other systems (the role nix_builder's vars; a test compares the two).
LOCKED: dict[str, sshd_config.Value] = {
    "AuthenticationMethods": "publickey",
    "PubkeyAuthentication": True,
    "PasswordAuthentication": False,
    "KbdInteractiveAuthentication": False,
    "PermitTTY": False,
    "PermitUserRC": False,
    "PermitTunnel": False,
    "DisableForwarding": True,
    "AllowAgentForwarding": False,
    "AllowTcpForwarding": False,
    "AllowStreamLocalForwarding": False,
    "X11Forwarding": False,
    "AcceptEnv": "-nothing",
}

#: Lists to which NixOS itself has something to add, so that C(extra-) would leave that out or come before it.
_MERGED = ("trusted-users", "trusted-public-keys", "substituters", "trusted-substituters")
_USER = re.compile(r"[a-z_][a-z0-9_-]*")
_HOST = re.compile(r"[A-Za-z0-9_:\[][A-Za-z0-9._:%\]-]*")
_PATH = re.compile(r'/[^\s"#%\\]+')
_KEY = re.compile(r"[a-z0-9@.-]+ [A-Za-z0-9+/]+=*")
#: NixOS hands sshd_config to a shell, unquoted (sshd.nix, the here-document of sshconf).
_EXPANDED = re.compile(r"[$`\\]")


class NixosError(Exception):
    """What is no builder or no client, or cannot be said to NixOS."""


class Field(t.NamedTuple):
    """A key of what is given: its type, and its value where it is not."""

    type: type | tuple[type, ...]
    default: t.Any


_NUMBER = (int,)
BUILDER: dict[str, Field] = {
    "user": Field(str, "nixremote"),
    "uid": Field(_NUMBER, None),
    "home": Field(str, None),
    "clients": Field(dict, {}),
    "keys": Field(list, []),
    "gate": Field((bool, dict), True),
    "ca_keys": Field(list, []),
    "ca_principals": Field(list, ["nixfleet-ci"]),
    "sshd_settings": Field(dict, {}),
    "max_startups": Field(str, "100:30:300"),
    "settings": Field(dict, {}),
    "fact": Field(dict, None),
}
GATE_KEYS: dict[str, Field] = {
    "serve": Field(bool, False),
    "wrapper": Field(list, []),
    "nix_bin_dir": Field(str, BIN_DIR),
}
CLIENT: dict[str, Field] = {
    "builders": Field(dict, {}),
    "machines": Field(list, None),
    "ssh_key": Field(str, "/root/.ssh/nixremote"),
    "ssh_user": Field(str, "root"),
    "connect_timeout": Field(_NUMBER, 10),
    "settings": Field(dict, {}),
    "nix_version": Field(str, None),
    "fact": Field(dict, None),
}


def builder(given: t.Mapping[str, t.Any]) -> str:
    """The module of a builder; see BUILDER for the keys. Raises NixosError."""
    return _rendered("nix_builder", "A remote builder of Nix.", _builder, given)


def client(given: t.Mapping[str, t.Any]) -> str:
    """The module of a client; see CLIENT for the keys. Raises NixosError."""
    return _rendered("nix_client", "Remote builds of Nix.", _client, given)


def absent() -> str:
    """A module that says nothing, in the place of one that is still imported."""
    return f"# {HEADER}\n# Nothing is left here: take it out of the imports of the configuration.\n{{ ... }}:\n{{ }}\n"


def _rendered(
    role: str,
    title: str,
    options: t.Callable[[t.Mapping[str, t.Any]], dict[str, t.Any]],
    given: t.Mapping[str, t.Any],
) -> str:
    """The text of a module, with the facts of Ansible that are true where it is in force."""
    if not isinstance(given, t.Mapping):
        raise NixosError(f"{given!r} is no dict")
    try:
        found = options(given)
        etc = found.setdefault("environment.etc", {})
        # Without what is remembered of others, for which alone no system has to be rebuilt.
        digest = hashlib.sha256(_bindings(found).encode()).hexdigest()[:16]
        if given.get("fact") is not None:
            fact = json.dumps(given["fact"], sort_keys=True, indent=4, ensure_ascii=False)
            etc[f"ansible/facts.d/{role}.fact"] = {"text": f"{fact}\n"}
        etc[f"ansible/facts.d/{role}_module.fact"] = {"text": json.dumps({"digest": digest}) + "\n"}
        body = _bindings(found)
    except (
        NixExpressionError,
        MachinesError,
        NixVersionError,
        nix_conf.NixConfError,
        sshd_config.SshdConfigError,
        authorized_keys.KeyLineError,
        gate.GateError,
    ) as error:
        raise NixosError(str(error)) from error
    comments = (HEADER, f"{title} For the imports of a NixOS configuration.", f"Module {digest}")
    return "".join(f"# {comment}\n" for comment in comments) + f"{{ lib, ... }}:\n{{\n{body}}}\n"


def _bindings(options: t.Mapping[str, t.Any]) -> str:
    """The options, each name a path with dots in it."""
    return "".join(
        f"  {'.'.join(map(nix_expression.name, path.split('.')))} = {nix_expression.render(value, '  ')};\n"
        for path, value in options.items()
    )


def _fields(given: t.Mapping[str, t.Any], fields: t.Mapping[str, Field], what: str) -> dict[str, t.Any]:
    """What is given, checked, with what is not."""
    for key in given:
        if key not in fields:
            raise NixosError(f"{key!r} is nothing that {what} has; it has {', '.join(fields)}")
    found = {}
    for key, field in fields.items():
        value = given.get(key)
        if value is None:
            value = field.default
        elif not isinstance(value, field.type) or (isinstance(value, bool) and field.type is _NUMBER):
            raise NixosError(f"{key} of {what} is {value!r}, which has the wrong type")
        found[key] = value
    return found


def _match(pattern: re.Pattern[str], text: t.Any, what: str) -> str:
    if not isinstance(text, str) or not pattern.fullmatch(text):
        raise NixosError(f"{what} is {text!r}, which cannot be written into the configuration")
    return text


# ---------------------------------------------------------------------------------------------------- builder


def _builder(given: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    spec = _fields(given, BUILDER, "a builder")
    user = _match(_USER, spec["user"], "user")
    if user == "root":
        raise NixosError("user is root; name an account of its own")
    home = _match(_PATH, spec["home"] or f"/var/lib/{user}", "home")
    etc: dict[str, t.Any] = {}
    command = None
    if spec["gate"] is not False:
        choices = _fields({} if spec["gate"] is True else spec["gate"], GATE_KEYS, "the gate")
        text = gate.render(choices["nix_bin_dir"], serve=choices["serve"], wrapper=choices["wrapper"])
        # A copy, as what is linked from the store is no program.
        etc[GATE] = {"mode": "0555", "text": text}
        command = f"/etc/{GATE}"
    keys = authorized_keys.own_lines(spec["clients"], spec["keys"], command)
    sshd = {
        **LOCKED,
        "AuthorizedKeysFile": KEYS_FILE,
        "MaxSessions": 64,
        "SetEnv": f"PATH={BIN_DIR}:/nix/var/nix/profiles/default/bin",
    }
    if command:
        sshd["ForceCommand"] = command
    if spec["ca_keys"]:
        options = "restrict" + (f',command="{command}"' if command else "")
        etc[CA_FILE] = {"text": _lines(spec["ca_keys"], "ca_keys")}
        etc[PRINCIPALS_FILE] = {
            "text": _lines([f"{options} {name}" for name in spec["ca_principals"]], "ca_principals")
        }
        sshd.update(TrustedUserCAKeys=f"/etc/{CA_FILE}", AuthorizedPrincipalsFile=f"/etc/{PRINCIPALS_FILE}")
    sshd.update(spec["sshd_settings"])
    account: dict[str, t.Any] = {
        "isSystemUser": True,
        "description": "Nix builds for other hosts",
        "group": user,
        "home": home,
        "createHome": False,
        # No password, and not locked in a way that sshd without PAM would heed.
        "hashedPassword": "*",
        "shell": "/bin/sh",
        "openssh": {"authorizedKeys": {"keys": keys}},
    }
    if spec["uid"] is not None:
        account["uid"] = spec["uid"]
    found: dict[str, t.Any] = {f"users.users.{user}": account, f"users.groups.{user}": {}}
    # Not the account's, so that it cannot change what a login reads.
    found["systemd.tmpfiles.rules"] = [f"d {home} 0555 root root - -"]
    found["services.openssh.enable"] = True
    if spec["max_startups"]:
        found["services.openssh.settings.MaxStartups"] = Call("lib.mkDefault", spec["max_startups"])
    # Before others' lines, of which the first one counts; it closes its own block.
    found["services.openssh.extraConfig"] = Call("lib.mkBefore", _sshd_text(user, sshd))
    found["nix.settings"] = _nix_settings(spec["settings"])
    found["environment.etc"] = etc
    return found


def _sshd_text(user: str, settings: t.Mapping[str, sshd_config.Value]) -> str:
    text = sshd_config.render(user, settings, {}, HEADER)
    if _EXPANDED.search(text):
        raise NixosError(
            "sshd_settings holds a '$', a '`' or a '\\', which NixOS would have a shell expand; leave it out"
        )
    return text


def _lines(lines: t.Sequence[t.Any], what: str) -> str:
    for line in lines:
        if not isinstance(line, str) or not line.strip() or re.search(r"[\x00-\x1f\x7f]", line):
            raise NixosError(f"{what} has {line!r}, which is no line")
    return "".join(f"{line}\n" for line in lines)


def _nix_settings(settings: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """nix.settings out of settings of nix.conf by name."""
    nix_conf.check_values(nix_conf.settings_of(nix_conf.render(settings)))
    found: dict[str, t.Any] = {}
    for name, value in sorted(settings.items()):
        text = nix_conf.text_of(name, value)
        secret = nix_conf.secret_in(name, text)
        if secret:
            raise NixosError(
                f"{secret}, and every user can read what a NixOS module says; put it into a file of your own, "
                "which nix.extraOptions includes"
            )
        base = nix_conf.base_name(name)
        if base in _MERGED:
            name = base
            found[name] = [*found.get(name, []), *text.split()]
        elif isinstance(value, (list, tuple)):
            found[name] = [str(item) for item in value]
        else:
            found[name] = value if isinstance(value, (bool, int)) else text
    # NixOS has the same default, and the administrator may know better.
    if found.get("max-jobs") == "auto":
        found["max-jobs"] = Call("lib.mkDefault", "auto")
    return found


# ---------------------------------------------------------------------------------------------------- client


def _client(given: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    spec = _fields(given, CLIENT, "a client")
    key = _match(_PATH, spec["ssh_key"], "ssh_key")
    user = _match(re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*"), spec["ssh_user"], "ssh_user")
    builders = {str(name): fact for name, fact in sorted(spec["builders"].items())}
    entries = [Machine.from_dict(entry, number) for number, entry in enumerate(spec["machines"] or [], 1)]
    if spec["machines"] is None:
        entries = [replace(Machine.from_dict(fact["machine"]), ssh_key=key) for fact in map(_fact, builders.values())]
    version = parse_version(spec["nix_version"]) if spec["nix_version"] else OLDEST
    machines.check(entries, version)
    settings = dict(spec["settings"])
    if settings.get("builders") == f"@{MACHINES_FILE}":
        # That is what nix.distributedBuilds means.
        del settings["builders"]
    trusted = [fact.get("signing_public_key") for fact in map(_fact, builders.values())]
    trusted += [more for fact in builders.values() for more in fact.get("more_signing_public_keys") or []]
    given_keys = settings.pop("extra-trusted-public-keys", [])
    trusted_keys = [*(given_keys.split() if isinstance(given_keys, str) else given_keys), *filter(None, trusted)]
    if trusted_keys:
        settings["extra-trusted-public-keys"] = sorted(set(trusted_keys))
    found: dict[str, t.Any] = {"nix.distributedBuilds": True}
    said = [_build_machine(entry) for entry in entries]
    if None in said:
        # All of them, as of two machines that are alike Nix takes the first.
        found["environment.etc"] = {"nix/machines": {"text": "".join(f"{entry.line}\n" for entry in entries)}}
    else:
        found["nix.buildMachines"] = said
    found["nix.settings"] = _nix_settings(settings)
    found["programs.ssh.extraConfig"] = Call("lib.mkBefore", _ssh_text(builders, key, user, spec["connect_timeout"]))
    found["programs.ssh.knownHosts"] = _known_hosts(builders)
    return found


def _fact(fact: t.Any) -> t.Mapping[str, t.Any]:
    if not isinstance(fact, t.Mapping) or not isinstance(fact.get("machine"), t.Mapping):
        raise NixosError("builders must be what builders have published, by their names: there is no machine in one")
    return fact


def _build_machine(machine: Machine) -> dict[str, t.Any] | None:
    """The machine for nix.buildMachines; None for one that NixOS would write otherwise."""
    speed = nix_expression.number(machine.speed_factor)
    # NixOS lists what is mandatory as supported, too, which Nix takes for the same.
    if speed is None or not set(machine.mandatory_features) <= set(machine.supported_features):
        return None
    parts = machine.parts
    plain = f"{parts.protocol}://{parts.user + '@' if parts.user else ''}{parts.host}"
    if parts.protocol in ("ssh", "ssh-ng") and machine.uri == plain:
        where: dict[str, t.Any] = {"protocol": parts.protocol, "sshUser": parts.user, "hostName": parts.host}
    else:
        # What NixOS writes is the URI again.
        where = {"protocol": None, "sshUser": None, "hostName": machine.uri}
    host_key = (machine.public_host_key.strip(BLANKS) + "\n").encode("utf-8", "surrogateescape")
    return {
        **where,
        # NixOS wants one; this is Nix's word for the client's own.
        "systems": list(machine.systems) or ["-"],
        "sshKey": machine.ssh_key or None,
        "maxJobs": machine.max_jobs,
        "speedFactor": machine.speed_factor,
        "supportedFeatures": [word for word in machine.supported_features if word not in machine.mandatory_features],
        "mandatoryFeatures": list(machine.mandatory_features),
        "publicHostKey": base64.b64encode(host_key).decode() if machine.public_host_key else None,
    }


def _ssh_text(builders: t.Mapping[str, t.Any], key: str, user: str, timeout: int) -> str:
    """How the user's ssh reaches each builder by its name. Other users' ssh goes its own way."""
    lines = [f"# {HEADER}"]
    for name, fact in builders.items():
        machine = Machine.from_dict(_fact(fact)["machine"])
        settings = {
            "HostName": _match(_HOST, fact.get("address") or machine.parts.host, f"the address of {name}"),
            "Port": _port(fact.get("port") or machine.parts.port or 22, name),
            **({"User": _match(_USER, machine.parts.user, f"the user of {name}")} if machine.parts.user else {}),
            "IdentityFile": key,
            "IdentitiesOnly": "yes",
            "HostKeyAlias": name,
            "UserKnownHostsFile": "/dev/null",
            "GlobalKnownHostsFile": "/etc/ssh/ssh_known_hosts",
            "StrictHostKeyChecking": "yes",
            "UpdateHostKeys": "no",
            "BatchMode": "yes",
            "RequestTTY": "no",
            "ConnectTimeout": timeout,
            "ServerAliveInterval": 15,
            "ServerAliveCountMax": 4,
        }
        lines.append(f"Match originalhost {_match(_HOST, name, 'the name of a builder')} localuser {user}")
        lines += [f"    {keyword} {value}" for keyword, value in settings.items()]
    # Closes the last block for whatever comes next.
    return "".join(f"{line}\n" for line in (*lines, "Match all"))


def _port(value: t.Any, name: str) -> int:
    if not str(value).isdigit() or not 1 <= int(value) <= 65535:
        raise NixosError(f"the port of {name} is {value!r}; write a number from 1 to 65535")
    return int(value)


def _known_hosts(builders: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    found = {}
    for name, fact in builders.items():
        lines = fact.get("host_keys") or [_fact(fact)["machine"].get("public_host_key")]
        for line in filter(None, lines):
            key = _match(_KEY, " ".join(str(line).split()[:2]), f"a host key of {name}")
            # While one takes the place of another there are two of a kind.
            mark = hashlib.sha256(key.encode()).hexdigest()[:8]
            found[f"nixfleet-{name}-{key.split()[0]}-{mark}"] = {"hostNames": [name], "publicKey": key}
    return found
