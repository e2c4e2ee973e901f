# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run opens for which machine, and that nothing stays open."""

from __future__ import annotations

import contextlib
import typing as t
from collections.abc import Iterator

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import openers
from ansible_collections.nixfleet.builders.plugins.module_utils.channel import ChannelClosed, ChannelError, FileChannel
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine
from ansible_collections.nixfleet.builders.plugins.module_utils.openers import TIMEOUT, RealStores
from ansible_collections.nixfleet.builders.plugins.module_utils.protocol import Options, RemoteError, VersionError
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_config import Target
from ansible_collections.nixfleet.builders.tests.support.played_store import PlayedStore, connected

OPTIONS = Options(max_build_jobs=2, build_cores=3)


class Reached:
    """All that is opened is the played store. calls: what was asked for. channels: opened ones; closed: of these."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.played = PlayedStore()
        self.calls: list[t.Any] = []
        self.channels: list[FileChannel] = []
        self.closed: list[FileChannel] = []
        self._stack = stack

    def open(self, *call: t.Any) -> FileChannel:
        self.calls.append(call)
        channel = self._stack.enter_context(connected(self.played))
        close = channel.close

        def close_and_tell() -> None:
            self.closed.append(channel)
            close()

        channel.close = close_and_tell  # type: ignore[method-assign]
        self.channels.append(channel)
        return channel


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reached]:
    with contextlib.ExitStack() as stack:
        reached = Reached(stack)

        class Host:
            def __init__(self, target: Target, connect_timeout: float) -> None:
                reached.calls.append((target, connect_timeout))
                self.open = reached.open

            def ask(self, *call: t.Any) -> bytes:
                reached.calls.append(("ask", *call))
                return b"{}"

            def close(self) -> None:
                reached.calls.append("closed")

        def target_of(machine: Machine) -> Target:
            reached.calls.append(machine.uri)
            return target(alive_interval=60)

        monkeypatch.setattr(openers, "SshHost", Host)
        monkeypatch.setattr(openers, "target_of", target_of)
        monkeypatch.setattr(openers, "open_local", reached.open)
        yield reached


def target(**fields: t.Any) -> Target:
    return Target(name="b1", address="b1", port=22, user="u", **fields)


def stores(options: Options | None = None) -> RealStores:
    return RealStores("/bin/nix-daemon", 7.0, options)


# ---------------------------------------------------------------------------------------------------- this host


def test_the_clients_own_store(reached: Reached) -> None:
    opener = stores(OPTIONS).client()
    assert reached.calls == []
    for _unused in range(2):
        store = opener.open()
        store.is_valid_path("/nix/store/a")
    assert reached.calls == [("auto", "/bin/nix-daemon", 7.0, TIMEOUT)] * 2
    assert reached.played.requests == [("SetOptions", OPTIONS), ("IsValidPath", "/nix/store/a")] * 2
    opener.close()
    assert store.is_valid_path("/nix/store/a") is False and reached.closed == []


def test_without_options_of_ours(reached: Reached) -> None:
    stores().client().open().is_valid_path("/nix/store/a")
    assert [name for name, _request in reached.played.requests] == ["IsValidPath"]


def test_another_store_of_this_host(reached: Reached) -> None:
    """Its options are its own."""
    stores(OPTIONS).machine(Machine("local?root=/r")).open().is_valid_path("/nix/store/a")
    assert reached.calls == [("local?root=/r", "/bin/nix-daemon", 7.0, TIMEOUT)]
    assert [name for name, _request in reached.played.requests] == ["IsValidPath"]


def test_a_daemon_that_is_too_old(reached: Reached) -> None:
    reached.played.version = (1, 21)
    with pytest.raises(VersionError):
        stores().client().open()
    assert reached.closed == reached.channels[:1] != []


def test_a_daemon_that_refuses_the_options(reached: Reached) -> None:
    reached.played.refuse["SetOptions"] = "not for you"
    with pytest.raises(RemoteError, match="not for you"):
        stores(OPTIONS).client().open()
    assert reached.closed == reached.channels[:1] != []


# ---------------------------------------------------------------------------------------------------- over ssh


@pytest.mark.parametrize("scheme", ["ssh", "ssh-ng"])
def test_a_builder(reached: Reached, scheme: str) -> None:
    """ssh_config is read when it is first opened (and its silence cut short); all connections are one SshHost's."""
    opener = stores(OPTIONS).machine(Machine(f"{scheme}://u@b1?remote-store=/r"))
    assert reached.calls == []
    first, second = opener.open(), opener.open()
    assert first.trusted and second.trusted and first.channel is not second.channel
    command = ("nix-daemon --stdio --store /r", TIMEOUT)
    assert reached.calls == ["ssh-ng://u@b1?remote-store=/r", (target(), 7.0), command, command]
    first.is_valid_path("/nix/store/a")
    assert [name for name, _request in reached.played.requests] == ["IsValidPath"]
    opener.close()
    assert reached.calls[-1] == "closed"


def test_a_builder_that_is_too_old(reached: Reached) -> None:
    """Its connection stays, as others may come."""
    reached.played.version = (1, 21)
    opener = stores().machine(Machine("ssh-ng://b1"))
    with pytest.raises(VersionError):
        opener.open()
    assert reached.closed == reached.channels[:1] != [] and "closed" not in reached.calls


def test_none_is_opened_after_the_end(reached: Reached) -> None:
    opener = stores().machine(Machine("ssh-ng://b1"))
    opener.close()
    with pytest.raises(ChannelClosed, match="ssh-ng://b1: the run ended"):
        opener.open()
    assert reached.calls == []


def test_its_load_probe(reached: Reached) -> None:
    """Is asked over what is open already."""
    opener = stores().machine(Machine("ssh-ng://b1"))
    with pytest.raises(ChannelClosed, match="nothing is open"):
        opener.measure()
    opener.open()
    assert opener.measure() == b"{}" and reached.calls[-1] == ("ask", "nixfleet-load", 2.0, 4096)
    assert stores().client().measure() == stores().machine(Machine("local")).measure() == b""


def test_what_cannot_be_connected_may_be_tried_again(reached: Reached, monkeypatch: pytest.MonkeyPatch) -> None:
    opener = stores().machine(Machine("ssh-ng://b1"))
    reach = reached.open
    errors = [ChannelError("b1", "no route to host")]

    def fail(*call: t.Any) -> FileChannel:
        if errors:
            raise errors.pop()
        return reach(*call)

    reached.open = fail  # type: ignore[method-assign]
    with pytest.raises(ChannelError, match="no route"):
        opener.open()
    assert opener.open().trusted
    assert reached.calls.count("ssh-ng://b1") == 1


@pytest.mark.parametrize(
    ("configured", "kept"),
    [
        ({}, True),
        ({"alive_interval": 6}, True),
        ({"alive_interval": 5, "alive_count": 4}, True),
        ({"alive_interval": 5, "alive_count": 5}, False),
        ({"alive_interval": 7}, False),
        ({"alive_interval": 60}, False),
        ({"alive_count": 100}, True),
    ],
)
def test_silence_of_builders_is_noticed_as_early_as_is_usual(configured: dict[str, int], kept: bool) -> None:
    """ServerAliveInterval and ServerAliveCountMax count as far as they notice it earlier than 25 s."""
    expected = configured if kept else {}
    assert openers._watched(target(identity_files=("/k",), **configured)) == target(identity_files=("/k",), **expected)
