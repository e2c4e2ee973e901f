# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The URI of a store, for every version of Nix that reads it differently."""

from __future__ import annotations

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils.store_uri import (
    UriError,
    check_uri,
    identity,
    is_ipv6,
    is_loopback,
    is_plain_ssh,
    is_read,
    join_uri,
    normal_host,
    normal_uri,
    split_uri,
)
from ansible_collections.nixfleet.builders.tests.support.machine_samples import NEW, OLD, URIS, VERSION, VERSIONS
from hypothesis import given
from hypothesis import strategies as st


def refusal(uri: str, version: tuple[int, ...]) -> UriError:
    with pytest.raises(UriError) as caught:
        check_uri(uri, version)
    assert str(caught.value) == f"{caught.value.reason}; {caught.value.hint}"
    return caught.value


# ---------------------------------------------------------------------------------------------------- parts


def test_the_parts_of_a_uri() -> None:
    assert split_uri("ssh-ng://u@[::1]:22?a=b") == ("ssh-ng", "u", "::1", 22, "?a=b")
    assert split_uri("ssh://b") == ("ssh", None, "b", None, "")
    assert split_uri("daemon") == ("", None, "", None, "daemon")
    assert split_uri("ssh://fe80::1").host == "fe80::1"


@pytest.mark.parametrize(
    ("protocol", "user", "host", "uri"),
    [
        ("ssh", "", "b", "ssh://b"),
        ("ssh-ng", "u", "2001:db8::1", "ssh-ng://u@[2001:db8::1]"),
        ("ssh-ng", "", "[fe80::1%eth0]", "ssh-ng://[fe80::1%eth0]"),
    ],
)
def test_parts_make_a_uri(protocol: str, user: str, host: str, uri: str) -> None:
    assert join_uri(protocol, user, host) == uri


@pytest.mark.parametrize("host", ["b:22", "b?compress=true", "a@b", "a/b"])
def test_parts_that_are_more_than_that(host: str) -> None:
    with pytest.raises(UriError) as caught:
        join_uri("ssh", "", host)
    assert (caught.value.part, "do not make a URI" in caught.value.reason) == ("host", True)


@pytest.mark.parametrize(
    ("given", "uri"),
    [
        ("b", "ssh://b"),
        ("u@b?a=b", "ssh://u@b?a=b"),
        *((same, same) for same in ("ssh-ng://b", "daemon", "auto?root=/x", "local?x=y", "/srv", "?root=/x", "", "-")),
    ],
)
def test_the_scheme_that_nix_adds(given: str, uri: str) -> None:
    assert normal_uri(given) == uri


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ssh://b", "ssh://B"),
        ("ssh://b", "b"),
        ("ssh://b", "ssh://b."),
        ("ssh://u@b?a=1&c=2", "ssh://u@b?c=2&a=1"),
        ("ssh://u@b?a=%2F", "ssh://%75@b?a=/"),
        ("ssh://[2001:db8::1]", "ssh://[2001:0DB8:0:0::1]"),
        ("unix:///run/nix", "unix:///run/nix/"),
    ],
)
def test_two_uris_of_one_store(one: str, other: str) -> None:
    assert identity(one) == identity(other)


@pytest.mark.parametrize("other", ["ssh://c", "ssh-ng://b", "ssh://u@b", "ssh://b?compress=true", "ssh://b:22", "/b"])
def test_uris_of_two_stores(other: str) -> None:
    assert identity("ssh://b") != identity(other)


# ---------------------------------------------------------------------------------------------------- hosts


def test_hosts() -> None:
    assert [is_ipv6(host) for host in ("::1", "fe80::1%eth0", "[::1]", "198.18.0.1", "b")] == [True, True, *[False] * 3]
    assert normal_host("Builder.Example.org.") == "builder.example.org"
    assert normal_host("2001:0DB8::0:1") == "2001:db8::1"
    assert normal_host("fe80:0::1%eth0") == "fe80::1%eth0"
    assert normal_host("1.2.3") == "1.2.3"


@pytest.mark.parametrize("host", ["localhost", "LocalHost.", "a.localhost", "127.0.1.1", "::1"])
def test_the_host_itself(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["b", "localhost.example.org", "198.18.0.1", "2001:db8::1", "127.1", "127:b"])
def test_other_hosts(host: str) -> None:
    assert not is_loopback(host)


# ---------------------------------------------------------------------------------------------------- well-formed


@pytest.mark.parametrize(
    ("uri", "part", "reason"),
    [
        ("SSH://b", "protocol", "no protocol"),
        ("ssh://", "host", "no host"),
        ("ssh://b]", "host", "no host"),
        ("ssh://b/srv", "uri", "no path"),
        ("ssh://b?compress", "uri", "cannot be read"),
        ("ssh://b?x=y&compress=truee", "uri", "no Boolean"),
        ("ssh-ng://b?trusted=%31%31", "uri", "no Boolean"),
        ("ssh://b?a=%zz", "uri", "cannot be read"),
        ("ssh://-oProxyCommand=x", "host", "begins with '-'"),
        ("ssh://-u@b", "user", "begins with '-'"),
        ("ssh://@b", "user", "no user name"),
        ("ssh://u:secret@b", "user", "no user name"),
        ("ssh://bü", "host", "no host name"),
        ("ssh://[2001:db8::g]", "host", "no IPv6"),
        ("ssh://[b]", "host", "no IPv6"),
        ("ssh://2001:db8::1", "host", "no brackets"),
        ("ssh://b:0", "port", "no port"),
        ("ssh://b:", "port", "no port"),
        ("ssh://b:70000", "port", "no port"),
    ],
)
@pytest.mark.parametrize("version", [OLD, NEW])
def test_what_nix_would_misread(uri: str, part: str, reason: str, version: tuple[int, ...]) -> None:
    error = refusal(uri, version)
    assert (error.part, reason in error.reason) == (part, True), error


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("uri", ["ssh-ng://u@b:2222", "ssh://[2001:db8::1]:22"])
def test_a_port_needs_nix_2_31(uri: str, version: tuple[int, ...]) -> None:
    if version >= (2, 31):
        check_uri(uri, version)
    else:
        error = refusal(uri, version)
        assert (error.part, "ssh_config" in error.hint, "Port 22" in error.hint) == ("port", True, True)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_zone_of_an_address_is_garbled_since_2_31(version: tuple[int, ...]) -> None:
    uri = "ssh://[fe80::1%eth0]?compress=true"
    if version < (2, 31):
        check_uri(uri, version)
        assert refusal("ssh://[fe80::1%]", version).part == "host"
    else:
        error = refusal(uri, version)
        assert (error.part, "HostName" in error.hint) == ("host", True)


@pytest.mark.parametrize(
    "uri", ["auto?root=/x", "/srv/store", "unix:///run/nix", "grpc://x/y?z", "ssh://u@b.example.org."]
)
def test_other_stores_are_left_to_nix(uri: str) -> None:
    check_uri(uri, OLD)


@pytest.mark.parametrize("uri", ["ssh://a^b", "ssh://bü", "ssh://b?c=%zz", "?a=%zz", "1://b", "b:c/://"])
def test_a_uri_that_is_none_disables_all_machines_since_2_23(uri: str) -> None:
    assert (is_read(uri, (2, 22)), is_read(uri, (2, 23))) == (True, False)


@pytest.mark.parametrize(("port", "read"), [("2222", True), ("0", False), ("65536", False), ("9" * 5000, False)])
def test_a_port_is_read_as_one_since_2_31(port: str, read: bool) -> None:
    assert (is_read(f"ssh://b:{port}", (2, 30)), is_read(f"ssh://b:{port}", (2, 31))) == (True, read)


@given(URIS, VERSION)
def test_what_passes_the_check_is_read(uri: str, version: tuple[int, ...]) -> None:
    check_uri(uri, version)
    assert is_read(uri, version)
    assert normal_uri(uri) == uri
    assert identity(identity(uri)) == identity(uri)


@given(st.text(max_size=30) | st.from_regex(r"ssh(-ng)?://[a-z@:.\[\]%/?=-]{0,15}", fullmatch=True), VERSION)
def test_no_text_raises_anything_else(text: str, version: tuple[int, ...]) -> None:
    identity(text)
    is_read(text, version)
    try:
        check_uri(text, version)
    except UriError as error:
        assert not is_plain_ssh(text), error
