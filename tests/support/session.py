# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One session with a store that uses every operation, and its bytes: recorded with a real Nix, replayed by the tests.

Records one (as root on the host, which keeps what is built there):

    tests/fleet/fleet up --fleet record r:trixie:nix
    python3 tests/support/session.py tests/unit/sessions tests/fleet/fleet exec --fleet record r -- nix-daemon --stdio
    tests/fleet/fleet down --fleet record

The file is named by the version of Nix. It is base 64 of what zlib made of the parts in their order, each "<" (to us)
or ">", its length in 4 bytes, and its bytes.
"""

from __future__ import annotations

import base64
import sys
import textwrap
import typing as t
import zlib
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
    __import__("conftest")

from ansible_collections.nixfleet.builders.plugins.module_utils import derivation, protocol
from ansible_collections.nixfleet.builders.plugins.module_utils.channel import Buffer, Channel, ProcessChannel
from ansible_collections.nixfleet.builders.plugins.module_utils.derivation import BasicDerivation, Output
from ansible_collections.nixfleet.builders.plugins.module_utils.protocol import RemoteError
from ansible_collections.nixfleet.builders.plugins.module_utils.store import Store
from ansible_collections.nixfleet.builders.tests.support.played_store import nar, path_info

HEADER = """\
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""

SOURCE = "/nix/store/4l1mxgkmmf4w0vkxkl2c3w8d3q7j5k6a-source"
ABSENT = "/nix/store/00000000000000000000000000000000-none"
FAILS = "/nix/store/11111111111111111111111111111111-fails"
DRV = "/nix/store/8nshgpigcgm0ygrvb67r9cynh8cplkzm-recorded.drv"
OUT = "/nix/store/yn4gak6sg1d0nd46kjd62frinrhb9w9p-recorded"
DEV = "/nix/store/6hkhqywcq4dqbqxvr2z4pg9j5ryhwpls-recorded-dev"
#: What nix-instantiate made: a .drv whose outputs' names do not fit is refused.
DRV_TEXT = (
    f'Derive([("dev","{DEV}","",""),("out","{OUT}","","")],[],[],"x86_64-linux","/bin/sh",["-c","echo line one; '
    r"echo \"@nix {\\\"action\\\":\\\"setPhase\\\",\\\"phase\\\":\\\"buildPhase\\\"}\" >&2; "
    'echo line two; echo hello > $out; echo $out > $dev"],[("builder","/bin/sh"),'
    f'("dev","{DEV}"),("name","recorded"),("out","{OUT}"),("outputs","out dev"),("system","x86_64-linux")])'
)
SIGNATURE = "test-1:CT3BWjKjbmMMYqAJcaXNu1o0JH+huWO+xt7WSI+VQkXcVeg9bsj54y8yoAev0d8+NsbZNrierZmblsVwATVwDQ=="


def basic(parsed: derivation.Derivation) -> BasicDerivation:
    return BasicDerivation(parsed.outputs, parsed.input_srcs, parsed.system, parsed.builder, parsed.args, parsed.env)


def failing() -> BasicDerivation:
    env = {"name": "fails", "out": FAILS, "system": "x86_64-linux", "builder": "/bin/sh", "odd": "\udcff\n"}
    script = "echo going to fail; exit 3"
    return BasicDerivation({"out": Output(FAILS)}, (SOURCE,), "x86_64-linux", "/bin/sh", ("-c", script), env)


def play(channel: Channel) -> dict[str, t.Any]:
    """The session; what came out of each step by its name."""
    found: dict[str, t.Any] = {}
    store = Store(channel)
    found["handshake"] = (store.version, store.nix_version, store.trusted)
    options = protocol.Options(max_build_jobs=2, build_cores=1, use_substitutes=False, overrides={"timeout": "60"})
    store.set_options(options)
    archives = {SOURCE: nar(b"a source\n"), DRV: nar(DRV_TEXT.encode())}
    items = [(path_info(path, archive), [archive]) for path, archive in archives.items()]
    store.add_many(2, items, check_signatures=False)
    store.add_signatures(SOURCE, [SIGNATURE])
    store.add_temp_roots([SOURCE, DRV, ABSENT])
    found["valid"] = (store.is_valid_path(SOURCE), store.is_valid_path(ABSENT), store.valid_paths([SOURCE, ABSENT]))
    found["substitute"] = store.valid_paths([SOURCE], substitute=True)
    found["missing"] = store.missing([protocol.derived_path(DRV, ["*"]), SOURCE, ABSENT])
    found["output map"] = store.output_map(DRV)
    events: list[protocol.Event] = []
    parsed = derivation.parse(DRV, DRV_TEXT.encode())
    built = store.queue(protocol.BUILD_DERIVATION, protocol.BuildDerivationRequest(DRV, basic(parsed)), events.append)
    infos = [store.queue(protocol.QUERY_PATH_INFO, path) for path in (OUT, DEV, SOURCE, ABSENT)]
    found["built"] = built.result()
    found["events"] = events
    found["infos"] = [info.result() for info in infos]
    found["failed"] = store.build_derivation(FAILS + ".drv", failing())
    found["by path"] = store.build_paths([protocol.derived_path(DRV, ["out", "dev"]), SOURCE])
    found["nars"] = {
        info.path: b"".join(bytes(piece) for piece in pieces)
        for info, pieces in store.nars([info for info in found["infos"] if info])
    }
    store.ensure_path(SOURCE)
    for name, refused in {
        "absent": lambda: store.ensure_path(ABSENT),
        "damaged": lambda: store.add_many(1, [(path_info(FAILS, nar(b"1")), [nar(b"2")])], check_signatures=False),
        "unsigned": lambda: store.add_many(1, [(path_info(FAILS, nar(b"1")), [nar(b"1")])], check_signatures=True),
    }.items():
        try:
            refused()
        except RemoteError as error:
            found[name] = error
    found["at the end"] = store.is_valid_path(OUT)
    return found


class Recorder(Channel):
    """Passes everything on and writes it down."""

    def __init__(self, inner: Channel) -> None:
        super().__init__(inner.name, None)
        self.parts: list[tuple[str, bytes]] = []
        self._inner = inner

    def _note(self, mark: str, data: bytes) -> None:
        if self.parts and self.parts[-1][0] == mark:
            data = self.parts.pop()[1] + data
        self.parts.append((mark, data))

    def _receive(self) -> Buffer:
        data = bytes(self._inner.read_some(1 << 20))
        self._note("<", data)
        return data

    def _ready(self) -> bool:
        return self._inner.readable()

    def _send(self, buffers: list[Buffer]) -> None:
        self._note(">", b"".join(buffers))
        self._inner.write(*buffers)
        self._inner.flush()

    def abort(self) -> None:
        self._inner.abort()

    def close(self) -> None:
        self._inner.close()

    def stderr_tail(self) -> str:
        return self._inner.stderr_tail()


class Replay(Channel):
    """Says what was recorded. Fails the test where we say something else than we said then."""

    def __init__(self, parts: list[tuple[str, bytes]]) -> None:
        super().__init__("recorded", None)
        self._parts = list(parts)

    def _receive(self) -> Buffer:
        if not self._parts:
            return b""
        mark, data = self._parts.pop(0)
        assert mark == "<", f"we wait, and should have sent {data!r}"
        return data

    def _ready(self) -> bool:
        return not self._parts or self._parts[0][0] == "<"

    def _send(self, buffers: list[Buffer]) -> None:
        ours = b"".join(buffers)
        while ours:
            mark, data = self._parts[0]
            assert mark == ">", f"{ours!r} is sent before the answer {data!r} was read"
            size = min(len(ours), len(data))
            assert ours[:size] == data[:size]
            ours = ours[size:]
            self._parts[0] = (mark, data[size:])
            if not self._parts[0][1]:
                self._parts.pop(0)

    @property
    def finished(self) -> bool:
        return not self._parts

    def abort(self) -> None:
        pass

    def close(self) -> None:
        pass

    def stderr_tail(self) -> str:
        return ""


def load(path: Path) -> list[tuple[str, bytes]]:
    text = "".join(line for line in path.read_text(encoding="ascii").splitlines() if line[0] != "#")
    data = zlib.decompress(base64.b64decode(text))
    parts = []
    while data:
        size = int.from_bytes(data[1:5], "little")
        parts.append((chr(data[0]), data[5 : 5 + size]))
        data = data[5 + size :]
    return parts


def save(path: Path, parts: list[tuple[str, bytes]]) -> None:
    data = b"".join(mark.encode() + len(part).to_bytes(4, "little") + part for mark, part in parts)
    text = base64.b64encode(zlib.compress(data, 9)).decode()
    path.write_text(HEADER + "".join(line + "\n" for line in textwrap.wrap(text, 118)), encoding="ascii")


def record(directory: Path, argv: list[str]) -> None:
    recorder = Recorder(ProcessChannel(argv[0], argv))
    found = play(recorder)
    recorder.close()
    path = directory / f"nix-{found['handshake'][1]}.session"
    save(path, recorder.parts)
    print(path, path.stat().st_size, found)


if __name__ == "__main__":
    record(Path(sys.argv[1]), sys.argv[2:])
