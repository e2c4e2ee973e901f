#!/bin/sh
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes the account nixremote, as somebody who means no good would leave it behind.
set -eu
useradd --create-home --home-dir /var/lib/nixremote --shell /bin/bash nixremote
cd /var/lib/nixremote
mkdir -p .ssh .config/nix
cp /root/.ssh/authorized_keys .ssh
cp /root/.ssh/authorized_keys .ssh/authorized_keys2
printf 'NIX_REMOTE=hostile\nNIX_USER_CONF_FILES=/var/lib/nixremote/.config/nix/nix.conf\n' >.ssh/environment
echo 'echo hostile rc' >.ssh/rc
echo 'NIX_REMOTE DEFAULT=hostile' >.pam_environment
for file in .bashrc .bash_profile .profile .shrc .zshenv; do
    echo "echo hostile $file; export PATH=/hostile" >"$file"
done
# Nix itself would read it in each login.
echo 'store = /hostile' >.config/nix/nix.conf
chown -R nixremote: .
echo 'PermitUserEnvironment yes' >>/etc/ssh/sshd_config
systemctl reload ssh
