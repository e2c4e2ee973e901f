# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Damaged and hostile texts for all that reads what others wrote, and for the gate; a sample is put to real Nix.

Each input is a good text after a few random changes. The parser may take it or refuse it with its own error; anything
else is a crash, and more than HANG seconds is a hang. Of what was taken a sample is read by Nix (or ssh-keygen) too:
where both take it they must find the same. Prints one JSON object.

The gate decides in one case statement. Running 100,000 processes would measure fork, so that statement is cut out of
the script as it is and run for all inputs by one shell each (dash, bash, busybox), with its three actions replaced by
notes. Whole gates as processes are in tests/unit/plugins/module_utils/test_gate.py.
"""

from __future__ import annotations

import argparse
import base64
import collections
import contextlib
import importlib.util
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import typing as t
from pathlib import Path

from ansible_collections.nixfleet.builders.plugins.module_utils import (
    derivation,
    known_hosts,
    machines,
    nix_conf,
    signing,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import MachinesError
from ansible_collections.nixfleet.builders.tests.support import nix_host

ROOT = Path(__file__).resolve().parents[2]
HANG = 5
CHUNK = 5_000
VERSIONS = ((2, 8), (2, 20), (2, 26, 3), (2, 34, 8))
ANSWERS = ROOT / "tests/support/nix_answers.py"

Json = dict[str, t.Any]

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPK7XD52mnzLl1o8Yj7DgPKUQ4NVNM/hyQZRXEVS8BZP"
KEY_COLUMN = base64.b64encode(f"{KEY}\n".encode()).decode()
SECRET = "b1-1:" + base64.b64encode(bytes(range(64))).decode()
PUBLIC = "b1-1:" + base64.b64encode(bytes(range(32))).decode()
STORE = "/nix/store/"
HASH = "0123456789abcdfghijklmnpqrsvwxyz"
#: The output path of a derivation called x whose output is a file with a hash of zeros.
FIXED = "/nix/store/yplc6kklcg6k8aln037jq8jxq5v92wln-x"

# ------------------------------------------------------------------------------------------------------- changes


def changed(chance: random.Random, text: str, pieces: t.Sequence[str]) -> str:
    """The text after up to four changes; sometimes none."""
    for _change in range(chance.choice((0, 1, 1, 1, 2, 3, 4))):
        start = chance.randint(0, len(text))
        end = min(len(text), start + chance.choice((0, 1, 1, 2, 5, 20)))
        kind = chance.randrange(6)
        if kind == 0:
            text = text[:start] + text[end:]
        elif kind == 1:
            text = text[:start] + chance.choice(pieces) + text[start:]
        elif kind == 2:
            text = text[:start] + chance.choice(pieces) + text[end:]
        elif kind == 3:
            text = text[:end] + text[start:end] + text[end:]
        elif kind == 4:
            text = (
                text[:start]
                + chr(chance.choice((chance.randrange(32, 127), chance.randrange(1, 0x250))))
                + text[start:]
            )
        else:
            other = chance.randint(0, len(text))
            text = text[:other] + text[start:end] + text[other:]
    return text


def machines_text(chance: random.Random) -> str:
    entries = []
    for number in range(chance.randint(1, 4)):
        uri = chance.choice(("ssh://{}", "ssh-ng://u@{}", "ssh-ng://{}?compress=true", "{}")).format(f"h{number}")
        columns = (
            ("-", "x86_64-linux", "a,b", "b,,a,"),
            ("-", "/k", "/root/ü"),
            ("-", "0", "1", "3"),
            ("-", "1", "2", "1.5"),
            ("-", "kvm", "x,y", ","),
            ("-", "m", "m,n"),
            ("-", KEY_COLUMN),
        )
        words = [uri, *(chance.choice(column) for column in columns[: chance.randint(0, 7)])]
        entries.append(chance.choice((" ", "\t", "  ")).join(words))
    text = "".join(entry + chance.choice(("\n", "\n\n", ";", " # y\n", "\r\n")) for entry in entries)
    return changed(
        chance, text, ("\n", ";", "#", "-", " ", "\t", "@", ",", "0", "=", "%", ":", "[", "]", "\r", "-1", "é")
    )


CONF_NAMES = ("builders", "user-agent-suffix", "allowed-users", "system-features", "substituters", "trusted-users")


def conf_text(chance: random.Random) -> str:
    lines = []
    for _line in range(chance.randint(1, 5)):
        words = " ".join(
            chance.choice(("a", "b=c", "=", "@wheel", "https://x", "ü", "%", "'q'", "\\")) for _word in range(3)
        )
        line = f"{chance.choice(CONF_NAMES)}{chance.choice((' = ', ' =  ', chr(9) + '= ', '='))}{words}"
        lines.append(chance.choice((line, line, f" {line} # x", f"# {line}", "!include /none", "")))
    text = chance.choice(("\n", "\n", "\r\n")).join(lines) + "\n"
    return changed(
        chance, text, ("\n", "=", " = ", "#", "\t", " ", "\r", "\\\n", "include ", "extra-", "\x0b", "\u00a0", "\x0c")
    )


def signing_text(chance: random.Random) -> str:
    text = chance.choice(
        (SECRET, SECRET, PUBLIC, f"{chance.choice('abü ')}:{base64.b64encode(chance.randbytes(64)).decode()}")
    )
    return changed(chance, text, (":", "=", "\n", " ", "#", "-", "_", "+/", "AA", "==", "\t", "é"))


def ssh_text(chance: random.Random) -> str:
    kind = chance.choice(("ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ssh-dss"))
    length = chance.choice((32, 32, 31, 0, 33))
    blob = len(kind).to_bytes(4, "big") + kind.encode() + length.to_bytes(4, "big") + chance.randbytes(length)
    text = chance.choice((KEY, f"{kind} {base64.b64encode(blob).decode()}", f"{KEY} root@b"))
    host = chance.choice(("", "", "b1 ", "@revoked b1 ", "@cert-authority * ", "|1|AAAA|AAAA ", "[b1]:22,!b* "))
    return changed(
        chance, host + text, (" ", ",", "*", "?", "!", "@", "|", "\n", "=", "[", "]", "AAAA", "ssh-ed25519 ")
    )


def drv_text(chance: random.Random) -> str:
    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'

    def path(name: str) -> str:
        return f"{STORE}{HASH}-{name}"

    def word() -> str:
        return quoted(chance.choice(("", "a", 'q"q', "back\\slash", "two\nlines", "tab\\t", "ü", "[(,)]")))

    fixed = chance.random() < 0.5
    outputs = ",".join(f'("{name}","{path(f"x-{name}")}","","")' for name in ("dev", "out")[chance.randrange(2) :])
    if fixed:
        # Nix takes no other one into a store without its inputs, so these are the ones that can be compared.
        outputs = f'("out","{FIXED}","sha256","{"0" * 64}")'
    inputs = ",".join(f'("{path(name)}",["out"])' for name in ("a.drv", "b.drv")[chance.randrange(3) :])
    sources = ",".join(f'"{path(name)}"' for name in ("s1", "s2")[chance.randrange(3) :])
    args = ",".join(word() for _arg in range(chance.randrange(4)))
    names = ("name", "x y", 'q"')[chance.randrange(4) :]
    env = ",".join([*(f"({quoted(name)},{word()})" for name in names), *([f'("out","{FIXED}")'] if fixed else [])])
    text = f'Derive([{outputs}],[{inputs}],[{sources}],"x86_64-linux","/bin/sh",[{args}],[{env}])'
    return changed(
        chance, text, ('"', "\\", ",", "]", "[", ")", "(", '\\"', "\\n", "\\t", "\\x", '""', "\n", "Derive(", "é")
    )


def gate_text(chance: random.Random) -> bytes:
    text = chance.choice(("nix-daemon --stdio", "nix-store --serve --write", "nixfleet-load", "", "a" * 5000))
    pieces = (
        "\n",
        " ",
        "\t",
        ";",
        "&",
        "|",
        "$(id)",
        "`id`",
        "'",
        '"',
        "\\",
        "*",
        "?",
        "[a-z]",
        "--",
        "-",
        "/",
        "\x01",
        "\r",
        "${IFS}",
    )
    data = changed(chance, text, pieces).encode()
    if chance.random() < 0.1:
        place = chance.randint(0, len(data))
        data = data[:place] + bytes([chance.randrange(1, 256)]) + data[place:]
    return data.replace(b"\0", b"")


# ------------------------------------------------------------------------------------------------------- parsers


def read_machines(text: str, chance: random.Random) -> None:
    machines.parse(text, "/m", chance.choice(VERSIONS), lambda path: text if path == "/m" else None)


def read_signing(text: str, _chance: random.Random) -> None:
    errors = 0
    for parse in (signing.parse_secret, signing.parse_public, signing.parse_signature):
        try:
            parse(text)
        except signing.SigningError:
            errors += 1
    if errors == 3:
        raise signing.SigningError("none of them")


def read_ssh(text: str, _chance: random.Random) -> None:
    known_hosts.known_keys(text, "b1", "/k")
    if known_hosts.key_from_line(text, "") is None:
        raise ValueError("no key")


class Format(t.NamedTuple):
    """make: an input. read: raises one of refusals where it does not take it."""

    make: t.Callable[[random.Random], str]
    read: t.Callable[[str, random.Random], object]
    refusals: tuple[type[Exception], ...]


FORMATS = {
    "machines": Format(machines_text, read_machines, (MachinesError,)),
    "nix.conf": Format(conf_text, lambda text, _chance: nix_conf.parse(text), (nix_conf.NixConfError,)),
    "signing keys": Format(signing_text, read_signing, (signing.SigningError,)),
    "ssh keys": Format(ssh_text, read_ssh, (ValueError,)),
    "derivations": Format(
        drv_text,
        lambda text, _chance: derivation.parse("/nix/store/x.drv", text.encode()),
        (derivation.DerivationError,),
    ),
}


class Hang(BaseException):
    """No exception, which a parser might catch."""


def _alarm(_signal: int, _frame: t.Any) -> t.NoReturn:
    raise Hang


def chunk(task: tuple[str, int, int]) -> dict[str, t.Any]:
    """Feeds one chunk; in a process of its own."""
    name, seed, count = task
    form = FORMATS[name]
    chance = random.Random(f"{name} {seed}")
    signal.signal(signal.SIGALRM, _alarm)
    result: dict[str, t.Any] = {"accepted": 0, "refused": 0, "crashes": [], "hangs": [], "sample": []}
    for _input in range(count):
        text = form.make(chance)
        signal.alarm(HANG)
        try:
            form.read(text, chance)
        except form.refusals:
            result["refused"] += 1
        except Hang:
            result["hangs"].append(text)
        except Exception as error:
            result["crashes"].append(f"{type(error).__name__}: {error}: {text!r}")
        else:
            result["accepted"] += 1
            if chance.random() < 0.05:
                result["sample"].append(text)
        finally:
            signal.alarm(0)
    return result


# ------------------------------------------------------------------------------------------------------- real Nix
# Each compare_… yields "" for what is read alike, and the difference for what is not.


def compare_machines(host: str, sample: list[str]) -> t.Iterator[str]:
    """By Nix's own build hook, with the judge of the unit tests."""
    path = ROOT / "tests/unit/plugins/module_utils/test_machines_real_nix.py"
    spec = importlib.util.spec_from_file_location("test_machines_real_nix", path)
    if spec is None or spec.loader is None:
        raise RuntimeError(path)
    judge = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(judge)
    # Without stores that are paths, which Nix would make, without includes, which would be of this machine's files, and
    # without what breaks the table that Nix's hook prints.
    sample = [
        text
        for text in sample
        if "/" not in re.sub(r"ssh(-ng)?://|/k|/root/", "", text) and not re.search(r"(^|[;\n])[^\S\n]*/", text)
    ]
    sample = [
        text for text in sample if "@" not in re.sub(r"u@h\d", "", text) and not re.search(r"[][()\x00-\x08\x1b]", text)
    ]
    for text, answer in zip(sample, judge.ask(host, [(text, {}) for text in sample])):
        try:
            found = judge.ours(text, {}, tuple(answer["version"]))
            machines.check(found, tuple(answer["version"]))
        except MachinesError:
            # Such as a port, which this Nix is too old for: no machine that we would use or write.
            continue
        if not all(machine.uri.startswith(("ssh://", "ssh-ng://")) for machine in found):
            # What Nix cannot open, it cannot show.
            continue
        if answer["error"]:
            yield f"Nix refuses {text!r}: {answer['error']}"
            continue
        try:
            judge.assert_same(found, answer)
        except AssertionError as error:
            yield f"{text!r}: {str(error)[:500]}, Nix has {answer}"
        else:
            yield ""


def compare_conf(host: str, sample: list[str]) -> t.Iterator[str]:
    sample = [text for text in sample if not any(isinstance(entry, nix_conf.Include) for entry in nix_conf.parse(text))]
    questions = [
        {
            "files": {"nix.conf": text},
            "env": {"NIX_CONF_DIR": "{own}", "NIX_USER_CONF_FILES": ""},
            # Its new name, config show, is not known to Nix 2.8.
            "commands": [["show-config", "--json"]],
        }
        for text in sample
    ]
    for text, answer in zip(sample, nix_host.ask(host, ANSWERS, questions)):
        if "Cannot parse Nix store" in answer["stderr"]:
            # Nix 2.34 looks into the value of substituters; what it may be is for the module nix_conf to ask Nix.
            continue
        if answer["status"]:
            yield f"Nix refuses {text!r}: {answer['stderr'][-300:]}"
            continue
        shown = json.loads(answer["stdout"])
        for name, value in nix_conf.settings_of(text).items():
            if name not in CONF_NAMES or f"extra-{name}" in text:
                continue
            theirs = shown[name]["value"]
            ours: t.Any = value
            if isinstance(theirs, list):
                ours = value.split(" ") if value else []
                if name == "system-features":
                    ours, theirs = sorted(set(ours)), sorted(theirs)
            yield "" if ours == theirs else f"{name} in {text!r}: {ours!r}, Nix has {theirs!r}"


def compare_signing(host: str, sample: list[str]) -> t.Iterator[str]:
    public = {}
    for text in sample:
        with contextlib.suppress(signing.SigningError):
            public[text] = str(signing.parse_secret(text).public)
    questions = [{"input": text, "commands": [["key", "convert-secret-to-public"]]} for text in public]
    for (text, ours), answer in zip(public.items(), nix_host.ask(host, ANSWERS, questions)):
        if answer["status"]:
            yield f"Nix refuses {text!r}: {answer['stderr'][-300:]}"
        else:
            yield "" if answer["stdout"].strip() == ours else f"{text!r}: {ours!r}, Nix has {answer['stdout']!r}"


def compare_ssh(_host: str, sample: list[str]) -> t.Iterator[str]:
    """By ssh-keygen, all in one file; the comment says which is which. What it passes over is no key for ssh either."""
    with tempfile.NamedTemporaryFile("w") as file:
        ours = {}
        for number, text in enumerate(sample):
            key = known_hosts.key_from_line(text, "")
            if key is not None:
                ours[f"n{number}"] = key
                file.write(f"{key.type} {base64.b64encode(key.blob).decode()} n{number}\n")
        file.flush()
        done = subprocess.run(["ssh-keygen", "-lf", file.name], capture_output=True, text=True, timeout=60, check=False)
        for line in done.stdout.splitlines():
            _bits, fingerprint, comment, *_kind = line.split()
            same = ours[comment].fingerprint == fingerprint
            yield "" if same else f"{ours[comment]}: ssh-keygen has {fingerprint}"


def compare_drv(host: str, sample: list[str]) -> t.Iterator[str]:
    questions = [
        {
            "files": {"x.drv": text},
            "commands": [
                ["--store", "{store}", "store", "add-file", "--name", "x.drv", "x.drv"],
                # Its new name, derivation show, is not known to Nix 2.8.
                ["--store", "{store}", "show-derivation", "{last}"],
            ],
        }
        for text in sample
    ]
    for text, answer in zip(sample, nix_host.ask(host, ANSWERS, questions)):
        if answer["status"]:
            # Nix also reads the paths in it, and refuses to go on with what is no store path; so do we, later.
            continue
        theirs = shown_derivation(json.loads(answer["stdout"]))
        drv = derivation.parse("/nix/store/x.drv", text.encode())
        env = dict(drv.env)
        ours = {
            "outputs": {name: output.path for name, output in drv.outputs.items()},
            "inputSrcs": sorted(set(drv.input_srcs)),
            "inputDrvs": {path: sorted(set(names)) for path, names in drv.input_drvs.items()},
            "system": drv.system,
            "builder": drv.builder,
            "args": list(drv.args),
            "env": env,
        }
        if "structuredAttrs" in theirs:
            ours["structuredAttrs"] = json.loads(env.pop("__json"))
        if theirs["outputs"] is None:
            del ours["outputs"], theirs["outputs"]
        yield "" if ours == theirs else f"{text!r}: {ours}, Nix has {theirs}"


def shown_derivation(shown: Json) -> Json:
    """What show-derivation prints, in one form for all versions of Nix: 2.8, 2.26 and, with "version": 4, 2.34."""
    (theirs,) = shown.get("derivations", shown).values()
    sources, inputs = theirs.get("inputSrcs"), theirs.get("inputDrvs")
    if "inputs" in theirs:
        sources = [STORE + name for name in theirs["inputs"]["srcs"]]
        inputs = {STORE + name: wanted for name, wanted in theirs["inputs"]["drvs"].items()}
    fresh = {key: theirs[key] for key in ("system", "builder", "args", "env", "structuredAttrs") if key in theirs}
    return {
        **fresh,
        "inputSrcs": sorted(sources or []),
        "inputDrvs": {
            path: sorted(wanted["outputs"] if isinstance(wanted, dict) else wanted)
            for path, wanted in (inputs or {}).items()
        },
        # The paths of outputs that follow from their hash are no longer told.
        "outputs": None
        if "version" in shown
        else {n: output.get("path", "") for n, output in theirs["outputs"].items()},
    }


COMPARE: dict[str, t.Callable[[str, list[str]], t.Iterator[str]]] = {
    "machines": compare_machines,
    "nix.conf": compare_conf,
    "signing keys": compare_signing,
    "ssh keys": compare_ssh,
    "derivations": compare_drv,
}


# ------------------------------------------------------------------------------------------------------- the gate


def fuzz_gate(count: int, seed: int) -> dict[str, t.Any]:
    """The decision of all shells on all inputs: only the three texts, to the letter, may pass."""
    from ansible_collections.nixfleet.builders.plugins.module_utils import gate

    allowed = {command.encode(): f"pass {command.split()[0]}" for command in gate.allowed(True)}
    text = gate.render("/nix/bin", serve=True)
    decision = text[text.rindex("case ${SSH_ORIGINAL_COMMAND-} in") :]
    actions = 'run() { echo "pass ${1##*/}"; }\nload() { echo "pass nixfleet-load"; }\nrefuse() { echo refused; }\n'
    chance = random.Random(f"gate {seed}")
    inputs = [gate_text(chance) for _input in range(count)]
    script = [f"set -fu\n{actions}decide() {{\n{decision}}}\n".encode()]
    for data in inputs:
        quoted = b"'" + data.replace(b"'", b"'\\''") + b"'"
        script.append(b"SSH_ORIGINAL_COMMAND=" + quoted + b"; decide\n")
    result: dict[str, t.Any] = {"accepted": 0, "refused": 0, "crashes": [], "hangs": [], "compared": 0, "different": []}
    shells = {"dash": ["dash"], "bash": ["bash", "--posix"], "busybox": ["busybox", "sh"]}
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"".join(script))
        file.flush()
        for name, argv in shells.items():
            if shutil.which(argv[0]) is None:
                continue
            try:
                done = subprocess.run([*argv, file.name], capture_output=True, timeout=300, check=False)
            except subprocess.TimeoutExpired:
                result["hangs"].append(name)
                continue
            answers = done.stdout.decode().splitlines()
            if done.returncode or done.stderr or len(answers) != count:
                result["crashes"].append(
                    f"{name}: exit status {done.returncode}, {len(answers)} answers: {done.stderr[:300]!r}"
                )
                continue
            wrong = [
                f"{name}: {data!r}: {answer}"
                for data, answer in zip(inputs, answers)
                if answer != allowed.get(data, "refused")
            ]
            result["different"] += wrong
            result["compared"] += count
            result["accepted"] = sum(answer != "refused" for answer in answers)
            result["refused"] = count - result["accepted"]
    return result


# ------------------------------------------------------------------------------------------------------- the run


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000, help="inputs for each format")
    parser.add_argument("--sample", type=int, default=150, help="how many of those that are taken real Nix reads, too")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="the same one makes the same inputs")
    parser.add_argument("--only", nargs="*", default=[*FORMATS, "gate"])
    parser.add_argument(
        "--hosts",
        nargs="*",
        default=[nix_host.HERE] if shutil.which("nix") else [],
        metavar="FLEET/HOST",
        help=f"whose Nix reads the sample: hosts of the test fleet, or {nix_host.HERE}",
    )
    options = parser.parse_args()
    figures: dict[str, t.Any] = {"seed": options.seed}
    with multiprocessing.Pool(os.cpu_count()) as pool:
        for name in options.only:
            start = time.monotonic()
            if name == "gate":
                figures[name] = fuzz_gate(options.count, options.seed)
            else:
                sizes = [min(CHUNK, options.count - done) for done in range(0, options.count, CHUNK)]
                tasks = [(name, options.seed * 1000 + number, size) for number, size in enumerate(sizes)]
                sums: t.Any = collections.defaultdict(int)
                parts = pool.map(chunk, tasks, chunksize=1)
                sample = [text for part in parts for text in part["sample"] if name != "derivations" or FIXED in text]
                for part in parts:
                    for key in ("accepted", "refused"):
                        sums[key] += part[key]
                    for key in ("crashes", "hangs"):
                        sums[key] = (sums[key] or []) + part[key]
                figure = dict(sums)
                sample = random.Random(options.seed).sample(sample, min(options.sample, len(sample)))
                # ssh-keygen is that of this machine.
                hosts = [nix_host.HERE] if name == "ssh keys" else options.hosts
                answers = {host: list(COMPARE[name](host, sample)) for host in hosts}
                figure["compared"] = sum(map(len, answers.values()))
                figure["hosts"] = {host: len(found) for host, found in answers.items()}
                figure["different"] = [f"{host}: {each}" for host, found in answers.items() for each in found if each]
                figures[name] = figure
            figures[name]["seconds"] = round(time.monotonic() - start, 1)
            bad = {key: figures[name][key][:5] for key in ("crashes", "hangs", "different") if figures[name][key]}
            print(
                name,
                {**figures[name], **{k: len(figures[name][k]) for k in ("crashes", "hangs", "different")}},
                bad,
                file=sys.stderr,
            )
    print(json.dumps(figures))
    return any(figures[name][key] for name in options.only for key in ("crashes", "hangs", "different"))


if __name__ == "__main__":
    sys.exit(main())
