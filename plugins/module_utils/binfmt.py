# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Programs of other processors: what Linux's binfmt_misc has registered for them, and what it is to be told.

Pure: texts are handed in. Rules: Linux 6.18, binfmt-misc.rst and fs/binfmt_misc.c; binfmt.d(5).
"""

from __future__ import annotations

import re
import struct
import typing as t

#: How the handlers that this collection registers begin.
PREFIX = "nixfleet-"

#: The status with which a processor's probe ends, so that nothing else is taken for it.
PROBE_STATUS = 42

_EXECUTABLE = 2


class BinfmtError(Exception):
    """A system that cannot be emulated, or an interpreter that will not do. The text says which and why."""


class Processor(t.NamedTuple):
    """One processor: QEMU's word for it, and how its ELF files begin (elf.h).

    bits: 32 or 64. order: C('<') or C('>'), as in struct. machine: e_machine. flags: e_flags. probe: instructions that
    end the process with PROBE_STATUS.
    """

    qemu: str
    bits: int
    order: str
    machine: int
    flags: int
    probe: bytes

    @property
    def handler(self) -> str:
        """The name of this collection's handler."""
        return PREFIX + self.qemu


def _words(order: str, *words: int) -> bytes:
    return struct.pack(f"{order}{len(words)}I", *words)


_ARM = Processor("arm", 32, "<", 40, 0x05000000, _words("<", 0xE3A07001, 0xE3A0002A, 0xEF000000))

#: Nix's word for a system's processor -> what is known of it. Each probe is exit(42).
PROCESSORS = {
    "aarch64": Processor("aarch64", 64, "<", 183, 0, _words("<", 0xD2800BA8, 0xD2800540, 0xD4000001)),
    "armv6l": _ARM,
    "armv7l": _ARM,
    "i686": Processor("i386", 32, "<", 3, 0, bytes.fromhex("b801000000bb2a000000cd80")),
    "loongarch64": Processor("loongarch64", 64, "<", 258, 3, _words("<", 0x0381740B, 0x0380A804, 0x002B0000)),
    "powerpc64le": Processor("ppc64le", 64, "<", 21, 2, _words("<", 0x38000001, 0x3860002A, 0x44000002)),
    "riscv64": Processor("riscv64", 64, "<", 243, 0, _words("<", 0x05D00893, 0x02A00513, 0x00000073)),
    "s390x": Processor("s390x", 64, ">", 22, 0, bytes.fromhex("a729002a0a01")),
    "x86_64": Processor("x86_64", 64, "<", 62, 0, bytes.fromhex("b83c000000bf2a0000000f05")),
}


class Handler(t.NamedTuple):
    """One registered handler, out of its file in /proc/sys/fs/binfmt_misc.

    flags: letters, such as C(POCF). F: the interpreter was opened when it was registered, so that it is there in every
    chroot. magic, mask: None for one that goes by a file's extension.
    """

    name: str
    enabled: bool
    interpreter: str
    flags: str
    offset: int
    magic: bytes | None
    mask: bytes | None

    def takes(self, program: bytes) -> bool:
        """Whether it runs a program that begins so."""
        if not self.enabled or self.magic is None:
            return False
        start = program[self.offset : self.offset + len(self.magic)]
        mask = self.mask or b"\xff" * len(self.magic)
        return len(start) == len(self.magic) and all(
            (ours ^ theirs) & bits == 0 for ours, theirs, bits in zip(start, self.magic, mask)
        )


def processor(system: str) -> Processor | None:
    """What is known of a system's processor; None for a system that is not Linux, or of which nothing is known.

    C(x86_64-v2-linux) and the like name a level of the processor (libstore/globals.cc), not another one.
    """
    name, _dash, kernel = system.partition("-")
    if kernel != "linux" and not (name == "x86_64" and re.fullmatch(r"v[1-9]-linux", kernel)):
        return None
    return PROCESSORS.get(name)


def emulable() -> list[str]:
    """The systems of which this collection knows how they are emulated."""
    return sorted(f"{name}-linux" for name in PROCESSORS)


def probe_program(system: str) -> bytes:
    """A whole static program of the system, which ends with PROBE_STATUS. Raises BinfmtError for an unknown one."""
    kind = processor(system)
    if kind is None:
        raise BinfmtError(f"nothing is known of the processor of {system}")
    wide = kind.bits == 64
    header, entry_size = (64, 56) if wide else (52, 32)
    # A page of any size that processors have, and above what they let nobody map.
    base, align = 0x400000, 0x10000
    code = header + entry_size
    size = code + len(kind.probe)
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if kind.order == "<" else 2, 1]) + bytes(9)
    pointer = "Q" if wide else "I"
    ehdr = struct.pack(
        f"{kind.order}HHI{pointer}{pointer}{pointer}IHHHHHH",
        *(_EXECUTABLE, kind.machine, 1, base + code, header, 0, kind.flags, header, entry_size, 1, 0, 0, 0),
    )
    # A segment to be loaded, which may be read and executed; its flags stand elsewhere in the wide form.
    if wide:
        phdr = struct.pack(f"{kind.order}IIQQQQQQ", 1, 5, 0, base, base, size, size, align)
    else:
        phdr = struct.pack(f"{kind.order}IIIIIIII", 1, 0, base, base, size, size, 5, align)
    return ident + ehdr + phdr + kind.probe


def magic_and_mask(kind: Processor) -> tuple[bytes, bytes]:
    """How executable files of a processor begin: the first 20 bytes, and which of their bits count.

    Any OS ABI; C(e_type) ET_EXEC and ET_DYN, which differ in one bit.
    """
    ident = b"\x7fELF" + bytes([2 if kind.bits == 64 else 1, 1 if kind.order == "<" else 2, 1]) + bytes(9)
    magic = ident + struct.pack(f"{kind.order}HH", _EXECUTABLE, kind.machine)
    mask = b"\xff" * 7 + b"\x00" + b"\xff" * 8 + struct.pack(f"{kind.order}HH", 0xFFFE, 0xFFFF)
    return magic, mask


def candidates(kind: Processor) -> list[str]:
    """Where QEMU for a processor may be, best first: as Debian names the one that takes the flag P, and static ones."""
    name = kind.qemu
    return [f"/usr/libexec/qemu-binfmt/{name}-binfmt-P", f"/usr/bin/qemu-{name}-static", f"/usr/bin/qemu-{name}"]


def flags(interpreter: str) -> str:
    """The flags of a handler. F: see Handler. P: the interpreter is also told by which name a program was called,
    which Debian's QEMU expects where its own name ends so."""
    return "PF" if interpreter.endswith("-binfmt-P") else "F"


def line(kind: Processor, interpreter: str) -> str:
    """What registers a handler, in binfmt.d as well as in the kernel's C(register)."""
    if not re.fullmatch(r"/[^\x00-\x20:\\\x7f-\uffff]+", interpreter) or len(interpreter) > 127:
        raise BinfmtError(
            f"the interpreter {interpreter!r} must be an absolute path of up to 127 characters, without blank, : and \\"
        )
    magic, mask = magic_and_mask(kind)
    return f":{kind.handler}:M::{_escaped(magic)}:{_escaped(mask)}:{interpreter}:{flags(interpreter)}"


def _escaped(data: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in data)


def parse_handler(name: str, text: str) -> Handler:
    """A handler out of what the kernel says of it. What it does not say is empty."""
    lines = text.splitlines()
    words = dict(entry.partition(" ")[::2] for entry in lines)
    offset = words.get("offset", "0")
    return Handler(
        name,
        "enabled" in lines,
        words.get("interpreter", ""),
        words.get("flags:", "").strip(),
        int(offset) if offset.isdigit() else 0,
        _bytes(words.get("magic")),
        _bytes(words.get("mask")),
    )


def _bytes(text: str | None) -> bytes | None:
    try:
        return bytes.fromhex(text) if text else None
    except ValueError:
        return None


def handler_of(system: str, handlers: t.Iterable[Handler]) -> Handler | None:
    """The first of the handlers that runs a system's programs; None when there is none."""
    program = probe_program(system)
    return next((handler for handler in handlers if handler.takes(program)), None)


def interpreter_of_elf(program: bytes) -> str | None:
    """The dynamic loader that a program needs (PT_INTERP), None for a static one. Raises BinfmtError for no program."""
    try:
        if program[:4] != b"\x7fELF":
            raise BinfmtError("it is no ELF program")
        wide, order = program[4] == 2, "<" if program[5] == 1 else ">"
        table = struct.unpack_from(f"{order}{'Q' if wide else 'I'}", program, 32 if wide else 28)[0]
        size, count = struct.unpack_from(f"{order}HH", program, 54 if wide else 42)
        for number in range(count):
            start = table + number * size
            if struct.unpack_from(f"{order}I", program, start)[0] != 3:
                continue
            where, length = (
                (struct.unpack_from(f"{order}Q", program, start + at)[0] for at in (8, 32))
                if wide
                else (struct.unpack_from(f"{order}I", program, start + at)[0] for at in (4, 16))
            )
            return program[where : where + length].rstrip(b"\x00").decode("utf-8", "replace")
    except (struct.error, IndexError, OverflowError) as error:
        raise BinfmtError(f"its ELF header is damaged: {error}") from error
    return None


def why_not_in_sandbox(handler: Handler, sandbox: bool, sandbox_paths: t.Iterable[str]) -> str:
    """Why Nix's sandbox keeps a handler from working; '' if it does not.

    sandbox: Nix builds in one. sandbox_paths: what is seen there (C(sandbox-paths)), as C(TARGET=SOURCE?) or a path.
    """
    if not sandbox or "F" in handler.flags:
        return ""
    seen = {path.rstrip("?").partition("=")[0].rstrip("/") for path in sandbox_paths}
    if any(handler.interpreter == path or handler.interpreter.startswith(f"{path}/") for path in seen if path):
        return ""
    return (
        f"its handler {handler.name} in binfmt_misc has not the flag F, so Nix's sandbox does not see the interpreter "
        f"{handler.interpreter}; register it with F, or add it to Nix's sandbox-paths"
    )
