# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a host can offer as a builder, out of Nix's settings and what the hardware was found to be.

Pure: settings, probes and texts are handed in.
"""

from __future__ import annotations

import math
import typing as t

#: The account to which clients log in, where no other is chosen.
ACCOUNT = "nixremote"

#: What Nix gives every host (libstore/globals.cc, getDefaultSystemFeatures); hardware features come on top.
DEFAULT_FEATURES = ("benchmark", "big-parallel", "nixos-test")

#: A build that gets less than this tends to end in the out-of-memory killer.
MB_PER_JOB = 2048

#: The store offers these when the experimental feature of that name is on (libstore/store-api.hh, StoreConfig).
EXPERIMENTAL_FEATURES = ("ca-derivations", "recursive-nix")

#: Nix 2.8 lists experimental features in JSON as their number (libutil/experimental-features.hh).
EXPERIMENTAL_NUMBERS = {0: "ca-derivations", 4: "recursive-nix"}

#: uname's machine -> Nix's word for the processor, where they differ.
PROCESSORS = {"amd64": "x86_64", "arm64": "aarch64", "armv8l": "armv7l", "i386": "i686", "i586": "i686"}

#: The order in which host keys are preferred: what every Nix builder's clients can check first.
KEY_ORDER = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521")


class Features(t.NamedTuple):
    """Features Nix is configured for: all of them, those that work, and why each other one does not."""

    configured: list[str]
    backed: list[str]
    unbacked: dict[str, str]


def unique(words: t.Iterable[str]) -> list[str]:
    """The words in their order, each once."""
    return list(dict.fromkeys(words))


def systems(settings: t.Mapping[str, t.Any]) -> list[str]:
    """The host's own system first, then what it builds besides (C(extra-platforms))."""
    return unique([settings["system"], *settings.get("extra-platforms", [])])


def hardware_systems(kernel: str, processor: str) -> list[str]:
    """What Nix's defaults would be on a host, from uname's sysname and machine, e.g. C(Linux), C(x86_64)."""
    word = PROCESSORS.get(processor.lower(), processor.lower())
    name = kernel.lower()
    return [f"{word}-{name}"] + (["i686-linux"] if (word, name) == ("x86_64", "linux") else [])


def features(settings: t.Mapping[str, t.Any], probes: t.Mapping[str, str]) -> Features:
    """The features of a host whose Nix has these settings.

    C(probes) maps a feature that hardware has to back to why it does not, C('') if it does. A feature that is not among
    them is a matter of policy and counts as backed, except C(uid-range), which Nix offers by default (2.12) but builds
    only with C(auto-allocate-uids) (libstore/unix/build/derivation-builder.cc).
    """
    enabled = {EXPERIMENTAL_NUMBERS.get(word, word) for word in settings.get("experimental-features", [])}
    configured = sorted({*settings.get("system-features", []), *(enabled & set(EXPERIMENTAL_FEATURES))})
    unbacked = {name: probes[name] for name in configured if probes.get(name)}
    if "uid-range" in configured and not settings.get("auto-allocate-uids"):
        unbacked["uid-range"] = "Nix builds with it only when auto-allocate-uids is on"
    return Features(configured, [name for name in configured if name not in unbacked], unbacked)


def hardware_features(probes: t.Mapping[str, str]) -> Features:
    """The features that Nix's defaults would give a host."""
    found = sorted([*DEFAULT_FEATURES, *(name for name, why_not in probes.items() if not why_not)])
    return Features(found, found, {})


def pick_jobs(max_jobs: int, cores: int, cpus: int, memory_mb: int) -> tuple[int, int, str]:
    """(builds at a time, cores for each, why) so that their product is at most the number of CPUs.

    C(max_jobs) and C(cores) are Nix's settings (C(auto) is already a number there; C(cores) 0 means all CPUs).
    1 is Nix's default for C(max-jobs) and 0 turns local builds off, which a builder cannot want: both count as not
    chosen while each build may use all CPUs. Then there are as many builds as each has cores, so that neither a wide
    nor a narrow part of a build graph leaves the host idle, and no more than the memory holds.
    """
    cpus = max(cpus, 1)
    share = cores if 0 < cores < cpus else 0
    if share:
        fitting = cpus // share
        if max_jobs < 1 or max_jobs > fitting:
            return (
                fitting,
                share,
                f"{cpus} CPUs hold {fitting} builds of {share} cores; Nix's own max-jobs is {max_jobs}",
            )
        return max_jobs, share, f"Nix's max-jobs and cores fit the {cpus} CPUs"
    if max_jobs > 1:
        jobs = min(max_jobs, cpus)
        lowered = " lowered to the number of CPUs" if jobs < max_jobs else ""
        return jobs, cpus // jobs, f"Nix's max-jobs {max_jobs}{lowered}; {cpus} CPUs are {cpus // jobs} cores for each"
    jobs = max(1, min(math.isqrt(cpus), memory_mb // MB_PER_JOB))
    share = cpus // jobs
    return jobs, share, f"not chosen in Nix's settings; {cpus} CPUs and {memory_mb} MB hold {jobs} of {share} cores"


def key_text(line: str) -> str:
    """Type and base64 of a public key line, without its comment; '' when it is not one."""
    words = line.split()
    if len(words) < 2 or not words[1].startswith("AAAA"):
        return ""
    return " ".join(words[:2])


def sort_keys(lines: t.Iterable[str]) -> list[str]:
    """The public key lines, each once, ed25519 first, RSA last; certificates and other texts are left out."""
    keys = {key_text(line): " ".join(line.split()) for line in lines if "-cert-" not in line}
    keys.pop("", None)
    order = {name: number for number, name in enumerate(KEY_ORDER)}
    return sorted(keys.values(), key=lambda line: order.get(line.split()[0], len(order)))


def ports(effective: t.Mapping[str, str]) -> list[int]:
    """The ports on which sshd listens, out of what C(sshd -T) prints.

    The listen addresses count: with a port in a ListenAddress, C(port) still shows 22, which nobody listens on.
    """
    found = [word.rpartition(":")[2] for word in effective.get("listenaddress", "").split()]
    if not found:
        found = effective.get("port", "22").split()
    return sorted({int(word) for word in found if word.isdigit()})


def machine(
    options: t.Mapping[str, t.Any],
    *,
    systems: list[str],
    max_jobs: int,
    features: list[str],
    host_keys: list[str],
) -> dict[str, t.Any]:
    """The machine dict: what C(options) set wins over what was found.

    A mandatory feature is among the supported ones when those are not given: Nix takes either, but Hydra looks for it
    there (and NixOS writes it so).
    """
    mandatory = unique(options.get("mandatory_features") or [])
    supported = options.get("supported_features")
    entry: dict[str, t.Any] = {
        "protocol": options["protocol"],
        "user": options["user"],
        "host": options["host"],
        "port": options.get("port"),
        "systems": unique(systems if options.get("systems") is None else options["systems"]),
        "ssh_key": options.get("ssh_key"),
        "max_jobs": max_jobs if options.get("max_jobs") is None else options["max_jobs"],
        "speed_factor": options["speed_factor"],
        "supported_features": sorted({*features, *mandatory}) if supported is None else unique(supported),
        "mandatory_features": mandatory,
        "public_host_key": host_keys[0] if host_keys else None,
    }
    return {key: value for key, value in entry.items() if value is not None}
