# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Watches the files that the collection writes on this host, until SIGTERM; then reports into the file argv[1].

Every file must appear and change by a rename only, never by a write in place, and be whole whenever it is read. The
report is {"problems": [text], "seen": {path: number of different contents}}.
"""

from __future__ import annotations

import base64
import ctypes
import glob
import hashlib
import json
import os
import re
import select
import signal
import socket
import struct
import sys
import types
import typing as t

IN_MODIFY, IN_MOVED_TO, IN_CREATE = 0x2, 0x80, 0x100
KEY = r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp256) [A-Za-z0-9+/]+=*"
SSHD_CONFIG = "/etc/ssh/sshd_config"
NIX_CONF = "/etc/nix/nix.conf"


def lines(pattern: str) -> t.Callable[[bytes], bool]:
    """Whole lines only, each a comment, blank, or of this pattern, at least one of them."""
    whole = re.compile(rf"(( *#[^\n]*|)\n)*(({pattern})\n(( *#[^\n]*|)\n)*)+".encode())
    return lambda data: bool(whole.fullmatch(data))


def is_json(data: bytes) -> bool:
    """A whole JSON text."""
    return data.endswith(b"}\n") and isinstance(json.loads(data), dict)


def is_signing_key(data: bytes) -> bool:
    """Nix's name:base64, 64 bytes, or 32 for the public half."""
    return len(base64.b64decode(data.partition(b":")[2].strip(), validate=True)) in (32, 64)


def is_sshd_drop_in(data: bytes) -> bool:
    """Ends as the module ends it."""
    return data.startswith(b"# ") and data.endswith(b"\nMatch all\n")


def is_private_key(data: bytes) -> bool:
    """Its first and its last line."""
    return data.startswith(b"-----BEGIN OPENSSH") and data.endswith(b"-----END OPENSSH PRIVATE KEY-----\n")


def is_gate(data: bytes) -> bool:
    """Its first and its last line; in between it would run half of what it should."""
    return data.startswith(b"#!/bin/sh\n") and data.endswith(b"\nesac\n")


WHOLE: dict[str, t.Callable[[bytes], bool]] = {
    "/etc/ssh/sshd_config.d/10-nixfleet.conf": is_sshd_drop_in,
    "/etc/nix/nix.conf.d/nixfleet-builder.conf": lines("[a-z-]+ = .+"),
    "/etc/nix/nix.conf.d/nixfleet-client.conf": lines("[a-z-]+ = .+"),
    "/etc/nix/nixfleet-signing-key": is_signing_key,
    "/etc/nix/nixfleet-signing-key.pub": is_signing_key,
    "/etc/nix/machines": lines(r"ssh-ng://(\S+ ){7}\S+"),
    "/etc/ansible/facts.d/nix_install.fact": is_json,
    "/etc/ansible/facts.d/nix_builder.fact": is_json,
    "/etc/ansible/facts.d/nix_client.fact": is_json,
    "/root/.ssh/nixremote": is_private_key,
    "/root/.ssh/nixremote.pub": lines(rf"{KEY} nixfleet:\S+"),
    "/root/.ssh/config": lines("Include .*/nixfleet/config"),
    "/root/.ssh/nixfleet/config": lines(r"Host \S+|    [A-Z][A-Za-z]+ \S+"),
    "/root/.ssh/nixfleet/known_hosts": lines(rf"\S+ {KEY}"),
    "/var/lib/nixremote/.ssh/authorized_keys": lines(
        rf'restrict,command="/usr/local/libexec/nixfleet-gate" {KEY} nixfleet:\S+'
    ),
    "/usr/local/libexec/nixfleet-gate": is_gate,
}


class Watch:
    """The kernel's events of the directories, as far as there are any, and what was seen."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = self.libc.inotify_init1(os.O_NONBLOCK)
        self.watched: dict[str, int] = {}
        self.directories: dict[int, str] = {}
        self.problems: list[str] = []
        self.seen: dict[str, set[str]] = {}
        with open(SSHD_CONFIG, "rb") as file:
            self.sshd_config = file.read()

    def complain(self, text: str) -> None:
        if text not in self.problems:
            self.problems.append(text)

    def look_for_directories(self) -> None:
        """Watches what has been made since; a directory that was removed and made again has another inode."""
        for directory in {os.path.dirname(path) for path in (*WHOLE, SSHD_CONFIG, NIX_CONF)}:
            try:
                inode = os.stat(directory).st_ino
            except FileNotFoundError:
                continue
            if self.watched.get(directory) != inode:
                wd = self.libc.inotify_add_watch(
                    self.descriptor, directory.encode(), IN_MODIFY | IN_MOVED_TO | IN_CREATE
                )
                if wd < 0:
                    raise OSError(ctypes.get_errno(), f"cannot watch {directory}")
                self.watched[directory] = inode
                self.directories[wd] = directory
                for path in glob.glob(f"{directory}/*"):
                    self.read(path)

    def read_events(self) -> None:
        """All events that wait."""
        try:
            data = os.read(self.descriptor, 65536)
        except BlockingIOError:
            return
        offset = 0
        while offset < len(data):
            wd, mask, _cookie, length = struct.unpack_from("iIII", data, offset)
            name = data[offset + 16 : offset + 16 + length].rstrip(b"\0").decode()
            offset += 16 + length
            path = os.path.join(self.directories[wd], name)
            if mask & (IN_MODIFY | IN_CREATE) and not os.path.isdir(path):
                self.in_place(path)
            self.read(path)

    def in_place(self, path: str) -> None:
        """A file that was written or made under its own name."""
        # Nix's package and the test fleet write nix.conf before the collection has touched anything.
        if path in WHOLE or path == SSHD_CONFIG or (path == NIX_CONF and os.path.isdir(f"{NIX_CONF}.d")):
            self.complain(f"{path} was written in place")

    def read(self, path: str) -> None:
        """Judges a file as it is now."""
        if path not in WHOLE and path != SSHD_CONFIG:
            return
        try:
            with open(path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return
        try:
            good = (
                WHOLE[path](data)
                if path in WHOLE
                else data.endswith(self.sshd_config)
                and data[:8]
                in (
                    self.sshd_config[:8],
                    b"Include ",
                )
            )
        except ValueError:
            good = False
        if not good:
            self.complain(f"{path} was not whole: {data[:400]!r}")
        self.seen.setdefault(path, set()).add(hashlib.sha256(data).hexdigest())


def say_ready() -> None:
    """sd_notify(3)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        address = os.environ["NOTIFY_SOCKET"]
        notify.connect("\0" + address[1:] if address[0] == "@" else address)
        notify.send(b"READY=1")


def main() -> None:
    watch = Watch()
    ending: list[int] = []

    def end(number: int, _frame: types.FrameType | None) -> None:
        ending.append(number)

    signal.signal(signal.SIGTERM, end)
    watch.look_for_directories()
    say_ready()
    while not ending:
        select.select([watch.descriptor], [], [], 0.02)
        watch.look_for_directories()
        watch.read_events()
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(
            {"problems": watch.problems, "seen": {path: len(hashes) for path, hashes in watch.seen.items()}}, file
        )


main()
