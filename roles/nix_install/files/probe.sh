#!/bin/sh
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# What the host has of Nix, as JSON. The directories are those of plugins/module_utils/nix_cli.py.
bin_dir=
for directory in /nix/var/nix/profiles/default/bin /run/current-system/sw/bin /usr/local/bin /usr/bin; do
    if [ -e "$directory/nix-store" ]; then
        bin_dir=$directory
        break
    fi
done
says() {
    systemctl --quiet "$@" >/dev/null 2>&1 && echo true || echo false
}
systemd=false
[ ! -d /run/systemd/system ] || systemd=true
fact=
[ ! -e "$1" ] || fact=$(base64 <"$1" | tr -d '\n')
service=$(says is-active nix-daemon.service)
# Without systemd, as on Alpine and macOS, it is enough that it runs.
if ! command -v systemctl >/dev/null 2>&1 && pgrep -x nix-daemon >/dev/null 2>&1; then
    service=true
fi
printf '{"bin_dir": "%s", "enabled": %s, "socket": %s, "service": %s, "systemd": %s, "fact": "%s"}\n' \
    "$bin_dir" "$(says is-enabled nix-daemon.socket)" "$(says is-active nix-daemon.socket)" \
    "$service" "$systemd" "$fact"
