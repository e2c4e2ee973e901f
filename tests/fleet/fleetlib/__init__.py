# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disposable Debian hosts with systemd, sshd and Nix on one Linux machine. See tests/fleet/README.md."""
