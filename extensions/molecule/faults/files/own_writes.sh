# shellcheck shell=sh
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck disable=SC2016  # the inner shells are to expand them
# Run by the builder's account: tries to write to its own home and keys, and prints what it could. It must be able to write to /tmp.
try() {
    if "$@" 2>/dev/null; then echo "could: $*"; fi
}
keys=$HOME/.ssh/authorized_keys
[ -r "$keys" ] || echo "cannot read $keys"
try touch "/tmp/own_writes.$$"
rm -f "/tmp/own_writes.$$"
try touch "$HOME/file"
try mkdir "$HOME/directory"
try sh -c 'echo "ssh-ed25519 AAAA mine" >>"$1"' sh "$keys"
try sh -c 'echo "ssh-ed25519 AAAA mine" >"${1}2"' sh "$keys"
try sh -c 'echo "echo mine" >"$1"' sh "$HOME/.ssh/rc"
try touch "$keys"
try rm -f "$keys"
try mv "$keys" "$keys.old"
try mv "$HOME/.ssh" "$HOME/ssh"
try mv "$HOME" "$HOME.old"
try chmod u+w "$HOME"
try chmod u+w "$HOME/.ssh"
try chmod u+w "$keys"
try ln -s /tmp "$HOME/link"
