# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which URI opens what, and that nothing stays open."""

from __future__ import annotations

import contextlib
import threading
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import stores
from ansible_collections.nixfleet.builders.plugins.module_utils.channel import ChannelError, FileChannel
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine
from ansible_collections.nixfleet.builders.plugins.module_utils.protocol import VersionError
from ansible_collections.nixfleet.builders.tests.support.played_store import PlayedStore, connected


@pytest.fixture
def calls() -> list[t.Any]:
    return []


@pytest.fixture
def played() -> PlayedStore:
    return PlayedStore()


@pytest.fixture
def channel(played: PlayedStore) -> Iterator[FileChannel]:
    with connected(played) as channel:
        yield channel


@pytest.fixture(autouse=True)
def builder(monkeypatch: pytest.MonkeyPatch, channel: FileChannel, calls: list[t.Any]) -> None:
    """Whatever is reached by ssh is the played store."""

    class Host:
        def __init__(self, target: object, connect_timeout: float) -> None:
            calls.append((target, connect_timeout))

        def open(self, command: str, idle_timeout: float | None) -> FileChannel:
            calls.append((command, idle_timeout))
            return channel

        def close(self) -> None:
            calls.append("closed")

    monkeypatch.setattr(stores, "SshHost", Host)
    monkeypatch.setattr(stores, "target_of", lambda machine: machine.uri)


@pytest.mark.parametrize("scheme", ["ssh", "ssh-ng"])
def test_a_builder(scheme: str, calls: list[t.Any], channel: FileChannel) -> None:
    uri = f"{scheme}://u@b1?remote-store=/r"
    with stores.open_store(Machine(uri), connect_timeout=3, timeout=4, patience=5) as store:
        assert store.trusted
        assert calls == [("ssh-ng://u@b1?remote-store=/r", 3), ("nix-daemon --stdio --store /r", 4)]
    assert store.broken
    assert calls[-1] == "closed"
    with pytest.raises(ChannelError):
        channel.read(1)


def test_a_builder_that_is_too_old(played: PlayedStore, calls: list[t.Any]) -> None:
    played.version = (1, 21)
    with pytest.raises(VersionError, match="Nix 2.3"), stores.open_store(Machine("ssh-ng://b1")):
        pass
    assert calls[-1] == "closed"


def test_stores_of_this_host(tmp_path: Path, calls: list[t.Any]) -> None:
    program = tmp_path / "nix-daemon"
    program.write_text('#!/bin/sh\necho "$@" >&2\n')
    program.chmod(0o755)
    for uri in (str(tmp_path), "local?root=/r"):
        with (
            pytest.raises(ChannelError, match=f"--stdio --store {uri}".replace("?", "[?]")),
            contextlib.ExitStack() as stack,
        ):
            stack.enter_context(stores.open_store(Machine(uri), nix_daemon=str(program)))
    with pytest.raises(ChannelError, match="cannot connect"), stores.open_store(Machine(f"unix://{tmp_path}/socket")):
        pass
    assert calls == []


def test_several_are_opened_at_once(monkeypatch: pytest.MonkeyPatch, calls: list[t.Any]) -> None:
    """Each waits for the other; what one raises is raised when both are done, and nothing stays open."""
    together = threading.Barrier(2, timeout=10)

    @contextlib.contextmanager
    def opening(machine: Machine, **options: t.Any) -> Iterator[str]:
        together.wait()
        if options["fails"] in machine.uri:
            raise ChannelError(machine.uri, "is not there")
        calls.append(machine.uri)
        try:
            yield machine.uri
        finally:
            calls.append("closed")

    monkeypatch.setattr(stores, "open_store", opening)
    machines = (Machine("ssh-ng://b1"), Machine("ssh-ng://b2"))
    with stores.open_stores(machines, fails="nowhere") as opened:
        assert opened == ["ssh-ng://b1", "ssh-ng://b2"]
    assert calls[2:] == ["closed", "closed"]
    del calls[:]
    with pytest.raises(ChannelError, match="b1: is not there"), stores.open_stores(machines, fails="b1"):
        pass
    assert calls == ["ssh-ng://b2", "closed"]
