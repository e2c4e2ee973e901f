#!/bin/sh
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# What there is of a user that no role may change, and what in the user's store is somebody else's, which is nothing. Usage: account.sh USER
set -eu
getent passwd "$1"
getent shadow "$1"
id "$1"
stat -c '%n %U %G %a' "/home/$1" "/home/$1/.ssh/authorized_keys" "/home/$1/.bashrc"
sha256sum "/home/$1/.ssh/authorized_keys" "/home/$1/.bashrc"
for store in /nix "/home/$1/.nix"; do
  [ ! -e "$store" ] || find "$store" ! -user "$1"
done
