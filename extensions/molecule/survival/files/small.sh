#!/bin/sh
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Usage: small.sh on SIZE|off: has Nix live on a small disk, a copy of what it had, until it gets back what it had before.
set -eu
case $1 in
  on)
    nix-store --gc >/dev/null 2>&1
    systemctl stop nix-daemon.socket nix-daemon.service
    mkdir -p /mnt/small
    mount -t tmpfs -o "size=$2" small /mnt/small
    cp -a /nix/. /mnt/small/
    mount --bind /mnt/small /nix
    umount /mnt/small
    ;;
  off)
    systemctl stop nix-daemon.socket nix-daemon.service
    # What was about to end holds on to it for a moment.
    for _try in 1 2 3 4 5 6 7 8 9 10; do
      umount /nix 2>/dev/null && break
      sleep 1
    done
    if mountpoint --quiet /nix; then exit 1; fi
    ;;
esac
systemctl start nix-daemon.socket
