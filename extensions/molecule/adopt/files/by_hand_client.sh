#!/bin/sh
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes this host a client as the wiki says it. Usage: by_hand_client.sh BUILDER ADDRESS
set -eu
# The kind of key that ssh-keygen made by itself until OpenSSH 9.5.
ssh-keygen -q -t rsa -N '' -f /root/.ssh/nixremote
# No newline at the end, as some editors leave it.
printf '%s' "# What I use every day
Host $1 # a remark
        HostName $2
        IdentitiesOnly yes
        IdentityFile /root/.ssh/nixremote
        User nixremote
        StrictHostKeyChecking accept-new

Host *
        ServerAliveInterval 30" >/root/.ssh/config
cat >/etc/nix/machines <<MACHINES
# Somebody else's, who keeps it for what needs it
ssh://nix@192.0.2.7 x86_64-linux /root/.ssh/elsewhere 1 1 elsewhere elsewhere
ssh-ng://$1 x86_64-linux - 3 2 - - # the first one that I made
MACHINES
printf '\ntrusted-users = root operator\nbuilders = @/etc/nix/machines' >>/etc/nix/nix.conf
systemctl restart nix-daemon
