# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# A small graph of builds that need different features, without nixpkgs: steps that only write down where they ran.
#
#   nix-build --no-out-link --argstr run "$(date +%s%N)" graph.nix
#
# The output lists every step, the host that it was built on, and the features that it required. A new `run` makes new derivations,
# which nobody has built yet.
{
  run,
  system ? builtins.currentSystem,
}:
let
  step =
    name: features: inputs:
    derivation {
      inherit name system inputs run;
      builder = "/bin/sh";
      # Each step has a script of its own, so that a builder's store tells which steps it was sent.
      args = [
        (builtins.path {
          path = ./step.sh;
          name = "${name}-${run}.sh";
        })
      ];
      requiredSystemFeatures = features;
    };

  generate = step "generate" [ ] [ ];
  compile = step "compile" [ "big-parallel" ] [ generate ];
  measure = step "measure" [ "benchmark" ] [ compile ];
  train = step "train" [ "gpu" ] [ compile ];
  render = step "render" [ "gpu" "big-parallel" ] [ train ];
  document = step "document" [ ] [ generate ];
in
step "release" [ ] [ measure train render document ]
