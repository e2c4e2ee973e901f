# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs in the place of Nix's, for tests of what evaluates before it builds."""

from __future__ import annotations

from pathlib import Path


def make_programs(root: Path) -> Path:
    """The directory of programs. They answer with files of root: settings, answer; calls has how they were called."""
    directory = root / "bin"
    directory.mkdir()
    for name in ("nix", "nix-store", "nix-instantiate", "nix-daemon"):
        (directory / name).write_text(
            f"""#!/bin/sh
            case "$*" in
            --version) echo 'nix (Nix) 2.26.3' ;;
            *'config show --json') cat {root}/settings ;;
            *) echo "{name} $*" >> {root}/calls; cat {root}/answer ;;
            esac
            """
        )
        (directory / name).chmod(0o755)
    return directory
