# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ProxyCommand of a rotation, with servers that do what a reloaded sshd does; the scenario keys has a real one."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import threading
import time
import typing as t
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "roles/nix_client/files/nixfleet-connect.py"
BANNER = b"SSH-2.0-Test\r\n"
#: Closing with this sends a reset.
NO_LINGER = struct.pack("ii", 1, 0)


def start(port: int) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), "127.0.0.1", str(port)], stdin=pipe, stdout=pipe, stderr=pipe
    )


@pytest.fixture
def listener() -> t.Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(20)
        yield made


def test_a_connection_that_is_dropped_before_a_word_is_made_again(listener: socket.socket) -> None:
    with start(listener.getsockname()[1]) as client:
        for reset in (True, False):
            dropped = listener.accept()[0]
            if reset:
                dropped.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            dropped.close()
        with listener.accept()[0] as taken:
            taken.sendall(BANNER)
        assert client.communicate(timeout=20)[0] == BANNER
        assert client.returncode == 0


def test_a_refused_connection_is_made_again(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    with start(port) as client:
        time.sleep(1)
        with socket.create_server(("127.0.0.1", port)) as again:
            again.settimeout(20)
            with again.accept()[0] as taken:
                taken.sendall(BANNER)
        assert client.communicate(timeout=20)[0] == BANNER
        assert client.returncode == 0


def test_all_bytes_pass_both_ways(listener: socket.socket) -> None:
    there, back = bytes(range(256)) * 20_000, bytes(reversed(range(256))) * 20_000
    got = bytearray()

    def serve() -> None:
        with listener.accept()[0] as taken:
            taken.sendall(BANNER)
            while data := taken.recv(1 << 16):
                got.extend(data)
            taken.sendall(back)

    server = threading.Thread(target=serve)
    server.start()
    with start(listener.getsockname()[1]) as client:
        said = client.communicate(there, timeout=60)[0]
    server.join()
    assert bytes(got) == there
    assert said == BANNER + back


def test_it_ends_when_the_other_side_does(listener: socket.socket) -> None:
    with start(listener.getsockname()[1]) as client:
        with listener.accept()[0] as taken:
            taken.sendall(BANNER)
        # Although ssh has not closed its side.
        assert client.wait(timeout=20) == 0


def test_a_host_that_is_not_there_is_named() -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "no.such.host.invalid", "22"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("connect to host no.such.host.invalid port 22: ")
