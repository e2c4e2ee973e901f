# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Where a derivation is built: its output is the name of that host. A new `run` makes a new derivation.
# The builder's own /etc/hostname must be let into its sandbox (extra-sandbox-paths).
{
  run,
  features ? "",
  system ? builtins.currentSystem,
}:
derivation {
  name = "where";
  inherit run system;
  builder = "/bin/sh";
  args = [
    "-c"
    "read -r host </etc/hostname; echo $host >$out"
  ];
  requiredSystemFeatures = builtins.filter (word: word != "" && builtins.isString word) (builtins.split " " features);
}
