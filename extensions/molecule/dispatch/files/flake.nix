# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# A flake without inputs.
{
  outputs =
    { self }:
    let
      make =
        name: outputs:
        derivation {
          inherit name outputs;
          system = "x86_64-linux";
          builder = "/bin/sh";
          args = [
            "-euc"
            "for output in $outputs; do eval echo $output '>$'$output; done"
          ];
        };
    in
    {
      packages.x86_64-linux = {
        default = make "flaked" [ "out" ];
        several = make "several" [
          "out"
          "dev"
        ];
      };
    };
}
