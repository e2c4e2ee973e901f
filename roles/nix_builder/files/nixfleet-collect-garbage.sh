#!/bin/sh
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Deletes what the Nix store does not need any more, except what came into it in the last MINUTES and what that refers to.
# Builds that run are left alone by Nix itself. Installed by the role nixfleet.builders.nix_builder.
# Usage: nixfleet-collect-garbage MINUTES
set -eu

minutes=${1-}
case $minutes in
  '' | *[!0-9]*)
    echo "nixfleet-collect-garbage: '$minutes' is no number of minutes" >&2
    exit 64
    ;;
esac

# Symbolic links in here are roots for every garbage collector, so they are there only as long as this one runs.
roots=/nix/var/nix/gcroots/nixfleet-recent
trap 'rm -rf "$roots"' EXIT
trap 'exit 1' HUP INT TERM
rm -rf "$roots"
mkdir "$roots"
cd "$roots"
# Nix sets every file's mtime to 1; the ctime is when the path came. ln must not be run with nothing to link.
find /nix/store -mindepth 1 -maxdepth 1 -cmin "-$minutes" -name '????????????????????????????????-*' ! -name '*.lock' \
  -exec sh -c '[ $# -eq 0 ] || ln -s "$@" .' sh {} +

PATH=$PATH:/nix/var/nix/profiles/default/bin
nix-store --gc
