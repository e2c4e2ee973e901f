# shellcheck shell=sh
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# The builder of graph.nix's steps: says where it runs, to the log and to its output, below what its inputs said.
# Only what the shell itself can do, since a sandbox holds nothing else. The builder's own /etc/hostname is let into it.
# shellcheck disable=SC2154  # name, inputs and out are the derivation's.
set -eu
read -r host </etc/hostname
echo "$name: building on $host"

seen=
for input in $inputs; do
  while read -r line; do
    case $seen in
      *"[$line]"*) ;;
      *)
        seen="${seen}[$line]"
        echo "$line" >>"$out"
        ;;
    esac
  done <"$input"
done
echo "$name $host ${requiredSystemFeatures:--}" >>"$out"
