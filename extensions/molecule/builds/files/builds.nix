# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# What the checks build, one attribute for each of them. A new `run` makes new derivations, which nobody has built yet.
# Builder scripts see where they run: their builder's /etc/hostname is let into its sandbox, and /proc/uptime is one clock for all
# hosts of the fleet.
{ run }:
let
  # A static busybox: the sandbox of some releases holds nothing else.
  tools = builtins.path {
    path = /opt/fleet-tools;
    name = "tools";
  };
  task =
    name: attributes: script:
    derivation (
      {
        name = "${name}-${run}";
        system = builtins.currentSystem;
        builder = "${tools}/bin/sh";
        PATH = "${tools}/bin";
        args = [
          "-euc"
          ''
            read -r host </etc/hostname
            read -r start rest </proc/uptime
            ${script}
          ''
        ];
      }
      // attributes
    );
  # Takes nothing along, not even the tools.
  here =
    name: requiredSystemFeatures:
    derivation {
      name = "${name}-${run}";
      system = builtins.currentSystem;
      inherit requiredSystemFeatures;
      builder = "/bin/sh";
      args = [
        "-euc"
        "read -r host </etc/hostname; echo $host >$out"
      ];
    };
  numbered = name: count: attributes: script: builtins.genList (n: task "${name}${toString n}" attributes script) count;
in
{
  where = here "where" [ ];

  # Says something, and something else three seconds later.
  talks = task "talks" { } ''
    echo 'first words'
    sleep 3
    echo 'last words'
    echo $host >$out
  '';

  # Tells Nix its phase, as builders of nixpkgs do.
  phases = task "phases" { } ''
    echo '@nix { "action": "setPhase", "phase": "welding" }' >&2
    echo 'sparks fly'
    echo $host >$out
  '';

  # Three for two builders of one slot each.
  parallel = numbered "parallel" 3 { } ''
    sleep 3
    read -r end rest </proc/uptime
    echo "$host $start $end" >$out
  '';

  fails = task "fails" { } ''
    echo "this cannot work on $host"
    echo evidence >evidence
    exit 7
  '';

  # The outputs refer to each other.
  outputs =
    task "outputs"
      {
        outputs = [
          "out"
          "lib"
          "doc"
        ];
      }
      ''
        echo "lib of $host" >$lib
        echo "uses $lib" >$out
        mkdir $doc
        echo "describes $out and $lib" >$doc/text
      '';

  # 50 MB that cannot be compressed.
  big = task "big" { } "head -c 52428800 /dev/urandom >$out";

  # Refers to 400 paths, in 1 MB of text.
  references =
    let
      inputs = builtins.genList (n: builtins.toFile "input${toString n}-${run}" "${toString n}\n") 400;
    in
    task "references" { inherit inputs; } ''
      for n in $(seq 40); do echo $inputs; done >$out
    '';

  # Where Nix lets it build, and whether it sees the rest of its host.
  inside =
    let
      on = feature: task "inside" { requiredSystemFeatures = [ feature ]; } ''
        if [ -e /opt/builds ]; then around=open; else around=closed; fi
        echo "$host $NIX_BUILD_TOP $around" >$out
      '';
    in
    map on [
      "big-parallel"
      "benchmark"
      "gpu"
    ];

  # For the other system that an x86_64 builds.
  cross = task "cross" { system = "i686-linux"; } "uname -m >$out";

  # Its content is known before it is built.
  fixed = task "fixed" {
    outputHashAlgo = "sha256";
    outputHashMode = "flat";
    outputHash = builtins.hashString "sha256" run;
  } "printf %s '${run}' >$out";

  # Floating: only its content tells where it will be. Its input is another one, built elsewhere.
  floating =
    let
      addressed = {
        __contentAddressed = true;
        outputHashAlgo = "sha256";
        outputHashMode = "recursive";
      };
      input = task "input" (addressed // { requiredSystemFeatures = [ "big-parallel" ]; }) "echo ${run} $host >$out";
    in
    task "floating" (
      addressed
      // {
        inherit input;
        requiredSystemFeatures = [ "benchmark" ];
      }
    ) "cat $input >$out; echo $host >>$out";

  # Some are for the builder with the mandatory feature.
  burst =
    numbered "burst" 14 { } "sleep 1; echo $host >$out"
    ++ numbered "burst-gpu" 6 { requiredSystemFeatures = [ "gpu" ]; } "sleep 1; echo $host >$out";

  # One of many that are asked for at the same time, all on one builder.
  rush = here "rush" [ "benchmark" ];

  # Takes the client's file /opt/builds/inputs/RUN as its input.
  needs =
    let
      input = builtins.path {
        path = /opt/builds/inputs + "/${run}";
        name = "input-${run}";
      };
    in
    task "needs" {
      inherit input;
      requiredSystemFeatures = [ "benchmark" ];
    } "cat $input >$out";
}
