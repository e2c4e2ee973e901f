# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# What the scenario builds. A new `run` makes new derivations. The output of a step has a line "STEP HOST" for each step that it is made of.
{ run }:
let
  # A static busybox: the sandbox of some releases holds nothing else.
  tools = builtins.path {
    path = /opt/fleet-tools;
    name = "tools";
  };
  step =
    name: features: inputs: script:
    derivation {
      inherit name run inputs;
      system = builtins.currentSystem;
      requiredSystemFeatures = features;
      builder = "${tools}/bin/sh";
      PATH = "${tools}/bin";
      args = [
        "-euc"
        ''
          read -r host </etc/hostname
          echo "$name runs on $host"
          ${script}
          { for input in $inputs; do cat $input; done; echo "$name $host"; } >$out
        ''
      ];
    };
  numbered = count: make: builtins.genList (number: make (toString number)) count;
in
rec {
  plain = step "plain" [ ] [ ] "";
  parallel = step "parallel" [ "big-parallel" ] [ plain ] "";
  measured = step "measured" [ "benchmark" ] [ plain ] "";
  trained = step "trained" [ "gpu" ] [ measured ] "";
  world = step "world" [ ] [ parallel trained ] "";

  nowhere = step "nowhere" [ "quantum" ] [ plain ] "";

  broken = step "broken" [ ] [ ] "echo it is broken; exit 3";
  after = step "after" [ ] [ broken ] "";
  apart = step "apart" [ ] [ ] "sleep 1";

  # Two builders may take them, two at a time each.
  slow = numbered 4 (number: step "slow${number}" [ ] [ ] "sleep 6");

  # As those, and long enough for somebody to see that they run and to do something to one of the builders.
  long = numbered 4 (number: step "long${number}" [ ] [ ] "sleep 20");

  # While it runs, nothing but the dispatcher needs what is done already. One builder may take it, so it is asked first what it has.
  chain = builtins.foldl' (
    before: number: step "chain${toString number}" [ "big-parallel" ] [ before ] "sleep 3"
  ) plain [ 1 2 3 ];

  many = step "many" [ ] (numbered 200 (number: step "part${number}" [ "benchmark" ] [ ] "")) "";
}
