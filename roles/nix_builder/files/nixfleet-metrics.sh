#!/bin/sh
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Writes what there is to know of this builder as one file of Prometheus metrics, for node_exporter's textfile collector.
# Installed by the role nixfleet.builders.nix_builder.
# Usage: nixfleet-metrics FILE KEY... (the key files whose age is told)
set -eu
export LC_ALL=C

file=$1
shift

metric() { # NAME HELP
  printf '# HELP %s %s\n# TYPE %s gauge\n' "$1" "$2" "$1"
}

# Builds run as users of their own, whose group is nixbld; one user is one build.
running_builds() {
  group=$(getent group nixbld | cut -d: -f3)
  # A process may end while it is read.
  cat /proc/[0-9]*/status 2>/dev/null | awk -v group="${group:-none}" '
    $1 == "Uid:" { user = $2 }
    $1 == "Gid:" && $2 == group && !(user in seen) { seen[user]; count++ }
    END { print count + 0 }'
}

# When the doctor's last build came into the store; what garbage collection took is remembered in the file itself.
last_verify() {
  {
    sed -n 's/^nixfleet_verify_last_success_timestamp_seconds //p' "$file" 2>/dev/null || true
    find /nix/store -mindepth 1 -maxdepth 1 -name '*-nixfleet-proof-*' ! -name '*.drv' ! -name '*.lock' -exec stat -c %Z {} +
  } | sort -n | tail -n 1
}

metrics() {
  blocks=$(df -P -k /nix/store | awk 'NR == 2 { print $2, $4 }')
  metric nixfleet_store_size_bytes 'Size of the file system that holds the Nix store.'
  echo "nixfleet_store_size_bytes $((${blocks% *} * 1024))"
  metric nixfleet_store_free_bytes 'What is free on the file system that holds the Nix store.'
  echo "nixfleet_store_free_bytes $((${blocks#* } * 1024))"
  metric nixfleet_running_builds 'Builds that run now.'
  echo "nixfleet_running_builds $(running_builds)"
  metric nixfleet_load1 'Load average of the last minute.'
  echo "nixfleet_load1 $(cut -d' ' -f1 /proc/loadavg)"
  metric nixfleet_verify_last_success_timestamp_seconds 'When a client last proved that it can build here. 0 when none has.'
  verified=$(last_verify)
  echo "nixfleet_verify_last_success_timestamp_seconds ${verified:-0}"
  metric nixfleet_key_created_timestamp_seconds 'When a secret key of this builder was made.'
  for key in "$@"; do
    if [ -e "$key" ]; then
      echo "nixfleet_key_created_timestamp_seconds{path=\"$key\"} $(stat -c %Y "$key")"
    fi
  done
}

# In the same directory, so that the name is taken over at once; the collector reads only names that end in .prom.
metrics "$@" >"$file.new"
chmod 0644 "$file.new"
mv "$file.new" "$file"
