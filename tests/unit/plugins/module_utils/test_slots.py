# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock files: their names, who holds what, and that the real hook of the Nix on this machine sees the same."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import slots as slots_room
from ansible_collections.nixfleet.builders.plugins.module_utils.slots import (
    Lock,
    Slots,
    SlotsError,
    directory,
    slot_name,
    upload_name,
)

URI = "ssh-ng://u@b1"
COLLECTIONS = next(path for path in sys.path if (Path(path) / "ansible_collections/nixfleet").is_dir())
HOOK = "/usr/libexec/nix/build-remote"


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(str(tmp_path / "current-load"))


def take(slots: Slots, uri: str = URI, max_jobs: int = 2) -> Lock | None:
    with slots.choosing() as choice:
        return choice.take(uri, max_jobs)


def others(slots: Slots, uri: str = URI, max_jobs: int = 2) -> int:
    with slots.choosing() as choice:
        return choice.others(uri, max_jobs)


# ---------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("uri", "names"),
    [
        # As the hooks of Nix 2.8.0, 2.26.3 and 2.34.8 made them.
        ("ssh://b1", ["ssh:__b1"] * 3),
        ("ssh-ng://u@b1", ["ssh-ng:__u@b1"] * 3),
        ("ssh://u@B1.Example", ["ssh:__u@B1.Example"] * 3),
        ("ssh-ng://u@b1:22", ["ssh-ng:__u@b1:22"] * 3),
        ("ssh-ng://u@[::1]", ["ssh-ng:__u@[::1]"] * 3),
        ("ssh-ng://u+x@b1", ["ssh-ng:__u+x@b1", "ssh-ng:__u+x@b1", "ssh-ng:__u%2Bx@b1"]),
        ("ssh-ng://u$@b1", ["ssh-ng:__u$@b1", "ssh-ng:__u$@b1", "ssh-ng:__u%24@b1"]),
        ("ssh-ng://u@b1?b=%3D%26x&a=", ["ssh-ng:__u@b1?b=%3D%26x&a=", *["ssh-ng:__u@b1?a=&b=%3D%26x"] * 2]),
        ("ssh-ng://b1?p=a%20b,c%2Fd&k=/k", ["ssh-ng:__b1?p=a%20b,c%2Fd&k=_k", *["ssh-ng:__b1?k=_k&p=a%20b%2Cc_d"] * 2]),
        ("ssh-ng://b1?compress", ["ssh-ng:__b1?compress", "ssh-ng:__b1", "ssh-ng:__b1"]),
        ("ssh-ng://b1?a=1&a=2", ["ssh-ng:__b1?a=1&a=2", "ssh-ng:__b1?a=1", "ssh-ng:__b1?a=1"]),
        ("auto", ["auto"] * 3),
        ("?root=/q", ["?root=_q", "auto?root=_q", "auto?root=_q"]),
        ("daemon", ["daemon", "unix:__", "daemon"]),
        ("daemon?x=y", ["daemon?x=y", "unix:__?x=y", "unix:__?x=y"]),
        ("local", ["local", "local:__", "local"]),
        ("local:///srv/m2", ["local:___srv_m2"] * 3),
        ("/srv/m1/", ["_srv_m1_", "local:___srv_m1", "local:___srv_m1"]),
        ("/srv/m1?a=b", ["_srv_m1?a=b", "local:___srv_m1?a=b", "local:___srv_m1?a=b"]),
        ("/srv/m%201", ["_srv_m%201", "local:___srv_m%201", "local:___srv_m%25201"]),
    ],
)
def test_files_are_named_as_each_nix_names_them(uri: str, names: list[str]) -> None:
    assert [slot_name(uri, 3, version) for version in ((2, 8, 0), (2, 26, 3), (2, 34, 8))] == [
        f"{name}-3" for name in names
    ]


def test_the_upload_lock_of_a_long_uri_is_named_by_its_hash() -> None:
    assert upload_name("ssh-ng://u@b1") == "ssh-ng:__u@b1.upload-lock"
    longest = "ssh-ng://" + "a" * 234
    assert len(upload_name(longest)) == 255 and upload_name(longest).startswith("ssh-ng:__aaa")
    # printf %s "$uri" | openssl md5 -binary | base64 | tr / _
    assert upload_name("ssh-ng://" + "a" * 300) == "Z4NP_H+fKnxcRCpuBW8utw==.upload-lock"


@pytest.mark.parametrize("uri", ["ssh-ng://nixremote@builder1", "ssh-ng://u@" + "a" * 300, "nix@itchy.labs.cs.uu.nl"])
def test_names_of_lix(uri: str) -> None:
    text = uri if "://" in uri else f"ssh://{uri}"
    done = subprocess.run(
        ["nix-hash", "--type", "sha256", "--to-base32", hashlib.sha256(text.encode()).hexdigest()],
        check=True,
        capture_output=True,
        text=True,
    )
    start = f"{text.replace('/', '_')[:48]}-{done.stdout[:16]}"
    assert slot_name(uri, 3, (2, 20), lix=True) == f"{start}-3"
    assert upload_name(uri, (2, 20), lix=True) == f"{start}.upload-lock"


def test_slots_of_lix(tmp_path: Path) -> None:
    slots = Slots(str(tmp_path), (2, 20), lix=True)
    with slots.choosing() as choice:
        lock = choice.take("ssh-ng://u@b1", 2)
    assert lock is not None
    assert slot_name("ssh-ng://u@b1", 0, lix=True) in os.listdir(tmp_path)
    with Slots(str(tmp_path), (2, 20), lix=True).choosing() as choice:
        assert choice.others("ssh-ng://u@b1", 2) == 1
    lock.release()


@pytest.mark.parametrize(
    ("store", "environment", "expected"),
    [
        ("auto", {}, "/nix/var/nix/current-load"),
        ("daemon", {"NIX_STATE_DIR": "/s"}, "/s/current-load"),
        ("auto", {"NIX_STATE_DIR": ""}, "/nix/var/nix/current-load"),
        ("unix:///run/socket", {}, "/nix/var/nix/current-load"),
        ("local?root=/r", {"NIX_STATE_DIR": "/s"}, "/r/nix/var/nix/current-load"),
        ("local?root=/r%20x&state=/t", {}, "/t/current-load"),
        ("local:///r/", {}, "/r/nix/var/nix/current-load"),
        ("/r", {}, "/r/nix/var/nix/current-load"),
        ("ssh-ng://b1?root=", {}, "/nix/var/nix/current-load"),
    ],
)
def test_where_the_locks_of_a_store_are(store: str, environment: dict[str, str], expected: str) -> None:
    assert directory(store, environment) == expected


# ---------------------------------------------------------------------------------------------------- locks


def test_no_more_than_max_jobs_are_taken(slots: Slots) -> None:
    first, second = take(slots), take(slots)
    assert first and second and take(slots) is None
    assert [Path(lock.path).name for lock in (first, second)] == ["ssh-ng:__u@b1-0", "ssh-ng:__u@b1-1"]
    assert stat.S_IMODE(os.stat(first.path).st_mode) == 0o600
    other = take(slots, "ssh-ng://u@b10")
    assert other and Path(other.path).name == "ssh-ng:__u@b10-0"
    first.release()
    first.release()
    again = take(slots)
    assert again and again.path == first.path
    assert take(slots, max_jobs=0) is None


def test_taking_a_slot_touches_its_file(slots: Slots) -> None:
    with take(slots) or pytest.fail() as lock:
        os.utime(lock.path, (0, 0))
    with take(slots):
        assert os.stat(lock.path).st_mtime > time.time() - 60


def test_slots_of_others_are_counted_and_own_are_not(slots: Slots) -> None:
    assert others(slots) == 0
    with take(slots) or pytest.fail() as lock:
        assert others(slots) == 0
        neighbour = Slots(slots.path)
        assert others(neighbour) == 1
        with take(neighbour):
            assert others(slots) == 1 and others(neighbour) == 1
            # A slot beyond max_jobs is of a time when there were more.
            assert others(slots, max_jobs=1) == 0
        assert others(slots) == 0
    assert others(neighbour) == 0
    with take(neighbour) or pytest.fail() as theirs:
        assert theirs.path == lock.path and others(slots) == 1  # it was ours before
    assert others(slots, "ssh-ng://u@b10") == 0


def test_only_one_chooses_at_a_time(slots: Slots) -> None:
    with slots.choosing():
        start = time.monotonic()
        refused = pytest.raises(SlotsError, match=r"main-lock: another process has held the lock for 0.1 s.*fuser -v")
        with refused, slots.choosing(timeout=0.1):
            pytest.fail("two hold it")
        assert time.monotonic() - start < 5
    with slots.choosing(timeout=0):
        pass


def test_many_threads_share_the_slots(slots: Slots) -> None:
    running, most, built = set[int](), [0], list[int]()
    guard = threading.Lock()

    def build(number: int) -> None:
        while True:
            lock = take(slots, max_jobs=3)
            if lock:
                break
            time.sleep(0.002)
        with lock:
            with guard:
                running.add(number)
                most[0] = max(most[0], len(running))
            time.sleep(0.005)
            with guard:
                running.discard(number)
                built.append(number)

    threads = [threading.Thread(target=build, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(built) == list(range(12)) and most[0] <= 3


def test_the_upload_lock(slots: Slots) -> None:
    with slots.choosing():
        pass
    with slots.upload(URI) or pytest.fail() as lock:
        assert Path(lock.path).name == "ssh-ng:__u@b1.upload-lock"
        assert slots.upload(URI, timeout=0.02) is None
        assert slots.upload("ssh-ng://u@b2", timeout=0) is not None
    assert slots.upload(URI, timeout=0) is not None


HOLDER = """
import sys, time
sys.path.insert(0, {collections!r})
from ansible_collections.nixfleet.builders.plugins.module_utils.slots import Slots
import subprocess
with Slots({path!r}).choosing() as choice:
    lock = choice.take({uri!r}, 1)
    child = subprocess.Popen(["sleep", "600"], close_fds=False, stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    time.sleep(60)
"""


def test_nothing_is_held_by_a_killed_process_nor_by_its_children(slots: Slots) -> None:
    code = HOLDER.format(collections=COLLECTIONS, path=slots.path, uri=URI)
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(SlotsError), slots.choosing(timeout=0.02):
            pass
        holder.kill()
        holder.wait()
        os.kill(child, 0)
        with slots.choosing(timeout=5) as choice:
            assert choice.others(URI, 1) == 0 and choice.take(URI, 1)
    finally:
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


def test_a_directory_that_cannot_be_used_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SlotsError, match="current-load/main-lock: No such file or directory; check that .*NIX_STATE"):
        take(Slots(str(tmp_path / "gone/current-load")))
    with pytest.raises(SlotsError, match="File name too long; .* use a shorter one"):
        take(Slots(str(tmp_path)), "ssh://" + "a" * 300)
    with pytest.raises(SlotsError) as caught:
        Slots("/dev/null/x").upload(URI)
    assert caught.value.path == "/dev/null/x/ssh-ng:__u@b1.upload-lock"

    def refuse(*_args: object) -> t.NoReturn:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(slots_room.os, "open", refuse)
    with pytest.raises(SlotsError, match=r"Permission denied; its files are root's, .* run as root \(become: true\)"):
        take(Slots(str(tmp_path)))


# ---------------------------------------------------------------------------------------------------- Nix's hook


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


def string(text: str) -> bytes:
    data = text.encode()
    return u64(len(data)) + data + b"\0" * (-len(data) % 8)


class Hook:
    """The hook of the Nix on this machine, with a store of its own; asked as Nix asks it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.slots = Slots(str(directory / "state/current-load"))

    @contextlib.contextmanager
    def asked(self, machines: list[str], path: str = "") -> t.Iterator[list[str]]:
        """What it answers to one derivation, while it still runs."""
        environment = {
            "PATH": path,
            "NIX_STORE_DIR": str(self.directory / "store"),
            "NIX_STATE_DIR": str(self.directory / "state"),
            "NIX_LOG_DIR": str(self.directory / "log"),
            "NIX_CONF_DIR": str(self.directory),
        }
        process = subprocess.Popen([HOOK, "1"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        assert process.stdin and process.stderr
        drv = f"{self.directory}/store/{'0' * 32}-x.drv"
        request = string("try") + u64(0) + string("x86_64-linux") + string(drv) + u64(0)
        with process:
            try:
                process.stdin.write(u64(1) + string("builders") + string(";".join(machines)) + u64(0) + request)
                process.stdin.flush()
                answer = []
                for line in process.stderr:
                    if not line.startswith(b"@nix"):
                        answer.append(line.decode().strip())
                        if answer[-1] != "# accept":
                            break
                    elif path and b"connecting to" in line:
                        break
                yield answer
            finally:
                process.kill()


@pytest.fixture
def hook(tmp_path: Path) -> Hook:
    if not os.access(HOOK, os.X_OK):
        pytest.skip("needs the hook of Debian's Nix 2.8")
    return Hook(tmp_path)


def test_the_hook_leaves_our_slots_alone(hook: Hook) -> None:
    one, two = f"{hook.directory}/one", f"{hook.directory}/two"
    lines = [f"{one} x86_64-linux - 1 2", f"{two} x86_64-linux - 1 1"]
    with hook.asked(lines) as answer:
        assert answer == ["# accept", one]
        assert others(hook.slots, one, 1) == 1 and take(hook.slots, one, 1) is None
    with take(hook.slots, one, 1) or pytest.fail():
        with hook.asked(lines) as answer:
            assert answer == ["# accept", two]
        with take(hook.slots, two, 1) or pytest.fail(), hook.asked(lines) as answer:
            assert answer == ["# postpone"]
    with hook.asked(lines) as answer:
        assert answer == ["# accept", one]


def test_the_hook_waits_while_we_choose(hook: Hook) -> None:
    machine = f"{hook.directory}/one"
    answers: list[list[str]] = []

    def ask() -> None:
        with hook.asked([f"{machine} x86_64-linux - 1"]) as answer:
            answers.append(answer)

    (hook.directory / "state").mkdir()
    with hook.slots.choosing() as choice:
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(0.5)
        assert not answers
        lock = choice.take(machine, 1)
    thread.join(30)
    assert answers == [["# postpone"]]
    assert lock
    lock.release()


def test_the_hook_names_a_machine_that_is_reached_by_ssh_as_we_do(hook: Hook) -> None:
    programs = hook.directory / "bin"
    programs.mkdir()
    (programs / "ssh").write_text("#!/bin/sh\n# Ends with the hook.\nexec /bin/cat >/dev/null\n")
    (programs / "ssh").chmod(0o755)
    uri = "ssh-ng://u@b1?ssh-key=/k"
    with hook.asked([f"{uri} x86_64-linux - 3"], str(programs)):
        assert others(hook.slots, uri, 3) == 1
        held = Path(hook.slots.path) / slot_name(uri, 0)
        with open(held) as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        second = take(hook.slots, uri, 3)
        assert second and second.path == str(held)[:-1] + "1"
