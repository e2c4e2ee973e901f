# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Steps that need one another. Each says where it was built, and what it got from those before it.
# `built` is built by the client itself, `first` and `third` on builder1, `second` on builder2.
{ run }:
let
  tools = builtins.path {
    path = /opt/fleet-tools;
    name = "tools";
  };
  source = builtins.toFile "source" "source ${run}\n";
  step = name: features: inputs: derivation {
    inherit name run inputs;
    system = builtins.currentSystem;
    builder = "${tools}/bin/sh";
    PATH = "${tools}/bin";
    requiredSystemFeatures = features;
    args = [
      "-c"
      "read -r host </etc/hostname; { cat $inputs; echo $name \${host#molecule-locked-}; } >$out"
    ];
  };
in
rec {
  built = step "built" [ "on-client1" ] [ source ];
  first = step "first" [ "on-builder1" ] [ built ];
  second = step "second" [ "on-builder2" ] [ first built ];
  third = step "third" [ "on-builder1" ] [ second ];
  on_builder1 = step "on_builder1" [ "on-builder1" ] [ built ];
  on_builder2 = step "on_builder2" [ "on-builder2" ] [ built ];
}
