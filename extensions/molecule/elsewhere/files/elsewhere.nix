# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# A small graph; what is made for another processor says which one it finds. A new `run` makes new derivations.
{
  run,
  system ? "x86_64-linux",
}:
let
  step =
    name: inputs:
    derivation {
      name = "elsewhere-${name}";
      inherit run system inputs;
      builder = "/bin/sh";
      args = [
        "-c"
        "echo ${name} $inputs >$out"
      ];
    };
  first = step "first" [ ];
  left = step "left" [ first ];
  right = step "right" [ first ];
  arm = builtins.path {
    path = /opt/arm64;
    name = "arm64";
  };
in
{
  graph = step "graph" [
    left
    right
  ];
  single = step "single" [ ];
  foreign = derivation {
    name = "elsewhere-foreign";
    inherit run;
    system = "aarch64-linux";
    builder = "${arm}/bin/sh";
    args = [
      "-c"
      "${arm}/bin/busybox uname -m >$out"
    ];
  };
}
