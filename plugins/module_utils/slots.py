# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The slots of machines, shared with Nix's own build hook on the same client: the lock files in current-load.

A slot is held by flock on a file of its machine; the kernel lets go of it when its holder dies. The files, their names
and the order of locking are those of build-remote.cc and pathlocks.cc in Nix 2.8 to 2.34. Files are never deleted.
Lix names the same files another way, in all versions from 2.90 to 2.95 (its build-remote.cc, makeLockFilename).
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import hashlib
import os
import re
import time
import typing as t
from urllib.parse import parse_qsl, quote, unquote

from ansible_collections.nixfleet.builders.plugins.module_utils import store_uri
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_version import OLDEST, Version

#: A main lock that is not to be had for so long is held by a process that hangs: it is needed for milliseconds.
MAIN_LOCK_TIMEOUT = 60.0
#: As long as Nix waits for another upload to the same machine before it goes on without the lock.
UPLOAD_LOCK_TIMEOUT = 15 * 60.0

#: From then on C(daemon) and C(local) are named so, before as the URI they stand for (store-reference.cc).
_WORDS_SINCE: Version = (2, 32)
#: From then on the path of a store is percent-encoded in its URI (store-reference.cc).
_ENCODED_PATHS_SINCE: Version = (2, 34)
#: The longest wait between two looks at a lock.
_LOOK_EVERY = 0.05

#: Nix's digits, without those of its curses (libutil/hash.cc).
_BASE32 = "0123456789abcdfghijklmnpqrsvwxyz"
#: Of a machine's URI, so many bytes are in the names of Lix's locks, and so many digits of its hash.
_LIX_URI_BYTES = 48
_LIX_HASH_DIGITS = 16

_SLOT_FILE = re.compile(r"(.+)-(0|[1-9][0-9]{0,9})", re.DOTALL)


class SlotsError(Exception):
    """The locks cannot be used. path: of which file. reason, hint: texts."""

    def __init__(self, path: str, reason: str, hint: str) -> None:
        self.path = path
        self.reason = reason
        self.hint = hint
        text = f"the slots shared with Nix's own builds: {path}: {reason}; {hint}"
        super().__init__(text.encode("utf-8", "backslashreplace").decode("utf-8"))


# ---------------------------------------------------------------------------------------------------- names


def directory(store: str = "auto", environment: t.Mapping[str, str] | None = None) -> str:
    """Where the locks are for the builds of this store: current-load in its state directory (local-fs-store.hh)."""
    base, _mark, query = store.partition("?")
    params = dict(parse_qsl(query))
    root = params.get("root", "")
    if base.startswith("local://"):
        root = root or base[len("local://") :]
    elif "/" in base and "://" not in base:
        root = root or os.path.abspath(base)
    variables = os.environ if environment is None else environment
    default = f"{root.rstrip('/')}/nix/var/nix" if root else variables.get("NIX_STATE_DIR") or "/nix/var/nix"
    return os.path.join(params.get("state", default), "current-load")


def rendered(uri: str, nix_version: Version) -> str:
    """The URI as this Nix writes it: in the names of locks and in messages (store-reference.cc, url.cc)."""
    if nix_version < store_uri.PARSED_SINCE or store_uri.is_plain_ssh(uri):
        return uri
    base, _mark, query = uri.partition("?")
    params: dict[str, str] = {}
    for word in query.split("&"):
        name, equals, value = word.partition("=")
        if equals:
            params.setdefault(name, unquote(value, errors="surrogateescape"))
    if base in ("", "auto"):
        base = "auto"
    elif base in ("daemon", "local"):
        if params or nix_version < _WORDS_SINCE:
            base = {"daemon": "unix://", "local": "local://"}[base]
    elif "://" not in base:
        path = os.path.normpath(os.path.join("/", base))
        base = "local://" + (quote(path, safe="/:@") if nix_version >= _ENCODED_PATHS_SINCE else path)
    elif nix_version >= store_uri.PORT_SINCE:
        base = _authority(base)
    if not params:
        return base
    return base + "?" + "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in sorted(params.items()))


def _authority(base: str) -> str:
    """The URI without parameters, its user and host encoded as Nix since 2.31 does it."""
    parts = store_uri.split_uri(base)
    user = "" if parts.user is None else quote(unquote(parts.user), safe="") + "@"
    host = f"[{quote(parts.host, safe=':%')}]" if ":" in parts.host else quote(unquote(parts.host), safe="")
    port = "" if parts.port is None else f":{parts.port}"
    return f"{parts.protocol}://{user}{host}{port}{parts.rest}"


def _quoted(text: str) -> str:
    return quote(text, safe=":@/?", errors="surrogateescape")


def slot_name(uri: str, slot: int, nix_version: Version = OLDEST, lix: bool = False) -> str:
    """The file's name of a machine's slot, from 0."""
    return f"{_machine_name(uri, nix_version, lix)}-{slot}"


def upload_name(uri: str, nix_version: Version = OLDEST, lix: bool = False) -> str:
    """The file's name of a machine's upload lock; of a long URI only its MD5 is in it, as in Nix since 2.24."""
    name = _machine_name(uri, nix_version, lix) + ".upload-lock"
    if len(os.fsencode(name)) <= 255:
        return name
    text = rendered(uri, nix_version)
    digest = hashlib.md5(text.encode("utf-8", "surrogateescape"), usedforsecurity=False).digest()
    return _escaped(base64.b64encode(digest).decode()) + ".upload-lock"


def _machine_name(uri: str, nix_version: Version, lix: bool) -> str:
    """What the names of a machine's locks begin with."""
    if not lix:
        return _escaped(rendered(uri, nix_version))
    # A URI without a scheme is one of ssh to Lix before it names the file (machines.cc).
    words = ("auto", "daemon", "local")
    plain = "/" not in uri and uri not in words and not uri.startswith(("?", *(f"{word}?" for word in words)))
    text = os.fsencode(f"ssh://{uri}" if plain else uri)
    start = os.fsdecode(text.replace(b"/", b"_")[:_LIX_URI_BYTES])
    return f"{start}-{_base32(hashlib.sha256(text).digest())[:_LIX_HASH_DIGITS]}"


def _base32(digest: bytes) -> str:
    """A hash as Nix writes it: from its end, five bits at a time (libutil/hash.cc, printHash32)."""
    number = int.from_bytes(digest, "little")
    return "".join(_BASE32[number >> 5 * place & 31] for place in reversed(range((len(digest) * 8 + 4) // 5)))


def _escaped(uri: str) -> str:
    return uri.replace("/", "_")


# ---------------------------------------------------------------------------------------------------- locks


class Lock:
    """A lock that is held until release(), or until this process ends. Any thread may release it, also twice."""

    def __init__(self, path: str, fd: int, own: set[str] | None = None) -> None:
        self.path = path
        self._fds = [fd]
        self._own = own

    def release(self) -> None:
        try:
            fd = self._fds.pop()
        except IndexError:
            return
        if self._own is not None:
            self._own.discard(self.path)
        os.close(fd)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.release()


class Slots:
    """The locks in one directory, for the machines of one client. Threads may share it.

    nix_version, lix: of the Nix there, as it names the files.
    """

    def __init__(self, path: str, nix_version: Version = OLDEST, lix: bool = False) -> None:
        self.path = path
        self.nix_version = nix_version
        self.lix = lix
        #: The slot files that are locked through these Slots.
        self._own: set[str] = set()

    @contextlib.contextmanager
    def choosing(self, timeout: float = MAIN_LOCK_TIMEOUT) -> t.Iterator[Choice]:
        """Holds the lock under which everybody chooses; hold it briefly, all builds of the client wait meanwhile.

        Raises SlotsError where the locks cannot be used, or the lock is not free within C(timeout) seconds.
        """
        # As Nix makes it; who may use the files in it is decided by their own mode.
        with contextlib.suppress(OSError):
            os.mkdir(self.path, 0o777)
        lock = self._wait("main-lock", timeout)
        if lock is None:
            raise SlotsError(
                os.path.join(self.path, "main-lock"),
                f"another process has held the lock for {timeout:g} s, so no build of this client can start",
                "see which one with 'fuser -v' on that file, and end it",
            )
        with lock:
            yield Choice(self)

    def upload(self, uri: str, timeout: float = UPLOAD_LOCK_TIMEOUT) -> Lock | None:
        """The lock under which one at a time uploads to a machine; None: others held it for C(timeout) seconds."""
        return self._wait(upload_name(uri, self.nix_version, self.lix), timeout)

    def _wait(self, name: str, timeout: float) -> Lock | None:
        # Not with a blocking flock: it could not be given up without a signal, which a thread cannot use.
        path, fd = self._open(name)
        deadline = time.monotonic() + timeout
        pause = 0.001
        try:
            while not _locked(fd):
                if time.monotonic() >= deadline:
                    os.close(fd)
                    return None
                time.sleep(pause)
                pause = min(pause * 2, _LOOK_EVERY)
        except BaseException:
            os.close(fd)
            raise
        return Lock(path, fd)

    def _open(self, name: str) -> tuple[str, int]:
        """The path of a lock file and the file, not locked."""
        path = os.path.join(self.path, name)
        try:
            # Python opens it close-on-exec: a program that is started meanwhile does not keep the lock.
            return path, os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise _explained(path, error) from None


class Choice:
    """What can be asked and taken while the main lock is held. Made by Slots.choosing()."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        #: The numbers of the slots that have a file, by machine.
        self._numbers: dict[str, list[int]] = {}
        for name in os.listdir(slots.path):
            found = _SLOT_FILE.fullmatch(name)
            if found:
                self._numbers.setdefault(found.group(1), []).append(int(found.group(2)))

    def take(self, uri: str, max_jobs: int) -> Lock | None:
        """The machine's first free slot, to be released when the build is over; None: all are in use."""
        slots = self._slots
        machine = _machine_name(uri, slots.nix_version, slots.lix)
        for number in range(max_jobs):
            path, fd = slots._open(f"{machine}-{number}")
            if _locked(fd):
                os.utime(fd)  # as Nix does: the file tells when the slot was last taken
                slots._own.add(path)
                return Lock(path, fd, slots._own)
            os.close(fd)
        return None

    def others(self, uri: str, max_jobs: int) -> int:
        """How many of the machine's slots are held, but not by these Slots: by Nix's hook, or by another dispatch."""
        slots = self._slots
        machine = _machine_name(uri, slots.nix_version, slots.lix)
        held = 0
        for number in self._numbers.get(machine, ()):
            if number < max_jobs and os.path.join(slots.path, f"{machine}-{number}") not in slots._own:
                _path, fd = slots._open(f"{machine}-{number}")
                held += not _locked(fd)
                os.close(fd)
        return held


def _locked(fd: int) -> bool:
    """Whether the lock could be had at once."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _explained(path: str, error: OSError) -> SlotsError:
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "its files are root's, as Nix's daemon holds them: run as root (become: true), or do not share the slots"
    elif error.errno == errno.ENAMETOOLONG:
        hint = "Nix names locks after the machine's URI: use a shorter one, with an alias of ssh_config as the host"
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        hint = "each slot in use is an open file: raise the limit (ulimit -n), or use fewer slots"
    else:
        hint = "check that this is where this host's Nix has its state (NIX_STATE_DIR)"
    return SlotsError(path, error.strerror or str(error), hint)
