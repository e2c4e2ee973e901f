#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Builds /opt/chain.nix with its first step in a state that it should not be in, and has a builder do the next step: prints, as JSON by
# state and builder, the path that came of it or else what Nix said.
set -euo pipefail
cd /root
run=$(date +%s%N)
nix=(nix --extra-experimental-features nix-command)
said=()

# Has a builder do its step of the chain RUN.
on() { # NAME RUN BUILDER
  local text
  text=$(nix-build --no-out-link --max-jobs 0 /opt/chain.nix --argstr run "$2" -A "on_$3" 2>&1) || true
  said+=("$1_$3" "$(grep -vE '^(copying|building|these|this|  /nix)' <<<"$text")")
}

# Builds the first step of the chain RUN here, and prints its path.
built() { # RUN OPTION...
  local run=$1
  shift
  nix-build --no-out-link --builders '' "$@" /opt/chain.nix --argstr run "$run" -A built 2>/dev/null
}

# Makes a path's content another one.
change() { # PATH
  mount -o remount,rw /nix/store 2>/dev/null || true
  chmod u+w "$1"
  echo changed >>"$1"
  chmod u-w "$1"
}

path=$(built "u$run" --option secret-key-files '')
on unsigned "u$run" builder2
on unsigned "u$run" builder1

nix-store --generate-binary-cache-key foreign-1 foreign.secret foreign.public
"${nix[@]}" store sign --key-file foreign.secret "$path" 2>/dev/null
on foreign "u$run" builder2

"${nix[@]}" store sign --key-file /etc/nix/nixfleet-signing-key "$path" 2>/dev/null
on signed "u$run" builder2

path=$(built "c$run")
change "$path"
on changed "c$run" builder2

# What Nix wrote down of the path fits its new content, and the signature is that of the old one.
python3 - "$path" "sha256:$(nix-hash --type sha256 "$path")" "$(nix-store --dump "$path" | wc -c)" <<'END'
import sqlite3
import sys

path, digest, size = sys.argv[1:]
with sqlite3.connect("/nix/var/nix/db/db.sqlite") as database:
    done = database.execute("UPDATE ValidPaths SET hash = ?, narSize = ? WHERE path = ?", (digest, int(size), path))
sys.exit(done.rowcount != 1)
END
on forged "c$run" builder2
on forged "c$run" builder1

python3 -c 'import json, sys; words = sys.argv[1:]; print(json.dumps(dict(zip(words[::2], words[1::2]))))' "${said[@]}"
