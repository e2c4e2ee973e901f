# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What carries a connection, and how each of it fails. Clocks are played where they count."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import typing as t
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import ssh_wire
from ansible_collections.nixfleet.builders.plugins.module_utils.channel import ChannelError
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_config import Target
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_wire import (
    ProxyCommand,
    SshError,
    SshTimeout,
    Tunnel,
    Wire,
    open_tcp,
)

TARGET = Target(name="b1", address="127.0.0.1", port=22, user="me")


def soon(seconds: float = 20.0) -> float:
    return time.monotonic() + seconds


def test_errors() -> None:
    error = SshTimeout(TARGET, "no answer")
    assert isinstance(error, SshError) and isinstance(error, ChannelError) and not error.permanent
    assert str(error) == "ssh to me@b1 (127.0.0.1:22): no answer"
    assert SshError(TARGET, "no", permanent=True).permanent


# ---------------------------------------------------------------------------------------------------- Wire


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(ssh_wire, "time", clock)
    return clock


@pytest.fixture
def ends(clock: Clock) -> Iterator[tuple[Wire, socket.socket]]:
    """A wire that does not wait, and the other end."""
    ours, theirs = socket.socketpair()
    wire = Wire(ours)
    wire.settimeout(0.001)
    with ours, theirs:
        yield wire, theirs


def test_bytes_and_an_end(ends: tuple[Wire, socket.socket]) -> None:
    wire, theirs = ends
    assert wire.send(b"abc") == 3 and theirs.recv(10) == b"abc"
    theirs.sendall(b"defg")
    assert wire.recv(3) == b"def" and wire.recv(3) == b"g"
    with pytest.raises(socket.timeout):
        wire.recv(1)
    assert wire.lost == ""
    theirs.close()
    assert wire.recv(1) == b""
    assert wire.lost == "the other end closed it"


def test_silence(ends: tuple[Wire, socket.socket], clock: Clock) -> None:
    """Nobody misses what nobody asked for; then alive_timeout counts from the first time it was asked for."""
    wire, theirs = ends
    theirs.sendall(b"a")
    wire.recv(1)
    clock.now += 1000
    with pytest.raises(socket.timeout):
        wire.recv(1)
    wire.asked()
    clock.now += ssh_wire.ALIVE_TIMEOUT - 1
    wire.asked()
    with pytest.raises(socket.timeout):
        wire.recv(1)
    clock.now += 2
    with pytest.raises(OSError, match="no sign of life for 1016 s") as caught:
        wire.recv(1)
    assert not isinstance(caught.value, socket.timeout)
    assert wire.lost == "no sign of life for 1016 s"


def test_any_byte_is_a_sign_of_life(ends: tuple[Wire, socket.socket], clock: Clock) -> None:
    wire, theirs = ends
    wire.asked()
    clock.now += 10
    theirs.sendall(b"a")
    wire.recv(1)
    clock.now += 10
    with pytest.raises(socket.timeout):
        wire.recv(1)
    wire.asked()
    clock.now += 10
    with pytest.raises(socket.timeout):
        wire.recv(1)


def fill(wire: Wire) -> None:
    """Until the other end takes no more."""
    with pytest.raises(socket.timeout):
        while True:
            wire.send(bytes(1 << 16))


def test_who_takes_bytes_slowly_is_alive(ends: tuple[Wire, socket.socket], clock: Clock) -> None:
    """Its answer may be behind all that it takes; who takes nothing is not."""
    wire, theirs = ends
    fill(wire)
    wire.asked()
    clock.now += 14
    theirs.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while theirs.recv(1 << 16):
            pass
    assert wire.send(bytes(1 << 24)) < 1 << 24
    clock.now += 14
    with pytest.raises(socket.timeout):
        wire.recv(1)
    clock.now += 2
    with pytest.raises(OSError, match="no sign of life"):
        wire.recv(1)


def test_silence_is_noticed_while_sending(ends: tuple[Wire, socket.socket], clock: Clock) -> None:
    wire, _theirs = ends
    fill(wire)
    wire.asked()
    clock.now += 16
    with pytest.raises(OSError, match="no sign of life for 16 s"):
        wire.send(bytes(1 << 16))


def test_what_ssh_config_says(ends: tuple[Wire, socket.socket], clock: Clock) -> None:
    wire, _theirs = ends
    wire.watch(replace(TARGET, alive_count=7))
    assert (wire.alive_interval, wire.alive_timeout) == (ssh_wire.ALIVE_INTERVAL, ssh_wire.ALIVE_TIMEOUT)
    wire.watch(replace(TARGET, alive_interval=5))
    assert (wire.alive_interval, wire.alive_timeout) == (5.0, 15.0)
    wire.watch(replace(TARGET, alive_interval=2, alive_count=1))
    assert (wire.alive_interval, wire.alive_timeout) == (2.0, 2.0)
    wire.asked()
    clock.now += 3
    with pytest.raises(OSError, match="no sign of life for 3 s"):
        wire.recv(1)


def test_the_first_reason_counts(ends: tuple[Wire, socket.socket]) -> None:
    """Also for those that come later, whatever the socket says by then."""
    wire, theirs = ends
    wire.close()
    wire.close()
    assert theirs.recv(1) == b""
    for call in (lambda: wire.recv(1), lambda: wire.send(b"a")):
        with pytest.raises(OSError, match="closed by us"):
            call()
    assert wire.lost == "closed by us"


def test_a_reset_is_told_in_its_words() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    wire = Wire(ours)
    with ours, pytest.raises(OSError, match="Broken pipe"):
        wire.send(b"a")
    assert wire.lost == "Broken pipe"


def test_what_paramiko_asks_before_it_waits_for_its_thread(ends: tuple[Wire, socket.socket]) -> None:
    wire, _theirs = ends
    assert not wire._closed
    wire.close()
    assert wire._closed


# ---------------------------------------------------------------------------------------------------- Tunnel


class JumpChannel:
    """Plays a channel of a jump host. calls: what was asked of it."""

    def __init__(self, *data: bytes) -> None:
        self.data = list(data)
        self.calls: list[t.Any] = []

    def recv(self, size: int) -> bytes:
        self.calls.append(size)
        if not self.data:
            raise socket.timeout
        return self.data.pop(0)

    def send(self, data: bytes) -> int:
        self.calls.append(data)
        return len(data) - 1

    def settimeout(self, seconds: float) -> None:
        self.calls.append(("timeout", seconds))

    def shutdown(self, how: int) -> None:
        self.calls.append(("shutdown", how))

    def close(self) -> None:
        self.calls.append("close")


def test_a_tunnel_is_read_whole() -> None:
    channel = JumpChannel(b"abcdef", b"g", b"")
    tunnel = Tunnel(t.cast(t.Any, channel))
    assert [tunnel.recv(size) for size in (2, 3, 9)] == [b"ab", b"cde", b"f"]
    assert channel.calls == [ssh_wire.WINDOW]
    assert tunnel.recv(9) == b"g"
    assert tunnel.recv(9) == b"" and channel.calls == [ssh_wire.WINDOW] * 3
    with pytest.raises(socket.timeout):
        tunnel.recv(1)


def test_a_wire_through_a_tunnel() -> None:
    channel = JumpChannel()
    wire = Wire(Tunnel(t.cast(t.Any, channel)))
    wire.settimeout(0.1)
    assert wire.send(b"abc") == 2
    with pytest.raises(socket.timeout):
        wire.recv(5)
    wire.close()
    assert channel.calls == [("timeout", 0.1), b"abc", ssh_wire.WINDOW, ("shutdown", socket.SHUT_RDWR), "close"]


# ---------------------------------------------------------------------------------------------------- ProxyCommand


def test_proxy_command_is_one_socket() -> None:
    proxy = ProxyCommand("cat")
    proxy.socket.settimeout(20)
    proxy.socket.sendall(b"abc")
    assert proxy.socket.recv(3) == b"abc"
    proxy.close()
    assert proxy._process.returncode is not None


def test_last_words_of_a_proxy_command() -> None:
    proxy = ProxyCommand("sh -c 'printf %2000s begin >&2; echo no way >&2; exit 1'")
    proxy.socket.settimeout(20)
    assert proxy.socket.recv(1) == b""
    words = proxy.last_words()
    assert words.endswith("begin" + "no way") and len(words) <= 1000
    proxy.close()


@pytest.mark.parametrize("trap", ["", 'trap "" TERM; '])
def test_proxy_command_ends_as_a_whole(tmp_path: Path, trap: str) -> None:
    """With what it has started, also where that does not listen to SIGTERM."""
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    # Whoever lives holds the FIFO open.
    proxy = ProxyCommand(f"sh -c '{trap}exec 9>{fifo}; sleep 100 & echo ready; wait; sleep 100'")
    reader = os.open(fifo, os.O_RDONLY)
    proxy.socket.settimeout(20)
    assert proxy.socket.recv(6) == b"ready\n"
    closing = threading.Thread(target=proxy.close, daemon=True)
    closing.start()
    closing.join(20)
    assert not closing.is_alive()
    os.set_blocking(reader, False)
    limit = soon()
    while time.monotonic() < limit:
        with contextlib.suppress(BlockingIOError):
            assert os.read(reader, 1) == b""
            break
        time.sleep(0.01)
    else:
        pytest.fail("something of it lives")
    os.close(reader)


# ---------------------------------------------------------------------------------------------------- TCP


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def addresses(*found: tuple[str, int]) -> t.Callable[..., t.Any]:
    """Plays the resolver."""
    return lambda *_given: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", each) for each in found]


def test_tcp(listener: socket.socket) -> None:
    target = replace(TARGET, port=listener.getsockname()[1])
    with open_tcp(target, soon(), 20) as connection:
        assert connection.getpeername() == listener.getsockname()
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_first_address_that_takes_it(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    good = listener.getsockname()
    monkeypatch.setattr(socket, "getaddrinfo", addresses(("127.0.0.1", closed_port()), good))
    with open_tcp(TARGET, soon(), 20) as connection:
        assert connection.getpeername() == good


def test_refused() -> None:
    port = closed_port()
    with pytest.raises(SshError, match=rf"no connection \(127.0.0.1 port {port}: Connection refused\)") as caught:
        open_tcp(replace(TARGET, port=port), soon(), 20)
    assert not isinstance(caught.value, SshTimeout) and not caught.value.permanent


def test_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each address has its share of the time; all of them are told."""
    timeouts: list[float] = []

    class Silent(socket.socket):
        def connect(self, address: t.Any) -> None:
            timeouts.append(self.gettimeout() or 0)
            raise socket.timeout("timed out")

    monkeypatch.setattr(socket, "getaddrinfo", addresses(("10.0.0.1", 22), ("10.0.0.2", 22)))
    monkeypatch.setattr(socket, "socket", Silent)
    # A deadline that is over when the last has failed: with none of the time left, each has a moment.
    with pytest.raises(SshTimeout) as caught:
        open_tcp(TARGET, time.monotonic(), 7)
    reason = "no connection within 7 s (10.0.0.1 port 22: no answer; 10.0.0.2 port 22: no answer)"
    assert caught.value.reason == reason
    assert timeouts == [0.1, 0.1]
    with pytest.raises(SshError) as early:
        open_tcp(TARGET, soon(1000), 1000)
    assert not isinstance(early.value, SshTimeout)
    assert 400 < timeouts[2] <= 500 and 900 < timeouts[3] <= 1000


@pytest.mark.parametrize("address", ["no..such", "a" * 70])
def test_a_name_that_is_none(address: str) -> None:
    with pytest.raises(SshError, match=f"the name {address} cannot be resolved: "):
        open_tcp(replace(TARGET, address=address), soon(), 20)


def test_a_resolver_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_given: released.wait(60))
    with pytest.raises(SshTimeout, match="its name was not resolved within 7 s"):
        open_tcp(TARGET, soon(0.1), 7)
    released.set()


@pytest.mark.parametrize(
    ("family", "number"), [("any", socket.AF_UNSPEC), ("inet", socket.AF_INET), ("inet6", socket.AF_INET6)]
)
def test_address_family(monkeypatch: pytest.MonkeyPatch, family: str, number: int) -> None:
    asked: list[t.Any] = []

    def look_up(*given: t.Any) -> t.Any:
        asked.append(given)
        raise socket.gaierror(-2, "not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(SshError, match="the name b1.example cannot be resolved: not known"):
        open_tcp(replace(TARGET, address="b1.example", family=family), soon(), 20)
    assert asked == [("b1.example", 22, number, socket.SOCK_STREAM)]
