# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""May this machine build that, and if not, why, in words.

Pure. The rule is that of Nix's hook for a machine (machines.cc: systemSupported, allSupported, mandatoryMet; the same
from 2.8 to 2.34) and that of its daemon for the client itself (derivation-building-goal.cc in 2.34).
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.nixfleet.builders.plugins.module_utils.derivation import CA_DERIVATIONS, Requirements
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine

#: The codes of refusals: the system does not fit; a required feature is not there; a mandatory one is not required;
#: the machine takes no builds at all.
SYSTEM = "system"
MISSING_FEATURES = "missing_features"
MANDATORY_FEATURES = "mandatory_features"
NO_JOBS = "no_jobs"

#: How Nix 2.8 shows experimental features in JSON (experimental-features.hh); later ones show their names.
_NUMBERED_EXPERIMENTS = {0: "ca-derivations", 4: "recursive-nix"}

#: How many names a line of a table has at most; the others are counted.
_NAMES_SHOWN = 5


class Refusal(t.NamedTuple):
    """Why a machine does not take a derivation. text: what to change, with the machine as the unnamed subject."""

    reason: str
    text: str


@dataclass(frozen=True)
class LocalMachine:
    """The client itself, which builds when no machine does. max_jobs: what it is allowed to build at a time."""

    system: str
    extra_platforms: frozenset[str] = frozenset()
    features: frozenset[str] = frozenset()
    max_jobs: int = 1

    @classmethod
    def from_settings(cls, settings: t.Mapping[str, t.Any], max_jobs: int | None = None) -> LocalMachine:
        """Out of the settings of its Nix, as nix_cli.Nix.settings() gives them. max_jobs: in place of Nix's own."""
        experiments = {_NUMBERED_EXPERIMENTS.get(word, word) for word in settings.get("experimental-features", ())}
        return cls(
            system=settings["system"],
            extra_platforms=frozenset(settings.get("extra-platforms", ())),
            # The store has these features without their being in the setting (store-api.cc, getDefaultSystemFeatures).
            features=frozenset(settings.get("system-features", ())) | (experiments & {CA_DERIVATIONS, "recursive-nix"}),
            max_jobs=settings.get("max-jobs", 1) if max_jobs is None else max_jobs,
        )


Candidate = t.Union[Machine, LocalMachine]
C = t.TypeVar("C", bound=Candidate)


def label(candidate: Candidate) -> str:
    """How messages name a candidate: the host's name, else the whole URI."""
    if isinstance(candidate, LocalMachine):
        return "this host itself"
    return candidate.parts.host or candidate.uri


def refusals(candidate: Candidate, required: Requirements, own_system: str = "") -> list[Refusal]:
    """Why this one does not take such a derivation; empty: it may.

    own_system: the client's, which a machine without systems builds for; C(""): not known, then it fits nothing.
    """
    if isinstance(candidate, LocalMachine):
        return _local_refusals(candidate, required)
    systems = candidate.systems or ((own_system,) if own_system else ())
    missing = required.features.difference(candidate.supported_features, candidate.mandatory_features)
    unmet = set(candidate.mandatory_features) - required.features
    found = []
    if required.system != "builtin" and required.system not in systems:
        if systems:
            text = (
                f"builds for {_listed(systems)}, not for {required.system}: if the host can, add that to "
                "nix_builder_systems"
            )
        else:
            text = "builds for the client's own system, which is not known here: name its systems"
        found.append(Refusal(SYSTEM, text))
    if missing:
        found.append(Refusal(MISSING_FEATURES, _missing_text(missing, "nix_builder_supported_features")))
    if unmet:
        text = (
            f"takes only what requires {_listed(sorted(unmet))}, which this does not: let it, or take that out of "
            "nix_builder_mandatory_features"
        )
        found.append(Refusal(MANDATORY_FEATURES, text))
    if not candidate.max_jobs:
        found.append(Refusal(NO_JOBS, "takes no builds, as its max_jobs is 0: raise nix_builder_max_jobs"))
    return found


def _local_refusals(local: LocalMachine, required: Requirements) -> list[Refusal]:
    missing = required.features - local.features
    found = []
    if required.system not in {local.system, *local.extra_platforms} and not required.builtin:
        systems = _listed([local.system, *sorted(local.extra_platforms)])
        text = f"builds for {systems}, not for {required.system}: if it can, add that to its Nix's extra-platforms"
        found.append(Refusal(SYSTEM, text))
    if missing:
        found.append(Refusal(MISSING_FEATURES, _missing_text(missing, "system-features of its Nix")))
    if not local.max_jobs:
        found.append(Refusal(NO_JOBS, "builds nothing, as it is allowed no jobs: raise local_jobs, or its max-jobs"))
    return found


def _missing_text(missing: t.AbstractSet[str], where: str) -> str:
    plural = "s" if len(missing) > 1 else ""
    them = "them" if plural else "it"
    text = f"lacks feature{plural} {_listed(sorted(missing))}: if the host has {them}, add {them} to {where}"
    if CA_DERIVATIONS in missing:
        text += f" ({CA_DERIVATIONS} also has to be among the experimental-features of the Nix there)"
    return text


@dataclass(frozen=True)
class Route(t.Generic[C]):
    """Who takes a derivation: candidates in Nix's order, and each other one with its reasons, in the order given."""

    takers: list[C]
    refused: list[tuple[C, list[Refusal]]]


def route(candidates: t.Iterable[C], required: Requirements, own_system: str = "") -> Route[C]:
    """Which of the candidates take such a derivation, and why each other one does not.

    takers: in the order in which Nix 2.20 and newer would choose while all are idle: faster ones first, among equals
    as given; the client itself last, or first if the derivation prefers that.
    """
    takers: list[C] = []
    refused = []
    for candidate in candidates:
        reasons = refusals(candidate, required, own_system)
        if reasons:
            refused.append((candidate, reasons))
        else:
            takers.append(candidate)

    def place(candidate: Candidate) -> tuple[bool, float]:
        if isinstance(candidate, LocalMachine):
            return (not required.prefer_local, 0)
        return (required.prefer_local, -candidate.speed_factor)

    return Route(sorted(takers, key=place), refused)


# ---------------------------------------------------------------------------------------------------- table


def unroutable(
    derivations: t.Iterable[tuple[str, Requirements]], candidates: t.Sequence[Candidate], own_system: str = ""
) -> str:
    """What no candidate takes, as a table: each requirement once, whose it is, and each machine's reasons; else empty.

    derivations: names and what they require.
    """
    names: dict[tuple[str, frozenset[str], bool], list[str]] = {}
    for name, required in derivations:
        names.setdefault((required.system, required.features, required.builtin), []).append(name)
    blocks = []
    for (system, features, builtin), wanting in names.items():
        found = route(candidates, Requirements(system, features, builtin), own_system)
        if not found.takers:
            blocks.append("\n".join(_block(system, features, wanting, found.refused)))
    return "\n\n".join(blocks)


def _block(
    system: str,
    features: t.AbstractSet[str],
    names: t.Sequence[str],
    refused: t.Sequence[tuple[Candidate, list[Refusal]]],
) -> list[str]:
    """One requirement that nobody meets."""
    wish = f"system {system}" + (
        f" and feature{'s' * (len(features) > 1)} {_listed(sorted(features))}" if features else ""
    )
    lines = [f"No machine takes {_few(names)}, which {'needs' if len(names) == 1 else 'need'} {wish}."]
    # A fleet's machines are alike: those with the same reasons share the lines.
    alike: dict[tuple[Refusal, ...], list[str]] = {}
    for candidate, reasons in refused:
        alike.setdefault(tuple(reasons), []).append(label(candidate))
    rows = [(_few(machines), [reason.text for reason in reasons]) for reasons, machines in alike.items()]
    width = max((len(machines) for machines, _texts in rows), default=0)
    for machines, texts in rows:
        for text in texts:
            lines.append(f"  {machines:<{width}}  {text}")
            machines = ""
    return lines if rows else [*lines, "  There is no machine at all: name builders, or allow local jobs."]


def _listed(words: t.Sequence[str]) -> str:
    return ", ".join(words)


def _few(names: t.Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - _NAMES_SHOWN
    return _listed(names) if more <= 0 else f"{_listed(names[:_NAMES_SHOWN])} and {more} more"
