#!/bin/sh
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# What nix-user-chroot or PRoot would be: shows Nix's programs in a directory that the host does not have.
printf '%s\n' "$*" >>/tmp/entered
shift
program=${1#/shown/bin/}
shift
exec "/usr/bin/$program" "$@"
