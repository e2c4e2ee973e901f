#!/bin/sh
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Builds on each of the BUILDERs by turns, until /run/build-no-more is there. What failed is in LOG, with what Nix said.
# Usage: build_on.sh LOG BUILDER...
log=$1
shift
: >"$log"
while [ ! -e /run/build-no-more ]; do
  for builder; do
    if output=$(nix-build --no-out-link --expr "derivation {
      name = \"$builder-$(date +%s%N)\";
      system = builtins.currentSystem;
      builder = \"/bin/sh\";
      args = [ \"-c\" \"echo built >\$out\" ];
      requiredSystemFeatures = [ \"on-$builder\" ];
    }" 2>&1); then
      echo "built $builder" >>"$log"
    else
      printf 'FAILED %s at %s: %s\n' "$builder" "$(date +%T)" "$output" >>"$log"
    fi
    # Leaves the cores to those whose keys are rotated.
    sleep 1
  done
done
