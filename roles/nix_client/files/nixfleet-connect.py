# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Written by the Ansible collection nixfleet.builders. Changes made here are lost.
"""ssh's ProxyCommand for a builder whose host keys are being rotated: connects until sshd has said its first word.

When sshd is told to read its new host keys it closes its socket and opens it again. Connections that come meanwhile are
refused, and those that it had not taken yet are reset, which ssh itself does not try again (sshd.c, sighup_restart).

Usage: nixfleet-connect.py HOST PORT
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time

#: Seconds for all attempts together, and between two; ssh's own ConnectTimeout may end it earlier.
PATIENCE = 15.0
PAUSE = 0.2
CHUNK = 1 << 16


def connected(host: str, port: int, deadline: float) -> socket.socket:
    """A connection on which the other side has said something. Raises OSError when there is none by the deadline."""
    while True:
        try:
            connection = socket.create_connection((host, port), timeout=max(0.1, deadline - time.monotonic()))
            if connection.recv(1, socket.MSG_PEEK):
                connection.settimeout(None)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connection
            connection.close()
            raise ConnectionResetError("it was closed before sshd said anything")
        except ConnectionError:
            if time.monotonic() + PAUSE > deadline:
                raise
            time.sleep(PAUSE)


def send(connection: socket.socket) -> None:
    """Sends what ssh says until it has no more to say."""
    with contextlib.suppress(OSError):
        while data := os.read(0, CHUNK):
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)


def main() -> int:
    host, port = sys.argv[1:]
    try:
        connection = connected(host, int(port), time.monotonic() + PATIENCE)
    except OSError as error:
        print(f"connect to host {host} port {port}: {error}", file=sys.stderr)
        return 1
    threading.Thread(target=send, args=(connection,), daemon=True).start()
    with contextlib.suppress(OSError):
        while data := connection.recv(CHUNK):
            view = memoryview(data)
            while view:
                view = view[os.write(1, view) :]
    # Not to wait for a thread that waits for ssh.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
