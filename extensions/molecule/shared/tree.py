# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prints one line per file, directory and link of this host: path, mode, owner, group, size and time, link target.

Two such lists differ where something was made, changed or removed in between.
Left out is what changes by itself on an idle host.
With the argument "contents" a file's line has a digest in place of its time, and nothing in /var/lib is left out: such
lists do not differ where something was removed and put back as it was.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys

CONTENTS = sys.argv[1:] == ["contents"]
SKIPPED = {"/dev", "/proc", "/sys", "/tmp", "/var/cache/man", "/var/log", "/var/tmp"}
# Who only reads Nix's database writes down that he does.
SKIPPED.add("/nix/var/nix/db/db.sqlite-shm")
# A directory of the standard hierarchy that not every release comes with.
SKIPPED_EMPTY = {"/usr/local/libexec"}
# What is put on the disk once, by a package or by Nix: its time tells enough.
BY_TIME = ("/usr/", "/nix/", "/var/cache/apt/")


def is_left_out(path: str) -> bool:
    """Whether the list does not tell of this path and what is below it."""
    if path in SKIPPED_EMPTY and not os.listdir(path):
        return True
    if path in SKIPPED or path == "/var/lib/systemd" and not CONTENTS:
        return True
    # Of /run only what is ours. Ansible's own temporary directory is no change of the host.
    return os.path.basename(path) == ".ansible" or os.path.dirname(path) == "/run" and path != "/run/nixfleet"


def line(path: str) -> str:
    """One line for one path."""
    info = os.lstat(path)
    fields = [path, stat.filemode(info.st_mode), str(info.st_uid), str(info.st_gid)]
    if stat.S_ISREG(info.st_mode) and CONTENTS and not path.startswith(BY_TIME):
        with open(path, "rb") as file:
            fields.append(hashlib.sha256(file.read()).hexdigest())
    elif stat.S_ISREG(info.st_mode):
        fields += [str(info.st_size), str(info.st_mtime_ns)]
    elif stat.S_ISLNK(info.st_mode):
        fields.append(os.readlink(path))
    return " ".join(fields)


def main() -> None:
    """Walks the host from its root."""
    for directory, subdirectories, files in os.walk("/"):
        names = [os.path.join(directory, name) for name in subdirectories + files]
        kept = [name for name in names if not is_left_out(name)]
        subdirectories[:] = sorted(name for name in subdirectories if os.path.join(directory, name) in kept)
        for name in sorted(kept):
            print(line(name))


main()
