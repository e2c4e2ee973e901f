# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Outputs that fill a disk. A new `run` makes new derivations.
{
  run,
  builder ? "",
}:
let
  # A static busybox: the sandbox of some releases holds nothing else.
  tools = builtins.path {
    path = /opt/fleet-tools;
    name = "tools";
  };
  step =
    name: script:
    derivation {
      inherit name run;
      system = builtins.currentSystem;
      requiredSystemFeatures = if builder == "" then [ ] else [ "on-${builder}" ];
      builder = "${tools}/bin/sh";
      PATH = "${tools}/bin";
      args = [
        "-euc"
        script
      ];
    };
  write = megabytes: name: "dd if=/dev/urandom of=$out/${name} bs=1M count=${toString megabytes}";
in
{
  small = step "small" "mkdir $out; echo $run >$out/small";
  # 180 MB, which nobody needs once they are there.
  rubbish = builtins.genList (n: step "rubbish${toString n}" "mkdir $out; ${write 60 "a"}") 3;
  # 160 MB, in several pieces, as Nix looks at what is free every few seconds.
  big = step "big" "mkdir $out; ${write 40 "a"}; sleep 6; ${write 40 "b"}; ${write 40 "c"}; ${write 40 "d"}";
  slow = step "slow" "mkdir $out; ${write 1 "a"}; sleep 30; ${write 1 "b"}";
}
