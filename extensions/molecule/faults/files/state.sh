#!/bin/sh
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# What a run that is refused must leave alone: the services' processes, the files, the account. Prints the same as long as nothing changed.
set -u
for unit in ssh nix-daemon; do
    pid=$(systemctl show --property MainPID --value "$unit")
    # A reload keeps the number, but sshd executes itself again and so gets other addresses.
    echo "$unit: $pid $(sha256sum <"/proc/$pid/auxv" 2>&1)"
done
find /etc/ssh /etc/nix /etc/ansible /root/.ssh /var/lib/nixremote /run/nixfleet ! -type d \
    -printf '%p %M %U %G ' -exec sha256sum {} \; 2>/dev/null | sort
for database in passwd shadow group; do
    getent "$database" nixremote || echo "$database: no nixremote"
done
