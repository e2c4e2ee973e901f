# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes a stand-in for the binary tarball of a Nix release, out of the Nix packages of the Debian it runs on.

The official download host cannot be reached from everywhere, so tests of role nix_install use this: the same layout
(nix-VERSION-SYSTEM/ with install, .reginfo and store/HASH-NAME), with valid hashes, sizes and references, and a Nix
that works. Its programs are Debian's with all their libraries beside them, started by small shell scripts through
Debian's dynamic loader; they need nothing of the host but /bin/sh. What the official tarball has and this has not:
the manual, shell completions, and programs that name their libraries themselves.

    tests/fleet/fleet up --fleet tarball t:trixie
    tests/fleet/fleet exec --fleet tarball t -- python3 - < tests/support/make_nix_tarball.py > nix.tar.xz
    tests/fleet/fleet down --fleet tarball

Also runs on any other Debian with the packages nix-bin and nix-setup-systemd. Writes to stdout.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import platform
import re
import struct
import subprocess
import sys
import tarfile
import typing as t

#: A file's bytes and whether it can be run, a symbolic link's target, or a directory's entries by name.
Node = t.Union["tuple[bytes, bool]", str, "dict[str, t.Any]"]

NIX32 = "0123456789abcdfghijklmnpqrsvwxyz"
PROGRAMS = (
    "nix-build",
    "nix-channel",
    "nix-collect-garbage",
    "nix-copy-closure",
    "nix-daemon",
    "nix-env",
    "nix-hash",
    "nix-instantiate",
    "nix-prefetch-url",
    "nix-shell",
    "nix-store",
)
#: What a build sees as /bin/sh; Nix's packages bring one of them.
STATIC_SHELLS = ("/usr/bin/bash-static", "/bin/bash-static", "/bin/busybox")
WRAPPER = """#!/bin/sh
export NIX_BIN_DIR={nix}/bin NIX_LIBEXEC_DIR={nix}/libexec
# Debian's Nix shows builds its /bin/sh by a path that hosts without Debian's packages do not have.
[ -n "${{NIX_CONF_DIR+set}}" ] || export NIX_CONF_DIR={libraries}/etc/nix
exec {nix}/bin/.loader --argv0 {program} --library-path {libraries}/lib {nix}/bin/.nix-binary "$@"
"""
# Stands before the host's own configuration, as the defaults of a Nix do that was built for it.
DEFAULTS = """sandbox-paths = /bin/sh={libraries}/bin/sh
!include /etc/nix/nix.conf
"""
PROFILE = """# Stand-in for Nix's profile script.
export PATH="$HOME/.nix-profile/bin:/nix/var/nix/profiles/default/bin:$PATH"
export NIX_SSL_CERT_FILE=/nix/var/nix/profiles/default/etc/ssl/certs/ca-bundle.crt
"""
INSTALL = """#!/bin/sh
# Stand-in for the official installer.
nix="{nix}"
cacert="{certificates}"
echo "this tarball is a stand-in for tests; see tests/support/make_nix_tarball.py" >&2
exit 1
"""


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def libraries(program: str) -> dict[str, str]:
    """The shared libraries of a program by name, and its loader under the name ''."""
    listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    found = dict(re.findall(r"(\S+) => (/\S+) \(", listed))
    loader = re.search(r"^\s*(/\S*/ld-linux\S*) \(", listed, re.MULTILINE)
    if not loader:
        raise SystemExit(f"{program} has no dynamic loader")
    return {**found, "": loader.group(1)}


def units(nix: str) -> dict[str, Node]:
    """Debian's systemd units, started from the store."""
    found: dict[str, Node] = {}
    for name in ("nix-daemon.service", "nix-daemon.socket"):
        directory = next(d for d in ("/usr/lib", "/lib") if os.path.exists(f"{d}/systemd/system/{name}"))
        text = read(f"{directory}/systemd/system/{name}").decode()
        found[name] = (text.replace("/usr/bin/", f"{nix}/bin/").encode(), False)
    return found


def nar(node: Node) -> bytes:
    """The Nix archive of a node."""

    def word(data: bytes) -> bytes:
        return struct.pack("<Q", len(data)) + data + bytes(-len(data) % 8)

    def body(node: Node) -> t.Iterator[bytes]:
        yield word(b"(") + word(b"type")
        if isinstance(node, str):
            yield word(b"symlink") + word(b"target") + word(node.encode())
        elif isinstance(node, dict):
            yield word(b"directory")
            for name in sorted(node, key=str.encode):
                yield word(b"entry") + word(b"(") + word(b"name") + word(name.encode()) + word(b"node")
                yield from body(node[name])
                yield word(b")")
        else:
            data, executable = node
            yield word(b"regular")
            if executable:
                yield word(b"executable") + word(b"")
            yield word(b"contents") + word(data)
        yield word(b")")

    return word(b"nix-archive-1") + b"".join(body(node))


def store_path(name: str, *inputs: str) -> str:
    """A path whose hash part depends on what is in it, as far as that is known beforehand."""
    digest = hashlib.sha256("\0".join([name, *inputs]).encode()).digest()
    return f"/nix/store/{''.join(NIX32[byte % 32] for byte in digest)}-{name}"


def registration(paths: dict[str, Node]) -> str:
    """The paths as C(nix-store --load-db) reads them, with the references that Nix would find by scanning."""
    lines = []
    for path, node in paths.items():
        archive = nar(node)
        references = sorted(other for other in paths if other[11:43].encode() in archive)
        lines += [path, f"sha256:{hashlib.sha256(archive).hexdigest()}", str(len(archive)), ""]
        lines += [str(len(references)), *references]
    return "\n".join(lines) + "\n"


def write(archive: tarfile.TarFile, name: str, node: Node) -> None:
    """A node and what is below it, root's and from 1970."""
    member = tarfile.TarInfo(name)
    member.mtime = 1
    member.mode = 0o444
    if isinstance(node, str):
        member.type, member.linkname, member.mode = tarfile.SYMTYPE, node, 0o777
        archive.addfile(member)
    elif isinstance(node, dict):
        member.type, member.mode = tarfile.DIRTYPE, 0o555
        archive.addfile(member)
        for entry in sorted(node):
            write(archive, f"{name}/{entry}", node[entry])
    else:
        data, executable = node
        member.size, member.mode = len(data), 0o555 if executable else 0o444
        archive.addfile(member, io.BytesIO(data))


def main() -> None:
    said = subprocess.run(["/usr/bin/nix", "--version"], check=True, capture_output=True, text=True).stdout
    version = said.split()[-1]
    system = f"{platform.machine()}-linux"
    found = libraries("/usr/bin/nix")
    loader = found.pop("")
    shared: dict[str, Node] = {name: (read(path), True) for name, path in sorted(found.items())}
    digest = hashlib.sha256(read("/usr/bin/nix")).hexdigest()
    digests = (hashlib.sha256(read(path)).hexdigest() for path in found.values())
    libs = store_path(f"nix-libraries-{version}", DEFAULTS, *digests)
    shell = read(next(path for path in STATIC_SHELLS if os.path.exists(path)))
    bundle = read("/etc/ssl/certs/ca-certificates.crt")
    certificates = store_path("nss-cacert-1.0", hashlib.sha256(bundle).hexdigest())
    nix = store_path(f"nix-{version}", digest, libs, WRAPPER, PROFILE)

    def wrapper(program: str) -> Node:
        return WRAPPER.format(nix=nix, libraries=libs, program=program).encode(), True

    paths: dict[str, Node] = {
        libs: {
            "bin": {"sh": (shell, True)},
            "etc": {"nix": {"nix.conf": (DEFAULTS.format(libraries=libs).encode(), False)}},
            "lib": shared,
        },
        certificates: {"etc": {"ssl": {"certs": {"ca-bundle.crt": (bundle, False)}}}},
        nix: {
            "bin": {
                # Nix takes the directory of the running program for that of all its programs: the loader's.
                ".loader": (read(loader), True),
                ".nix-binary": (read("/usr/bin/nix"), True),
                **{program: wrapper(program) for program in ["nix", *PROGRAMS]},
            },
            "etc": {"profile.d": {"nix-daemon.sh": (PROFILE.encode(), False), "nix.sh": (PROFILE.encode(), False)}},
            "lib": {
                "systemd": {"system": units(nix)},
                "tmpfiles.d": {"nix-daemon.conf": (b"d /nix/var/nix/daemon-socket 0755 root root - -\n", False)},
            },
            "libexec": {"nix": {"build-remote": wrapper("build-remote")}},
        },
    }
    top: dict[str, Node] = {
        ".reginfo": (registration(paths).encode(), False),
        "install": (INSTALL.format(nix=nix, certificates=certificates).encode(), True),
        "store": {path[11:]: node for path, node in paths.items()},
    }
    with lzma.open(sys.stdout.buffer, "wb", preset=1) as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        write(archive, f"nix-{version}-{system}", top)


if __name__ == "__main__":
    main()
