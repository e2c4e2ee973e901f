# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machines file as a real Nix reads it, against the room's parser.

Runs against the Nix of this machine, where it has one, and against that of each test fleet host in the variable
NIXFLEET_HOOK_HOSTS, for example:
    tests/fleet/fleet up --fleet machines mt:trixie mf:forky
    NIXFLEET_HOOK_HOSTS='machines/mt machines/mf' pytest tests/unit/plugins/module_utils/test_machines_real_nix.py
"""

from __future__ import annotations

import base64
import functools
import importlib.util
import os
import random
import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine, MachinesError
from ansible_collections.nixfleet.builders.plugins.module_utils.machines import check, parse, render_file
from ansible_collections.nixfleet.builders.plugins.module_utils.store_uri import identity
from ansible_collections.nixfleet.builders.tests.support import nix_host

ROOT = Path(__file__).resolve().parents[4]
SCRIPT = ROOT / "tests/support/nix_hook.py"
Files = dict[str, str]
Answer = dict[str, t.Any]

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEtra2tra2tra2tra2tra2tra2tra2tra2tra2tra2tr root@b"
KEY_COLUMN = base64.b64encode((KEY + "\n").encode()).decode()

TEXTS: list[tuple[str, Files]] = [
    ("# all\nb1\n\nssh://b2 - - - - - - -;ssh-ng://b3\tx,,y /k 2 3 , m - extra words\n#ssh://b4\n ssh://b5 # end", {}),
    (f"ssh-ng://u@b x86_64-linux,i686-linux /k 4 2 f2,f1,f1 m2,m1 {KEY_COLUMN}", {}),
    (f"ssh://u@b - /k 4 2 f2,f1,f1 m2,m1 {KEY_COLUMN.rstrip('=')}=after-the-end", {}),
    ("a # old ; b", {}),
    ("a ; ", {}),
    ("a\n \nb", {}),
    ("a\r\nb\r\n", {}),
    ("a\r\n\r\nb", {}),
    ("  # indented", {}),
    ("a ; # comment", {}),
    ("a;;b\n;\n", {}),
    *(
        (f"{uri} - - 0", {})
        for uri in (
            *(
                "a\x0bb",
                "a\u00a0b",
                "bü",
                "ssh://a^b",
                "ssh://a|b",
                "ssh://a%2",
                "ssh://a%20b",
                "ssh://[::1",
                "ssh://::1",
            ),
            *("ssh://[fe80::1%eth0]", "ssh://fe80::1%eth0", "ssh://u:p@b", "ssh://b:", "ssh://b:0", "ssh://b:70000"),
            *(
                "ssh://b:x",
                "ssh://b/c?d=e",
                "ssh://b?c=%zz",
                "ssh://b?c=d[e]",
                "ssh://b?c",
                "SSH://b",
                "ssh:b",
                "1://b",
            ),
            *("/srv/store", "srv/store?a=b", "/srv?c=%zz", "auto", "daemon?a=b", "local?root=/x", "?root=/x", "?a=%zz"),
            *("unix:///run/x", "unix://", "grpc://x/y", "ssh-ng://u@", "ssh://@b", "ssh://a@b@c", "ssh://a\\b"),
        )
    ),
    ("a\n@ DIR/none\n@DIR/one # the rest\nd", {"one": "b\n@DIR/two\n", "two": "c - - 0"}),
    ("@DIR/one", {"one": "b - - x"}),
    ("@DIR/one;b", {"one": "a"}),
    ("@/", {}),
    ("@", {}),
    ("- x86_64-linux", {}),
    *(
        (f"a - - {number}", {})
        for number in ("0", "+4", "007", "4294967295", "4294967296", "-1", "1.5", "eight", "1e1")
    ),
    *(
        (f"slow - - 1 1\na - - 1 {speed}\nfast - - 1 3", {})
        for speed in (
            "0",
            "-0",
            "2",
            "+2",
            "007",
            "1.5",
            ".5",
            "2.",
            "1e1",
            "1e",
            "1.5.1",
            "-1",
            "fast",
            "0x10",
            "1e999",
            "1_0",
        )
    ),
    *((f"a - - 1 1 - - {key}", {}) for key in ("a_b", "QUJD", "QUI", "QUJ==x", "A", "QU JD", "=", "a-b")),
]

#: Words that no one means, which some Nix lets through: host keys of no bytes, and what it takes for a URI.
STRICTER = ("A", "ssh://b:", "=", "ssh://a%2", "ssh://b:x", "ssh:b", "ssh://a@b@c", "ssh://b?c=d[e]", "SSH://b")

#: Each where check() lets it through must arrive at ssh as it is meant.
URIS = [
    "ssh://b",
    "ssh-ng://b",
    "b",
    "u@b",
    "ssh://u@b.example.org",
    "ssh-ng://nix-remote@b_1~x",
    "ssh://a.b+c$@b",
    "ssh-ng://B?compress=true",
    "ssh://b?remote-store=%2Fsrv&compress=true",
    "ssh-ng://198.18.0.7",
    "ssh-ng://[2001:db8::7]",
    "ssh://u@[2001:db8::7]",
    "ssh://[fe80::1%eth0]",
    "ssh-ng://u@[fe80::1%eth0]?compress=true",
    "ssh://b:2222",
    "ssh-ng://u@[2001:db8::7]:2222",
    "ssh-ng://b.",
]


def pieces(seed: int) -> list[tuple[str, Files]]:
    """Texts put together at random of what can stand in a machines file, no URI twice."""
    chance = random.Random(seed)
    texts = []
    for _round in range(25):
        entries = []
        for number in range(chance.randint(1, 5)):
            uri = chance.choice(["ssh://{}", "ssh-ng://u@{}", "{}"]).format(f"h{number}")
            columns = [
                ["-", "x86_64-linux", "a,b", "b,,a,"],
                ["-", "/k", "/root/ü"],
                ["-", "0", "1", "3"],
                ["-", "0", "1", "2", "4"] if chance.random() < 0.8 else ["1.5", "0.25"],
                ["-", "kvm", "x,y", ","],
                ["-", "-", "m", "m,n"],
                ["-", KEY_COLUMN],
            ]
            words = [uri, *(chance.choice(column) for column in columns[: chance.randint(0, 7)])]
            entries.append(chance.choice([" ", "\t", "  "]).join(words))
        line_ends = ["\n", "\n\n", "\n# x\n", ";", "; ", " # y\n", "# x;@z\n", "\n "]
        texts.append(("".join(entry + chance.choice(line_ends) for entry in entries), {}))
    return texts


@functools.cache
def hook() -> t.Any:
    spec = importlib.util.spec_from_file_location("nix_hook", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def here() -> bool:
    version = hook().nix_version()
    return version is not None and hook().hook_argv(version) is not None


HOSTS = os.environ.get("NIXFLEET_HOOK_HOSTS", "").split() + ([nix_host.HERE] if here() else [])
pytestmark = pytest.mark.skipif(not HOSTS, reason="no Nix here, and no fleet host in NIXFLEET_HOOK_HOSTS")


def ask(host: str, cases: t.Sequence[tuple[str, Files]]) -> list[Answer]:
    """What the Nix of a host (FLEET/HOST of the test fleet, or here) reads in each text."""
    answers: list[Answer] = nix_host.ask(host, SCRIPT, cases, "--many")
    return answers


def ours(text: str, files: Files, version: tuple[int, ...]) -> list[Machine]:
    def read(path: str) -> str | None:
        if path == "/":
            raise IsADirectoryError(21, "Is a directory", path)
        return files.get(path.removeprefix("/dir/"))

    def at_dir(content: str) -> str:
        return content.replace("@DIR/", "@/dir/")

    files = {name: at_dir(content) for name, content in files.items()}
    return parse(at_dir(text), "/dir/machines", version, read)


def assert_same(machines: list[Machine], answer: Answer) -> None:
    """The table, and for each machine that has a slot how ssh is called, in the order in which Nix prefers them."""
    assert answer["error"] is None
    assert answer["machines"] == [
        {
            "systems": list(machine.systems) or [hook().SYSTEM],
            "max_jobs": machine.max_jobs,
            "supported_features": list(machine.supported_features),
            "mandatory_features": list(machine.mandatory_features),
        }
        for machine in machines
    ]
    if any(machine.max_jobs > 10_000 for machine in machines):
        return
    expected = []
    left = [machine for machine in machines if machine.max_jobs]
    for mandatory in sorted({machine.mandatory_features for machine in machines}):
        required = set(mandatory)
        fitting = [
            machine
            for machine in left
            if set(machine.mandatory_features) <= required
            and required <= {*machine.supported_features, *machine.mandatory_features}
        ]
        expected += sorted(fitting, key=lambda machine: -machine.speed_factor)
        left = [machine for machine in left if machine not in fitting]
    assert [identity(call["uri"]) for call in answer["connections"]] == [identity(m.uri) for m in expected]
    for machine, call in zip(expected, answer["connections"]):
        parts = machine.parts
        assert (parts.user + "@" if parts.user else "") + parts.host in call["argv"]
        assert (machine.ssh_key in call["argv"]) == bool(machine.ssh_key)
        assert (f"-p{parts.port}" in call["argv"]) == (parts.port is not None)
        if machine.public_host_key == KEY:
            assert call["known_hosts"] == f"{parts.host} {KEY}\n\n"
        elif not machine.public_host_key:
            assert call["known_hosts"] is None


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("cases", [TEXTS, pieces(1), pieces(2)], ids=["chosen", "random1", "random2"])
def test_the_parser_reads_what_nix_reads(host: str, cases: list[tuple[str, Files]]) -> None:
    for (text, files), answer in zip(cases, ask(host, cases)):
        try:
            machines = ours(text, files, tuple(answer["version"]))
        except MachinesError as error:
            assert answer["error"] or set(text.split()) & set(STRICTER), (
                f"{answer['version']} reads {text!r}, which is refused: {error}"
            )
        else:
            assert not answer["error"], f"{answer['version']} refuses {text!r}: {answer['error']}"
            assert_same(machines, answer)


@pytest.mark.parametrize("host", HOSTS)
def test_a_uri_that_is_let_through_arrives_at_ssh(host: str) -> None:
    version = tuple(ask(host, [("b", {})])[0]["version"])
    machines = [Machine(uri, ssh_key="/k") for uri in URIS]
    fit = []
    for machine in machines:
        try:
            check([machine], version)
        except MachinesError as error:
            assert (error.key == "port") == (version < (2, 31)), error
            assert error.key == "port" or "%eth0" in machine.uri, error
        else:
            fit.append(machine)
    assert len(fit) > 12
    for machine, answer in zip(fit, ask(host, [(render_file([machine], version), {}) for machine in fit])):
        assert_same([machine], answer)
