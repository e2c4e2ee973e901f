# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Twelve derivations that take a moment. The output of each is the name of the host that has built it.
{ run }:
builtins.genList (
  number:
  derivation {
    name = "many-${toString number}";
    inherit run;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [
      "-c"
      "i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done; read -r host </etc/hostname; echo $host >$out"
    ];
  }
) 12
