#!/bin/sh
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes this host a builder as the wiki says it. Usage: by_hand_builder.sh PUBLIC_KEY...
set -eu
useradd -m nixremote
usermod nixremote -L
mkdir ~nixremote/.ssh
printf '%s\n' "$@" >~nixremote/.ssh/authorized_keys
chown -R nixremote: ~nixremote/.ssh
printf '\nSetEnv PATH=/nix/var/nix/profiles/default/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n' >>/etc/ssh/sshd_config
chmod -R a-w ~nixremote
# What the wiki leaves out: Debian lets only this group talk to Nix's daemon.
usermod -a -G nix-users nixremote
printf '# Our own settings\ntrusted-users = root nixremote\nkeep-outputs = true\n' >>/etc/nix/nix.conf
systemctl reload ssh
systemctl restart nix-daemon
