# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# What nobody has built yet; its output names the host that did.
import ./where.nix { run = toString builtins.currentTime; }
