# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Channels over sockets and to processes: how they wait, how they end, and that neither end waits for ever."""

from __future__ import annotations

import os
import pwd
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import channel as room
from ansible_collections.nixfleet.builders.plugins.module_utils.channel import (
    Channel,
    ChannelClosed,
    ChannelError,
    ChannelTimeout,
    FileChannel,
    ProcessChannel,
)


@pytest.fixture
def pair() -> Iterator[tuple[FileChannel, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    descriptor = ours.detach()
    channel = FileChannel("test", descriptor, descriptor, None, idle_timeout=10)
    yield channel, theirs
    channel.close()
    theirs.close()


def shell(script: str, idle_timeout: float | None = 10) -> ProcessChannel:
    return ProcessChannel("sh", ["/bin/sh", "-c", script], idle_timeout)


def test_reads_and_writes(pair: tuple[FileChannel, socket.socket]) -> None:
    channel, theirs = pair
    channel.write(b"abc", bytearray(b"def"), memoryview(b"ghi"), b"")
    channel.write(b"j")
    assert not channel.readable()
    channel.flush()
    assert theirs.recv(100) == b"abcdefghij"
    theirs.sendall(b"0123456789")
    assert channel.read(3) == b"012"
    assert channel.readable()
    assert bytes(channel.read_some(100)) == b"3456789"
    assert not channel.readable()
    theirs.sendall(b"ab")
    later = threading.Timer(0.05, theirs.sendall, [b"cd"])
    later.start()
    assert channel.read(4) == b"abcd"
    later.join()
    assert (channel.bytes_in, channel.bytes_out) == (14, 10)


def test_more_buffers_than_one_call_takes(pair: tuple[FileChannel, socket.socket]) -> None:
    channel, theirs = pair
    pieces = [bytes([number % 256]) * (number % 7) for number in range(5000)]
    channel.write(*pieces)
    channel.flush()
    whole = b"".join(pieces)
    got = b""
    while len(got) < len(whole):
        got += theirs.recv(1 << 16)
    assert got == whole


def test_both_ends_write_at_once(pair: tuple[FileChannel, socket.socket]) -> None:
    """The other end reads nothing before it has written all of its part."""
    channel, theirs = pair
    size = 8 << 20
    got = bytearray()

    def other_end() -> None:
        theirs.sendall(b"t" * size)
        while len(got) < size:
            got.extend(theirs.recv(1 << 20))

    thread = threading.Thread(target=other_end)
    thread.start()
    channel.write(b"o" * size)
    channel.flush()
    thread.join(10)
    assert bytes(got) == b"o" * size
    assert channel.read(size) == b"t" * size


def test_silence(pair: tuple[FileChannel, socket.socket]) -> None:
    channel, theirs = pair
    channel.idle_timeout = 0.1
    theirs.sendall(b"x")
    start = time.monotonic()
    with pytest.raises(ChannelTimeout, match="test: the other end was silent for 0.1 s"):
        channel.read(2)
    assert 0.1 <= time.monotonic() - start < 1
    channel.write(bytes(8 << 20))
    with pytest.raises(ChannelTimeout):
        channel.flush()


def test_the_end_of_the_stream(pair: tuple[FileChannel, socket.socket]) -> None:
    channel, theirs = pair
    theirs.sendall(b"last words")
    theirs.close()
    # What was said before is not lost when writing fails.
    channel.write(bytes(1 << 20))
    channel.flush()
    assert channel.read(10) == b"last words"
    assert channel.readable()
    for _each in range(2):
        with pytest.raises(ChannelClosed, match="test: the other end closed the connection"):
            channel.read(1)


def test_a_reset(pair: tuple[FileChannel, socket.socket]) -> None:
    channel, theirs = pair
    channel.write(b"unread")
    channel.flush()
    theirs.close()
    with pytest.raises(ChannelClosed):
        channel.read(1)


@pytest.mark.parametrize("writing", [False, True])
def test_abort(pair: tuple[FileChannel, socket.socket], writing: bool) -> None:
    channel, _theirs = pair
    channel.idle_timeout = None
    timer = threading.Timer(0.05, channel.abort)
    timer.start()
    start = time.monotonic()
    with pytest.raises(ChannelClosed, match="given up"):
        if writing:
            channel.write(bytes(64 << 20))
            channel.flush()
        else:
            channel.read(1)
    assert time.monotonic() - start < 2
    timer.join()
    channel.close()
    channel.abort()
    channel.close()


def test_a_process() -> None:
    channel = shell("cat")
    channel.write(b"hello")
    channel.flush()
    assert channel.read(5) == b"hello"
    before = len(os.listdir("/proc/self/fd"))
    channel.close()
    assert before - len(os.listdir("/proc/self/fd")) == 5
    assert channel.stderr_tail() == ""


def test_what_a_process_says_on_stderr() -> None:
    channel = shell("yes blah | head -c 300000 >&2; echo the reason >&2; exec sleep 0.1")
    with pytest.raises(ChannelClosed, match="the reason$"):
        channel.read(1)
    tail = channel.stderr_tail()
    assert tail.endswith("blah\nthe reason\n")
    assert len(tail) == room.STDERR_TAIL
    channel.close()
    assert channel.stderr_tail() == tail


def test_stderr_is_no_sign_of_life() -> None:
    channel = shell("while echo still here >&2; do sleep 0.02; done", idle_timeout=0.2)
    with pytest.raises(ChannelTimeout, match="still here"):
        channel.read(1)
    channel.close()


def test_a_process_that_will_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProcessChannel, "_GRACE", 0.1)
    channel = shell("trap '' TERM; echo on; while :; do sleep 0.01; done")
    channel.read(2)
    start = time.monotonic()
    channel.close()
    assert time.monotonic() - start < 2


def test_no_such_program() -> None:
    with pytest.raises(ChannelError, match="cannot start /no/such: No such file or directory"):
        ProcessChannel("none", ["/no/such"])


# ---------------------------------------------------------------------------------------------------- the local store


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The processes that open_local would have started."""
    found: list[list[str]] = []
    monkeypatch.setattr(room, "ProcessChannel", lambda _name, argv, _timeout: found.append(argv))
    monkeypatch.delenv("NIX_DAEMON_SOCKET_PATH", raising=False)
    return found


def listen(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    path.parent.mkdir(parents=True)
    server.bind(str(path))
    server.listen()
    return server


@pytest.mark.parametrize("store", ["auto", "daemon"])
def test_the_daemon(store: str, tmp_path: Path, opened: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIX_STATE_DIR", str(tmp_path))
    with listen(tmp_path / "daemon-socket/socket") as server:
        channel: Channel = room.open_local(store)
        peer, _address = server.accept()
        peer.sendall(b"hi")
        assert channel.read(2) == b"hi"
        channel.close()
        peer.close()
    assert not opened


def test_another_socket(tmp_path: Path, opened: list[list[str]]) -> None:
    with listen(tmp_path / "a/other"):
        room.open_local(f"unix://{tmp_path}/a/other").close()
    assert not opened


def test_no_daemon(tmp_path: Path, opened: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIX_DAEMON_SOCKET_PATH", str(tmp_path / "none"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    room.open_local()
    room.open_local("/chroot", nix_daemon="/opt/nix-daemon")
    assert opened == [
        ["nix-daemon", "--stdio", "--store", "local"],
        ["/opt/nix-daemon", "--stdio", "--store", "/chroot"],
    ]
    with pytest.raises(ChannelError, match="cannot connect: No such file"):
        room.open_local("daemon")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ChannelError, match=f"nix-daemon at {tmp_path}/none"):
        room.open_local()


def test_a_store_that_a_user_owns(tmp_path: Path, opened: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIX_STATE_DIR", str(tmp_path))
    (tmp_path / "db").mkdir()
    nobody = pwd.getpwnam("nobody")
    os.chown(tmp_path / "db", nobody.pw_uid, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(ChannelError, match="it belongs to nobody .*become_user: nobody"):
        room.open_local()
    monkeypatch.setattr(os, "geteuid", lambda: nobody.pw_uid)
    room.open_local()
    assert opened == [["nix-daemon", "--stdio", "--store", "local"]]
    monkeypatch.setattr(os, "geteuid", lambda: nobody.pw_uid - 1)
    with pytest.raises(ChannelError, match="cannot connect: No such file"):
        room.open_local()
