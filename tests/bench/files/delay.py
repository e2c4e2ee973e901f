# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A ProxyCommand that makes a builder far away: `delay.py SECONDS HOST PORT` delays every byte, each way."""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
import time


def carry(source: int, destination: int, delay: float) -> None:
    """Moves all bytes, each when it is due; then nothing is left to do."""
    due: queue.Queue[tuple[float, bytes]] = queue.Queue()

    def write() -> None:
        while True:
            when, data = due.get()
            time.sleep(max(0.0, when - time.monotonic()))
            if not data:
                os._exit(0)
            while data:
                data = data[os.write(destination, data) :]

    threading.Thread(target=write).start()
    while True:
        try:
            data = os.read(source, 1 << 18)
        except OSError:
            data = b""
        due.put((time.monotonic() + delay, data))
        if not data:
            return


def main() -> None:
    """See above."""
    delay, host, port = float(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    with socket.create_connection((host, port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The handshake's round trip.
        time.sleep(2 * delay)
        threading.Thread(target=carry, args=(0, connection.fileno(), delay)).start()
        carry(connection.fileno(), 1, delay)
        threading.Event().wait()


if __name__ == "__main__":
    main()
