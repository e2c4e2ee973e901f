#!/bin/sh
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Logs in to a builder again and again, as Nix does, until there is a file /tmp/enough. Prints how often it did; 1 if one failed.
# Usage: logins.sh STORE
count=0
status=0
while [ ! -e /tmp/enough ]; do
    count=$((count + 1))
    nix --extra-experimental-features nix-command store ping --store "$1" >/tmp/login.log 2>&1 || {
        status=1
        cat /tmp/login.log
    }
    sleep 0.3
done
echo "$count"
exit $status
