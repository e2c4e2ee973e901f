# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The URI of a store: its parts, normal form and identity, and whether a version of Nix reads it as it is meant.

Pure. The rules changed with Nix's version twice:

- 2.23 (store-reference.cc): a URI is parsed with the machines file, and one that is none disables all machines.
- 2.31 (ssh.cc, store-reference.cc): a port in the URI reaches ssh; the zone of an IPv6 address does no more (2.34.8
  hands ssh a host name with two NUL bytes at its end).
"""

from __future__ import annotations

import ipaddress
import re
import typing as t
from urllib.parse import unquote

from ansible_collections.nixfleet.builders.plugins.module_utils.error_text import shown
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_version import Version, version_text

PARSED_SINCE: Version = (2, 23)
PORT_SINCE: Version = (2, 31)

SSH_SCHEMES = ("ssh", "ssh-ng", "mounted-ssh-ng")
#: The words for the store of the host itself (store-api.cc).
OWN_STORES = ("auto", "daemon", "local")

_PLAIN_SSH = re.compile(r"ssh(?:-ng)?://(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_USER = re.compile(r"[A-Za-z0-9_.~+-]+\$?")
_HOST = re.compile(r"[A-Za-z0-9_.~-]+")
_IPV4_LIKE = re.compile(r"[0-9.]+")
_ZONE = re.compile(r"[A-Za-z0-9_.~-]+")
_HOST_AND_PORT = re.compile(r"(\[.*\]|[^:\[\]]*):([0-9]{1,10})", re.DOTALL)
_AUTHORITY = re.compile(r"(?:([^@]*)@)?(\[[^\]]*\]|[^\[\]]*?)(?::([0-9]*))?")
_QUERY = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,=:@/?\"-]|%[0-9A-Fa-f]{2})*")
#: RFC 3986, with IPv6 addresses also as Nix has always taken them: without brackets, and a zone after a bare %.
_URL_CHAR = r"[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2}"
_URL = re.compile(
    rf"[a-z][a-z0-9+.-]*://(?:(?:{_URL_CHAR}|:)*@)?"
    r"(?:\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._~-]+)?\]"
    r"|[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:]*(?:%[A-Za-z0-9._~-]+)?"
    rf"|(?:{_URL_CHAR})*?)"
    rf"(?P<port>:[0-9]+)?(?:/(?:{_URL_CHAR}|[:@/])*)?(?:\?(?:{_URL_CHAR}|[:@/?\"])*)?"
)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class UriError(ValueError):
    """A URI that is refused. part: what of it (uri, protocol, user, host or port). reason: why. hint: what to do."""

    def __init__(self, part: str, reason: str, hint: str) -> None:
        super().__init__(f"{reason}; {hint}")
        self.part = part
        self.reason = reason
        self.hint = hint


# ---------------------------------------------------------------------------------------------------- parts


class UriParts(t.NamedTuple):
    """A URI's scheme (empty for a path or a word like C(daemon)), user, host without brackets, port, all after it."""

    protocol: str
    user: str | None
    host: str
    port: int | None
    rest: str


def split_uri(uri: str) -> UriParts:
    """The parts of a URI. What is no URL with an authority comes back whole in C(rest); nothing is judged."""
    scheme, found, tail = uri.partition("://")
    if not found:
        return UriParts("", None, "", None, uri)
    end = min((tail.find(mark) for mark in "/?" if mark in tail), default=len(tail))
    authority, rest = tail[:end], tail[end:]
    user: str | None = None
    if "@" in authority:
        user, _at, authority = authority.rpartition("@")
    host, port = authority, None
    # Several colons without brackets are an IPv6 address, not a port.
    split = _HOST_AND_PORT.fullmatch(authority)
    if split:
        host, port = split.group(1), int(split.group(2))
    if host[:1] == "[" and host[-1:] == "]":
        host = host[1:-1]
    return UriParts(scheme, user, host, port, rest)


def join_uri(protocol: str, user: str, host: str) -> str:
    """The ssh URI of these parts; no user: C(''). Raises UriError where they would not come out of it again."""
    if host[0] != "[" and is_ipv6(host):
        host = f"[{host}]"
    uri = f"{protocol}://{user + '@' if user else ''}{host}"
    if split_uri(uri) != (protocol, user or None, host.strip("[]"), None, ""):
        raise UriError(
            "host",
            "protocol, user and host do not make a URI",
            "write nothing else in them: the port is port, parameters need the whole uri",
        )
    return uri


def normal_uri(uri: str) -> str:
    """The URI with the scheme that Nix adds (machines.cc, Machine::Machine)."""
    if "/" in uri or uri in (*OWN_STORES, "-", "") or uri.startswith(("auto?", "daemon?", "local?", "?")):
        return uri
    return "ssh://" + uri


def identity(uri: str) -> str:
    """What two URIs of one machine have in common: host names in lower case, one form of addresses and parameters."""
    # Most URIs are their own identity; with thousands of machines the way round is dear.
    if uri.islower() and _PLAIN_SSH.fullmatch(uri) and uri[-1] not in ".0123456789":
        return uri
    parts = split_uri(normal_uri(uri))
    if not parts.protocol:
        return parts.rest
    path, _mark, query = parts.rest.partition("?")
    user = "" if parts.user is None else unquote(parts.user) + "@"
    port = "" if parts.port is None else f":{parts.port}"
    query = "?" + "&".join(sorted(map(unquote, query.split("&")))) if query else ""
    return f"{parts.protocol}://{user}{normal_host(parts.host)}{port}{path.rstrip('/')}{query}"


# ---------------------------------------------------------------------------------------------------- hosts


def is_ipv6(host: str) -> bool:
    """Whether this is an IPv6 address, with a zone or without, not in brackets."""
    try:
        ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def normal_host(host: str) -> str:
    """A name in lower case without the dot at its end, an address in its shortest form."""
    if ":" not in host and not _IPV4_LIKE.fullmatch(host):
        return host.lower().rstrip(".")
    address, mark, zone = host.partition("%")
    try:
        return ipaddress.ip_address(address).compressed + mark + zone
    except ValueError:
        return host.lower()


def is_loopback(host: str) -> bool:
    """Whether a name or an address always means the host itself."""
    normal = normal_host(host)
    if normal == "localhost" or normal.endswith(".localhost"):
        return True
    if ":" not in normal and not _IPV4_LIKE.fullmatch(normal):
        return False
    try:
        return ipaddress.ip_address(normal).is_loopback
    except ValueError:
        return False


# ---------------------------------------------------------------------------------------------------- well-formed

#: Parameters of ssh stores that Nix reads when it connects, and what it reads (libstore's store-api.hh and
#: ssh-store-config.hh; BaseSetting<bool>::parse in libutil's config.cc).
_BOOLEANS = frozenset({"compress", "trusted", "want-mass-query"})
_BOOLEAN = frozenset({"true", "yes", "1", "false", "no", "0"})


def is_plain_ssh(uri: str) -> bool:
    """Whether this is an ssh URI of letters and digits, which every Nix reads alike; a short way for most URIs."""
    return _PLAIN_SSH.fullmatch(uri) is not None


def is_read(uri: str, nix_version: Version) -> bool:
    """Whether this Nix reads a machines file in which the URI stands, whatever it then makes of it."""
    if nix_version < PARSED_SINCE or _PLAIN_SSH.fullmatch(uri):
        return True
    uri = normal_uri(uri)
    if "://" not in uri:
        return not _BAD_ESCAPE.search(uri.partition("?")[2])
    found = _URL.fullmatch(uri)
    port = found.group("port") if found else None
    return bool(found) and (not port or nix_version < PORT_SINCE or _is_port(port[1:]))


def check_uri(uri: str, nix_version: Version) -> None:
    """Raises UriError for an ssh URI that this Nix would not parse, or hand to ssh wrongly. Others are left to Nix."""
    scheme, found, tail = uri.partition("://")
    if not found:
        return
    if not _SCHEME.fullmatch(scheme):
        raise UriError("protocol", f"{shown(scheme)} is no protocol", "write ssh-ng or ssh, in lower case")
    if scheme not in SSH_SCHEMES:
        return
    before, _mark, query = tail.partition("?")
    authority, slash, _path = before.partition("/")
    if slash:
        raise UriError(
            "uri", "an ssh URI has no path: Nix takes it for a part of the host name", "end it after the host"
        )
    if not _QUERY.fullmatch(query) or any("=" not in word for word in query.split("&") if query):
        raise UriError(
            "uri", f"the parameters {shown(query)} cannot be read", "write name=value&name=value, percent-encoded"
        )
    for word in query.split("&"):
        name, _equals, value = word.partition("=")
        if name in _BOOLEANS and unquote(value) not in _BOOLEAN:
            raise UriError(
                "uri",
                f"the parameter {name} is {shown(value)}, which Nix takes for no Boolean",
                f"write {name}=true or {name}=false",
            )
    match = _AUTHORITY.fullmatch(authority)
    if not match:
        raise UriError("host", f"{shown(authority)} is no host", "write [user@]host, an IPv6 address in [ ]")
    user, host, port = match.groups()
    if user is not None:
        _check_user(user)
    _check_host(host, nix_version)
    if port is not None:
        _check_port(port, host, nix_version)


def _check_user(user: str) -> None:
    if user.startswith("-"):
        raise UriError("user", f"the user {shown(user)} begins with '-', an option to ssh", "use another name")
    if not _USER.fullmatch(user):
        raise UriError(
            "user",
            f"{shown(user)} is no user name that every Nix reads",
            "use letters, digits and _ . ~ + -, or User in ssh_config",
        )


def _check_host(host: str, nix_version: Version) -> None:
    if host.startswith("["):
        _check_ipv6(host[1:-1], nix_version)
    elif ":" in host:
        raise UriError("host", f"the IPv6 address {shown(host)} has no brackets", f"write [{host}]")
    elif host.startswith("-"):
        raise UriError("host", f"the host {shown(host)} begins with '-', an option to ssh", "use another name")
    elif not _HOST.fullmatch(host):
        raise UriError(
            "host", f"{shown(host)} is no host name", "use letters, digits and _ . ~ -, or an alias of ssh_config"
        )


def _check_ipv6(text: str, nix_version: Version) -> None:
    _address, mark, zone = text.partition("%")
    if not is_ipv6(text):
        raise UriError("host", f"{shown(text)} is no IPv6 address", "correct it, or use a name without brackets")
    if mark and nix_version >= PORT_SINCE:
        raise UriError(
            "host",
            f"Nix {version_text(nix_version)} hands ssh a damaged name for an address with a zone ({shown(zone)})",
            "use a name, and set HostName to the address in the client's ssh_config",
        )
    if mark and not _ZONE.fullmatch(zone):
        raise UriError("host", f"{shown(zone)} is no zone of an IPv6 address", "name the network interface, like %eth0")


def _check_port(port: str, host: str, nix_version: Version) -> None:
    if not _is_port(port):
        raise UriError("port", f"{shown(port)} is no port", "write a number from 1 to 65535")
    if nix_version < PORT_SINCE:
        raise UriError(
            "port",
            f"Nix {version_text(nix_version)} takes {host}:{port} for the host's name, it reads no port in a URI",
            f"leave it out and set Port {port} for this host in the client's ssh_config",
        )


def _is_port(digits: str) -> bool:
    return 1 <= len(digits) <= 5 and 1 <= int(digits) <= 65535
