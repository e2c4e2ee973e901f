# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines for tests, versions of Nix that read them differently, and what hypothesis makes of both."""

from __future__ import annotations

import base64
import dataclasses
import struct
import typing as t

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine, MachinesError
from ansible_collections.nixfleet.builders.plugins.module_utils.store_uri import identity
from hypothesis import strategies as st

OLD = (2, 8, 0)
#: One of each side of every border: float speed, comments (with the backport and the branch after it), port.
VERSIONS = [
    OLD,
    (2, 19, 4),
    (2, 20),
    (2, 24, 14),
    (2, 24, 15),
    (2, 25),
    (2, 28, 1),
    (2, 28, 2),
    (2, 30, 3),
    (2, 31),
    (2, 34, 8),
]
NEW = VERSIONS[-1]


def key_line(kind: str = "ssh-ed25519", body: bytes = b"k" * 32, comment: str = "root@builder") -> str:
    blob = b"".join(struct.pack(">I", len(part)) + part for part in (kind.encode(), body))
    return f"{kind} {base64.b64encode(blob).decode()} {comment}".strip()


FULL = {
    "uri": "ssh-ng://nixremote@builder1",
    "systems": ["x86_64-linux", "i686-linux"],
    "ssh_key": "/root/.ssh/nix_builder",
    "max_jobs": 8,
    "speed_factor": 2.0,
    "supported_features": ["kvm", "big-parallel"],
    "mandatory_features": ["gpu"],
    "public_host_key": key_line(),
}


def refusal(call: t.Callable[[], object]) -> MachinesError:
    with pytest.raises(MachinesError) as caught:
        call()
    return caught.value


WORD = st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters=";#,"), min_size=1, max_size=12).filter(
    lambda text: text != "-" and text.isprintable()
)
HOSTS = st.from_regex(r"[A-Za-z0-9_.~][A-Za-z0-9_.~-]{0,20}", fullmatch=True) | st.ip_addresses(v=4).map(str)
SSH_URIS = st.builds(
    "{}://{}{}{}".format,
    st.sampled_from(["ssh", "ssh-ng"]),
    st.sampled_from(["", "u@", "nix-remote@", "a.b+c$@"]),
    HOSTS | st.ip_addresses(v=6).map("[{}]".format),
    st.sampled_from(["", "?compress=true", "?remote-store=/srv&max-connections=2", "?a=%2Fb"]),
)
URIS = SSH_URIS | st.sampled_from(["daemon", "auto?root=/x", "/srv/store", "unix:///run/x?a=b", "?root=/y"])
ITEMS = st.lists(WORD, max_size=4).map(tuple)
MACHINES = st.builds(
    Machine,
    uri=URIS,
    systems=ITEMS,
    ssh_key=st.just("") | WORD.map("/{}".format),
    max_jobs=st.integers(0, 2**32 - 1),
    speed_factor=st.integers(0, 2**32 - 1).map(float),
    supported_features=ITEMS,
    mandatory_features=ITEMS,
    public_host_key=st.just("")
    | st.builds(key_line, body=st.binary(max_size=40), comment=st.sampled_from(["", "a@b", "two words", "ünï"])),
)
FRACTIONS = st.builds(
    dataclasses.replace, MACHINES, speed_factor=st.floats(1e-37, 3.4e38, allow_nan=False, allow_infinity=False)
)
MACHINE_LISTS = st.lists(MACHINES, max_size=5, unique_by=lambda machine: identity(machine.uri))
VERSION = st.sampled_from(VERSIONS)
