# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# What the scenario builds. A new `run` makes new derivations. victim: a builder, by the feature that only it has.
{
  run,
  victim ? "builder1",
}:
let
  # A static busybox: the sandbox of some releases holds nothing else.
  tools = builtins.path {
    path = /opt/fleet-tools;
    name = "tools";
  };
  step = stepAfter [ ];
  stepAfter =
    before: name: features: inputs: script:
    derivation (attributes before name features inputs script);
  attributes =
    before: name: features: inputs: script: {
      inherit run inputs before;
      name = "${name}-${run}";
      system = builtins.currentSystem;
      requiredSystemFeatures = features;
      builder = "${tools}/bin/sh";
      PATH = "${tools}/bin";
      args = [
        "-euc"
        script
      ];
    };
  repeat = count: make: builtins.genList (number: make (toString number)) count;
in
rec {
  # What happens to the victim happens while the input of one is on its way there, another is built, and the result of a
  # third comes back; `after` needs what only the victim has by then, and `only` waits until it is back.
  phases = [
    upload
    build
    download
    after
    only
  ];
  # When it is done all builders are known to be there, so that the rest goes to the fastest.
  start = step "start" [ ] [ ] "sleep 2; echo >$out";
  next = stepAfter [ start ];
  upload =
    next "upload" [ ]
      [
        (builtins.path {
          path = "/opt/survival/blob-${run}";
          name = "blob-${run}";
        })
      ]
      "cat $inputs | wc -c >$out";
  # Until somebody lets it go on.
  build = next "build" [ ] [ ] "until [ -e /opt/survival/go-${run} ]; do sleep 1; done; echo $run >$out";
  download = next "download" [ ] [ ] "head -c 64000000 /dev/urandom >$out";
  kept = next "kept" [ ] [ ] "echo $run >$out";
  after = next "after" [ ] [ kept build ] "cat $inputs >$out";
  only = next "only" [ "on-${victim}" ] [ build ] "cat $inputs >$out";

  # What does not fit on a small disk: an input, and an output. A builder that fails is told apart, also on a full disk.
  crowded = [
    (next "taken" [ ] [ (numbered 0) ] "wc -c <$inputs >$out")
    (next "made" [ ] [ ] "head -c 70000000 /dev/zero | tee $out | wc -c; echo $run >>$out")
    (next "small" [ ] [ ] "echo $run >$out")
  ];
  numbered =
    number:
    builtins.path {
      path = "/opt/survival/blob-${run}";
      name = "blob${toString number}-${run}";
    };
  wrong = step "wrong" [ ] [ ] "echo it is wrong; exit 3";
  wrongAndFull = step "wrong-and-full" [ ] [ ] "head -c 70000000 /dev/zero >$out || true; echo it is wrong; exit 3";

  # Nix calls what a fixed-output derivation's builder fails with transient.
  fixed = derivation (
    attributes [ ] "fixed" [ ] [ ] "echo no network; exit 1"
    // {
      outputHash = "sha256:0000000000000000000000000000000000000000000000000000";
    }
  );

  several = repeat 8 (number: step "several${number}" [ "on-${victim}" ] [ ] "sleep 3; echo >$out");

  # Does not fit on a small disk of the client.
  large = step "large" [ ] [ ] "head -c 70000000 /dev/zero >$out; echo $run >>$out";

  # Sparse, and its pages compress well: it is the bytes on the way that count.
  huge = step "huge" [ ] [ ] "truncate -s 2147483648 $out; echo $run | dd of=$out conv=notrunc 2>/dev/null";

  # 200,000 lines of 1,000 bytes.
  chatty = step "chatty" [ ] [ ] ''
    awk 'BEGIN { line = sprintf("%0999d", 0); for (i = 0; i < 200000; i++) print line }'
    echo the end of the log
    echo >$out
  '';

  # In derivations of a hundred outputs: what is to be shown is the paths.
  many =
    repeat 50 (
      number:
      let
        outputs = [ "out" ] ++ repeat 99 (number: "out${number}");
        made = derivation (
          attributes [ ] "many${number}" [ ] [ ] "for output in $outputs; do eval echo $output $run \\>\\$$output; done"
          // {
            inherit outputs;
          }
        );
      in
      map (output: made.${output}) outputs
    );

  odd = step "odd" [ ] [ ] "mkdir $out; cd $out; ${builtins.readFile ./odd.sh}";

  wordy = derivation (
    attributes [ ] "wordy" [ ] [ ] "wc -c <$wordsPath >$out"
    // {
      words = builtins.concatStringsSep "" (repeat 100000 (_number: "a word or "));
      passAsFile = [ "words" ];
    }
  );
}
