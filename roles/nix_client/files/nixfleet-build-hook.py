# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Written by the Ansible collection nixfleet.builders. Changes made here are lost.
"""Nix's build hook on a client that is a builder as well: Nix's own hook, which is shown fewer of the machines.

Nix holds the lock of an output while another host builds it. Two hosts that hand the same derivation to each other at
the same time would each wait for the other's lock for ever (NixOS/nix#10740). What this host could build itself it
therefore hands only to hosts above it: those with a higher speed factor and, of those with the same, the ones that a
hash of the derivation's name puts above it. Every host finds the same order, so nothing goes in circles.

/etc/nix/nixfleet-build-hook.json: C(host), this host's name; C(speeds), the speed factors of it and of the builders
that are clients too, by name; C(peers), the names of those by their URI in the machines file.

The requests are those of libstore's build/hook-instance.cc and of build-remote.cc, Nix 2.8 to 2.34.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import typing as t
from pathlib import Path

CONFIG = "/etc/nix/nixfleet-build-hook.json"
PROGRAMS = "/nix/var/nix/profiles/default/bin:/run/current-system/sw/bin"
#: What Nix gives its hook besides 0 to 2: both ends of the pipe for the build's log.
LOG_FDS = (4, 5)


class Request(t.NamedTuple):
    """A derivation for which Nix wants a machine. C(raw) is the request as it came."""

    system: str
    derivation: str
    features: frozenset[str]
    raw: bytes


class Reader:
    """Nix's numbers and strings out of a stream; EOFError at its end."""

    def __init__(self, stream: t.BinaryIO) -> None:
        self._stream = stream
        self._raw = b""

    def _bytes(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) < count:
            raise EOFError
        self._raw += data
        return data

    def number(self) -> int:
        return int(struct.unpack("<Q", self._bytes(8))[0])

    def string(self) -> str:
        size = self.number()
        return self._bytes(size + -size % 8)[:size].decode("utf-8", "surrogateescape")

    def settings(self) -> dict[str, str]:
        """What comes first: all settings of Nix."""
        found = {}
        while self.number():
            name = self.string()
            found[name] = self.string()
        return found

    def request(self) -> Request:
        self._raw = b""
        if self.string() != "try":
            raise EOFError
        self.number()
        system, derivation = self.string(), self.string()
        features = frozenset(self.string() for _number in range(self.number()))
        return Request(system, derivation, features, self._raw)


def encode(settings: t.Mapping[str, str]) -> bytes:
    """Settings as Nix sends them."""

    def string(text: str) -> bytes:
        data = text.encode("utf-8", "surrogateescape")
        return struct.pack("<Q", len(data)) + data + bytes(-len(data) % 8)

    one = struct.pack("<Q", 1)
    return b"".join(one + string(name) + string(value) for name, value in settings.items()) + struct.pack("<Q", 0)


def could_build(settings: t.Mapping[str, str], request: Request) -> bool:
    """Whether this host could build it itself, as Nix sees it."""
    systems = {settings.get("system", ""), *settings.get("extra-platforms", "").split(), "builtin"}
    features = set(settings.get("system-features", "").split())
    return settings.get("max-jobs", "1") != "0" and request.system in systems and request.features <= features


def machine_lines(text: str, depth: int = 0) -> list[str]:
    """The machines of the setting builders, with those of the files that it names."""
    lines: list[str] = []
    for line in text.splitlines():
        for entry in map(str.strip, line.partition("#")[0].split(";")):
            if not entry.startswith("@"):
                lines += [entry] if entry else []
            elif depth < 8:
                path = Path(entry[1:].strip())
                with contextlib.suppress(FileNotFoundError):
                    lines += machine_lines(path.read_text("utf-8", "surrogateescape"), depth + 1)
    return lines


def machines_for(config: t.Mapping[str, t.Any], settings: t.Mapping[str, str], request: Request) -> list[str]:
    """The machines that may be asked to build it."""
    lines = machine_lines(settings.get("builders", ""))
    if not could_build(settings, request):
        return lines

    def rank(name: str) -> tuple[float, str]:
        # Nix takes 0 for 1.
        speed = float(config["speeds"].get(name, 1)) or 1.0
        text = f"{os.path.basename(request.derivation)} {name}"
        return speed, hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

    def above(line: str) -> bool:
        peer = config["peers"].get(line.split()[0])
        return peer is None or rank(peer) > rank(config["host"])

    return [line for line in lines if above(line)]


def stock_hook() -> list[str]:
    """Nix's own hook: a program of its own up to Nix 2.9, a command of nix since."""
    nix = shutil.which("nix", path=f"{PROGRAMS}:{os.environ.get('PATH', '/usr/bin:/bin')}") or "nix"
    program = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(nix))), "libexec/nix/build-remote")
    return [program] if os.path.exists(program) else [nix, "__build-remote"]


def relay(read: t.Callable[[int], bytes], descriptor: int) -> None:
    """Passes on what comes, until its end."""
    with contextlib.suppress(OSError):
        data = read(1 << 16)
        while data:
            while data:
                data = data[os.write(descriptor, data) :]
            data = read(1 << 16)


def run_stock(
    command: t.Sequence[str], settings: t.Mapping[str, str], request: Request, stream: io.BufferedReader
) -> int | None:
    """Has Nix's own hook find a machine and build there. Its status; None where it did not find one."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=LOG_FDS) as child:
        stdin, stderr = t.cast(io.BufferedWriter, child.stdin), t.cast(io.BufferedReader, child.stderr)
        with contextlib.suppress(BrokenPipeError):
            stdin.write(encode(settings) + request.raw)
            stdin.flush()
        reply = b""
        for line in iter(stderr.readline, b""):
            os.write(2, line)
            if line.startswith(b"# "):
                reply = line
                break
        if not reply.startswith(b"# accept"):
            with contextlib.suppress(BrokenPipeError):
                stdin.close()
            status = child.wait()
            return None if reply else status or 1
        # The log ends when the hook does.
        for descriptor in LOG_FDS:
            os.close(descriptor)

        def pass_inputs() -> None:
            relay(stream.read1, stdin.fileno())
            stdin.close()

        output = threading.Thread(target=relay, args=(stderr.read1, 2), daemon=True)
        output.start()
        threading.Thread(target=pass_inputs, daemon=True).start()
        status = child.wait()
        output.join(5)
        # Without waiting for a thread that waits for Nix.
        os._exit(status if status >= 0 else 128 - status)


def main() -> int:
    with open(CONFIG, encoding="utf-8") as file:
        config = json.load(file)
    stream = t.cast(io.BufferedReader, sys.stdin.buffer)
    reader = Reader(stream)
    command = [*stock_hook(), *sys.argv[1:]]
    with contextlib.suppress(EOFError):
        settings = reader.settings()
        while True:
            request = reader.request()
            lines = machines_for(config, settings, request)
            if not lines:
                # Not for ever: another one may be for somebody.
                os.write(2, b"# decline\n")
                continue
            status = run_stock(command, {**settings, "builders": "\n".join(lines)}, request, stream)
            if status is not None:
                return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
