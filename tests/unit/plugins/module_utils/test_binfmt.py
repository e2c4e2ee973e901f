# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""binfmt: which programs a handler takes, and programs that prove it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import binfmt
from hypothesis import example, given
from hypothesis import strategies as st

#: As Linux 6.18 shows a handler that was registered with line().
SHOWN = """enabled
interpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P
flags: PF
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""
LOADER = "/lib64/ld-linux-x86-64.so.2"


def own(system: str) -> binfmt.Handler:
    kind = binfmt.processor(system)
    assert kind is not None
    return binfmt.Handler(kind.handler, True, "/usr/bin/qemu", "F", 0, *binfmt.magic_and_mask(kind))


def test_what_the_kernel_shows_is_what_was_registered() -> None:
    handler = binfmt.parse_handler("nixfleet-aarch64", SHOWN)
    assert handler == own("aarch64-linux")._replace(interpreter="/usr/libexec/qemu-binfmt/aarch64-binfmt-P", flags="PF")
    kind = binfmt.PROCESSORS["aarch64"]
    assert binfmt.line(kind, handler.interpreter) == (
        r":nixfleet-aarch64:M::\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
        r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
        ":/usr/libexec/qemu-binfmt/aarch64-binfmt-P:PF"
    )
    assert binfmt.line(kind, "/usr/bin/qemu-aarch64-static").endswith(":/usr/bin/qemu-aarch64-static:F")


@pytest.mark.parametrize("system", binfmt.emulable())
def test_a_handler_takes_programs_of_its_processor_alone(system: str) -> None:
    taken = {other for other in binfmt.emulable() if own(system).takes(binfmt.probe_program(other))}
    assert taken == ({"armv6l-linux", "armv7l-linux"} if system.startswith("armv") else {system})


def test_a_position_independent_program_is_taken() -> None:
    program = bytearray(binfmt.probe_program("s390x-linux"))
    program[17] = 3
    assert own("s390x-linux").takes(bytes(program))
    program[17] = 1
    assert not own("s390x-linux").takes(bytes(program))


def test_handlers_that_do_not_count() -> None:
    system = "riscv64-linux"
    assert binfmt.handler_of(system, [own("aarch64-linux"), own(system)]) == own(system)
    assert binfmt.handler_of(system, [own(system)._replace(enabled=False)]) is None
    assert binfmt.handler_of(system, [own(system)._replace(offset=4)]) is None
    for text in ("enabled\ninterpreter /jexec\nextension .jar\n", "enabled\nmagic xyz\noffset -\n", ""):
        assert binfmt.handler_of(system, [binfmt.parse_handler("other", text)]) is None


@pytest.mark.parametrize("system", ["x86_64-linux", "x86_64-v3-linux"])
def test_levels_of_a_processor_are_that_processor(system: str) -> None:
    assert binfmt.processor(system) == binfmt.PROCESSORS["x86_64"]


@pytest.mark.parametrize("system", ["aarch64-darwin", "riscv32-linux", "x86_64-vx-linux", "arm-v2-linux", "linux", ""])
def test_other_systems_are_not_known(system: str) -> None:
    assert binfmt.processor(system) is None
    with pytest.raises(binfmt.BinfmtError, match="nothing is known"):
        binfmt.probe_program(system)


def test_interpreters_that_cannot_be_registered() -> None:
    kind = binfmt.PROCESSORS["aarch64"]
    for path in ("qemu", "/usr/bin/q:emu", "/usr/bin/q emu", "/q\\x41", "/" + "q" * 127, "/q\n:x:E::y::/bin/sh:"):
        with pytest.raises(binfmt.BinfmtError, match="absolute path"):
            binfmt.line(kind, path)


@pytest.mark.parametrize(
    ("flags", "sandbox", "paths", "works"),
    [
        ("OCF", True, [], True),
        ("POC", True, [], False),
        ("", False, [], True),
        ("", True, ["/usr/bin/qemu"], True),
        ("", True, ["/usr/bin/?"], True),
        ("", True, ["/usr/bin=/opt/bin"], True),
        ("", True, ["/opt/bin=/usr/bin/qemu", "/usr/bin/q", ""], False),
    ],
)
def test_the_sandbox(flags: str, sandbox: bool, paths: list[str], works: bool) -> None:
    why = binfmt.why_not_in_sandbox(own("aarch64-linux")._replace(flags=flags), sandbox, paths)
    assert (why == "") is works
    assert works or ("nixfleet-aarch64" in why and "/usr/bin/qemu" in why)


def test_static_and_dynamic_programs() -> None:
    for system in binfmt.emulable():
        assert binfmt.interpreter_of_elf(binfmt.probe_program(system)) is None
    python = Path(shutil.which("sh") or "/bin/sh").resolve().read_bytes()
    loader = binfmt.interpreter_of_elf(python)
    assert loader and loader.startswith("/")


# A table of headers that begins at 2^63.
@example(bytes(19) + b"\x80" + bytes(17) + b"\x01", "aarch64-linux")
@given(st.binary(max_size=200), st.sampled_from(binfmt.emulable()))
def test_damaged_programs(junk: bytes, system: str) -> None:
    whole = binfmt.probe_program(system)
    for program in (junk, whole[:20] + junk, b"\x7fELF" + junk, whole[: len(junk)]):
        try:
            assert isinstance(binfmt.interpreter_of_elf(program), (str, type(None)))
        except binfmt.BinfmtError as error:
            assert "ELF" in str(error)
