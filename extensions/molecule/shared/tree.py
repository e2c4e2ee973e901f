# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prints one line per file, directory and link of this host: path, mode, owner, group, size and time, link target.

Two such lists differ where something was made, changed or removed in between.
Left out is what changes by itself on an idle host.
"""

from __future__ import annotations

import os
import stat

SKIPPED = {"/dev", "/proc", "/run", "/sys", "/tmp", "/var/cache/man", "/var/lib/systemd", "/var/log", "/var/tmp"}


def line(path: str) -> str:
    """One line for one path."""
    info = os.lstat(path)
    fields = [path, stat.filemode(info.st_mode), str(info.st_uid), str(info.st_gid)]
    if stat.S_ISREG(info.st_mode):
        fields += [str(info.st_size), str(info.st_mtime_ns)]
    elif stat.S_ISLNK(info.st_mode):
        fields.append(os.readlink(path))
    return " ".join(fields)


def main() -> None:
    """Walks the host from its root."""
    for directory, subdirectories, files in os.walk("/"):
        names = [os.path.join(directory, name) for name in subdirectories + files]
        # Ansible's own temporary directory is no change of the host.
        kept = [name for name in names if name not in SKIPPED and os.path.basename(name) != ".ansible"]
        subdirectories[:] = sorted(name for name in subdirectories if os.path.join(directory, name) in kept)
        for name in sorted(kept):
            print(line(name))


main()
