# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# What dispatching.py has built. A new `run` makes new derivations.
{ run, count ? 1, special ? 0 }:
let
  tools = builtins.path {
    path = /opt/fleet-tools;
    name = "tools";
  };
  numbered = count: make: builtins.genList (number: make (toString number)) count;
  step =
    name: features: inputs: script:
    derivation {
      inherit name run inputs;
      system = builtins.currentSystem;
      requiredSystemFeatures = features;
      builder = "/bin/sh";
      args = [ "-c" script ];
    };
in
rec {
  trivial = numbered count (number: step "trivial${number}" [ ] [ ] "echo $name $run >$out");

  # Four layers of twelve, each step needs all of the layer before. So many (`special`) of each are for one builder only.
  layers =
    let
      layer =
        before: depth:
        builtins.genList (
          number:
          step "layer${toString depth}-${toString number}" (if number < special then [ "special" ] else [ ]) before
            "${tools}/bin/sleep 1; echo $name $run >$out"
        ) 12;
    in
    builtins.foldl' layer [ ] [ 1 2 3 4 ];

  # A closure of `count` paths which have their own content for a name, so that no signature is asked for.
  paths = builtins.toFile "paths" (
    toString (numbered (count - 1) (number: builtins.toFile "small${number}" "${number} ${run}\n"))
  );

  # All of it hangs on the first one, which fails: the run ends when the first build has started.
  large =
    let
      nodes = builtins.genList (
        number:
        step "node${toString number}" [ ]
          (if number == 0 then [ ] else map (builtins.elemAt nodes) [ ((number - 1) / 2) ((number - 1) / 3) ])
          "exit 1"
      ) (count - 1);
    in
    step "top" [ ] nodes "exit 1";

  # So that no measurement has to bring the tools.
  warm = numbered count (number: step "warm${number}" [ ] [ tools ] "${tools}/bin/sleep 1; echo $name $run >$out");
}
