# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Derivations: the .drv files' text (ATerm), what they require of a machine, and the graph they make.

Pure. Texts are str; a byte that is no UTF-8 stands in them as its surrogate escape, so encode with "surrogateescape"
gives the very bytes back.

The rules are Nix's: derivations.cc (text, kinds), derivation-options.cc and parsed-derivations.cc (requirements), the
same from 2.8 to 2.34.
"""

from __future__ import annotations

import functools
import json
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.nixfleet.builders.plugins.module_utils.error_text import shown

#: What each derivation needs whose output paths are not known before it is built (getRequiredSystemFeatures).
CA_DERIVATIONS = "ca-derivations"

#: The kinds of a derivation, by how its output paths come about (derivations.cc, BasicDerivation::type).
INPUT_ADDRESSED = "input-addressed"
FIXED = "fixed-output"
FLOATING = "floating content-addressed"
#: Input-addressed, with inputs whose paths are not known yet.
DEFERRED = "deferred"
IMPURE = "impure"


class DerivationError(Exception):
    """A derivation that cannot be read. path: its .drv. offset: of the byte in it, or None. reason, hint: texts."""

    def __init__(self, path: str, reason: str, hint: str, offset: int | None = None) -> None:
        self.path = path
        self.reason = reason
        self.hint = hint
        self.offset = offset
        place = "" if offset is None else f", byte {offset}"
        text = f"derivation {path}{place}: {reason}; {hint}"
        super().__init__(text.encode("utf-8", "backslashreplace").decode("utf-8"))


class DynamicDerivation(DerivationError):
    """A derivation with inputs that are outputs of derivations which are outputs themselves: Nix can, we cannot."""


class Output(t.NamedTuple):
    """One output as Nix writes it, in the .drv file and in the protocols. What is not known or not fixed is empty.

    hash_algo: "sha256", "r:sha256", "text:sha256", "git:sha256"; hash: base 16, or "impure".
    """

    path: str
    hash_algo: str = ""
    hash: str = ""


@dataclass(frozen=True)
class BasicDerivation:
    """What BuildDerivation sends to a store: a derivation whose inputs are all paths. Its name is in the .drv's path.

    outputs, env: by name. input_srcs: full paths, sorted, each once.
    """

    outputs: t.Mapping[str, Output]
    input_srcs: tuple[str, ...]
    platform: str
    builder: str
    args: tuple[str, ...]
    env: t.Mapping[str, str]


@dataclass(frozen=True)
class Requirements:
    """What a derivation asks of the machine that builds it.

    builtin: its builder is part of Nix, so that the local Nix builds it for every system. prefer_local: it is not
    worth the way to another machine. allow_substitutes: its outputs may come from a substituter.
    """

    system: str
    features: frozenset[str] = frozenset()
    builtin: bool = False
    prefer_local: bool = False
    allow_substitutes: bool = True


@dataclass(frozen=True)
class Derivation:
    """One .drv file. outputs, env: by name; input_drvs: names of the wanted outputs by .drv path; kind: see above."""

    path: str
    outputs: t.Mapping[str, Output]
    input_drvs: t.Mapping[str, tuple[str, ...]]
    input_srcs: tuple[str, ...]
    system: str
    builder: str
    args: tuple[str, ...]
    env: t.Mapping[str, str]
    kind: str

    @property
    def name(self) -> str:
        """The name, as builders and messages know it: the path's last part without hash and ".drv"."""
        return self.path.rpartition("/")[2].partition("-")[2][: -len(".drv")]

    @property
    def output_paths(self) -> dict[str, str]:
        """The path of each output by its name; of those that are known before it is built."""
        return {name: output.path for name, output in self.outputs.items() if output.path}


# ---------------------------------------------------------------------------------------------------- text

# A text is read with \\ and \" replaced by these, so that a string ends at the next quote: one class of characters,
# which regular expressions read fast and without memory. No text holds them, as it is decoded with surrogateescape.
_BACKSLASH = "\ud800"
_QUOTE = "\ud801"

_ANY = r'"[^"]*"'
_ONE = r'"([^"]*)"'
_PATH = r'"/[^"]*"'
_OUTPUTS = re.compile(rf"\({_ONE},{_ONE},{_ONE},{_ONE}\)")
_PAIRS = re.compile(rf"\({_ONE},{_ONE}\)")
_STRINGS = re.compile(_ONE)


def _items(item: str, group: str = "") -> str:
    """What stands between [ and ] in a list of such items."""
    return rf"({group}(?:{item}(?:,{item})*)?)"


_INPUT_DRVS = re.compile(rf"\({_ONE},\[{_items(_ANY)}\]\)")

#: The text's sections in order: how each is read, and what is missing where it cannot be.
_SECTIONS = (
    (re.compile(r"Derive\(\[" + _items(rf'\({_ANY},"(?:/[^"]*)?",{_ANY},{_ANY}\)')), "'Derive(['"),
    (
        re.compile(r"\],\[" + _items(rf"\({_PATH},\[{_items(_ANY, '?:')}\]\)")),
        "an output, or '],[' and the input derivations",
    ),
    (re.compile(r"\],\[" + _items(_PATH)), "an input derivation, or '],[' and the input paths"),
    (re.compile(r"\]," + _ONE), "an input path, or '],' and the system"),
    (re.compile("," + _ONE), "',' and the builder"),
    (re.compile(r",\[" + _items(_ANY)), "',[' and the arguments"),
    (re.compile(r"\],\[" + _items(rf"\({_ANY},{_ANY}\)")), "an argument, or '],[' and the environment"),
    (re.compile(r"\]\)()\Z"), "an environment variable, or '])' and nothing more"),
)


def parse(path: str, data: bytes) -> Derivation:
    """The derivation in the bytes of the file at C(path). Raises DerivationError, DynamicDerivation."""
    text = data.decode("utf-8", "surrogateescape").replace("\\\\", _BACKSLASH).replace('\\"', _QUOTE)
    if text.startswith("DrvWithVersion("):
        raise DynamicDerivation(
            path,
            "it is a dynamic derivation (DrvWithVersion): it needs outputs of derivations that others make first",
            "let Nix itself build it",
        )
    sections = []
    at = 0
    for pattern, what in _SECTIONS:
        found = pattern.match(text, at)
        if found is None:
            rest = _value(text[at : at + 40])
            raise _damaged(path, f"{what} should follow, {'not ' + shown(rest) if rest else 'but it ends'}", text[:at])
        sections.append(found.group(1))
        at = found.end()
    outputs, input_drvs, input_srcs, system, builder, args, env, _end = sections
    by_name = {_word(name): Output(*map(_value, rest)) for name, *rest in _OUTPUTS.findall(outputs)}
    drv = Derivation(
        path=path,
        outputs=by_name,
        input_drvs={_value(drv): _strings(names) for drv, names in _INPUT_DRVS.findall(input_drvs)},
        input_srcs=_strings(input_srcs),
        system=_word(system),
        builder=_word(builder),
        args=_strings(args),
        env={_word(name): _value(value) for name, value in _PAIRS.findall(env)},
        kind=_kind(path, by_name),
    )
    if drv.kind == FIXED and drv.env.get("out", by_name["out"].path) != by_name["out"].path:
        # Nix goes by the hash and passes over the path here, but has checked that of the environment.
        raise _damaged(path, "its output has another path than its environment says")
    return drv


def _strings(items: str) -> tuple[str, ...]:
    return tuple(map(_value, _STRINGS.findall(items)))


def _value(text: str) -> str:
    """A string's value: \\n, \\r and \\t are what they are elsewhere, any other character after \\ is itself."""
    if "\\" in text:
        text = text.replace("\\n", "\n").replace("\\r", "\r").replace("\\t", "\t").replace("\\", "")
    return text if text.isascii() else text.replace(_QUOTE, '"').replace(_BACKSLASH, "\\")


#: For what many derivations have in common: they then share one text each, which is also faster.
_word = functools.lru_cache(maxsize=4096)(_value)


def _kind(path: str, outputs: t.Mapping[str, Output]) -> str:
    kinds = {_output_kind(output) for output in outputs.values()}
    if len(kinds) != 1:
        several = f"its outputs are of several kinds: {', '.join(sorted(kinds))}"
        raise _damaged(path, several if kinds else "it has no output")
    kind = kinds.pop()
    if kind == FIXED and list(outputs) != ["out"]:
        raise _damaged(path, "a fixed-output derivation has one output, and that is 'out'")
    has_path = any(output.path for output in outputs.values())
    if has_path != (kind in (INPUT_ADDRESSED, FIXED)):
        raise _damaged(path, f"an output of a {kind} derivation has {'a' if has_path else 'no'} path")
    return kind


def _output_kind(output: Output) -> str:
    """parseDerivationOutput in derivations.cc."""
    if not output.hash_algo:
        return INPUT_ADDRESSED if output.path else DEFERRED
    if output.hash == "impure":
        return IMPURE
    return FIXED if output.hash else FLOATING


def _damaged(path: str, reason: str, before: str | None = None) -> DerivationError:
    """before: the text up to the damage."""
    offset = None
    if before is not None:
        before = before.replace(_BACKSLASH, "\\\\").replace(_QUOTE, '\\"')
        offset = len(before.encode("utf-8", "surrogateescape"))
    return DerivationError(path, reason, "the file is damaged: compare it with 'nix-store --verify-path'", offset)


# ---------------------------------------------------------------------------------------------------- requirements

_BLANK_SEPARATED = re.compile(r"[^ \t\n\r]+")


def requirements(drv: Derivation) -> Requirements:
    """What the derivation requires. Raises DerivationError for structured attributes that Nix would not take."""
    attributes = _Attributes(drv)
    features = attributes.words("requiredSystemFeatures")
    if drv.kind in (FLOATING, DEFERRED, IMPURE):
        features |= {CA_DERIVATIONS}
    return Requirements(
        system=drv.system,
        features=features,
        builtin=drv.builder.startswith("builtin:"),
        prefer_local=attributes.flag("preferLocalBuild", False),
        allow_substitutes=attributes.flag("allowSubstitutes", True),
    )


class _Attributes:
    """The attributes that are options to Nix: in C(__json) where there is one, and then only there, else in env."""

    def __init__(self, drv: Derivation) -> None:
        self.path = drv.path
        self.env = drv.env
        self.structured: dict[str, t.Any] | None = None
        text = drv.env.get("__json")
        if text is None:
            return
        try:
            text.encode("utf-8")
            given = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise self._error(f"its structured attributes (__json) are no JSON: {shown(str(error))}") from None
        if not isinstance(given, dict):
            raise self._error("its structured attributes (__json) are no JSON object")
        self.structured = given

    def words(self, name: str) -> frozenset[str]:
        if self.structured is None:
            return frozenset(_BLANK_SEPARATED.findall(self.env.get(name, "")))
        value = self.structured.get(name, [])
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise self._error(f"its attribute {name} is {shown(value)}, no list of strings")
        return frozenset(value)

    def flag(self, name: str, default: bool) -> bool:
        if self.structured is None:
            return self.env[name] == "1" if name in self.env else default
        value = self.structured.get(name, default)
        if not isinstance(value, bool):
            raise self._error(f"its attribute {name} is {shown(value)}, neither true nor false")
        return value

    def _error(self, reason: str) -> DerivationError:
        return DerivationError(self.path, reason, "correct the expression that it is made from")


def _no_constant(name: str) -> t.NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def basic(drv: Derivation, inputs: t.Iterable[str]) -> BasicDerivation:
    """What BuildDerivation needs. inputs: the closure of all inputs, full paths.

    As Nix's hook does it (build-remote.cc): without input derivations the derivation's own sources stay, as a change
    of them would change what the output of a content-addressed derivation is known by.
    """
    return BasicDerivation(
        outputs=drv.outputs,
        input_srcs=tuple(sorted(set(inputs))) if drv.input_drvs else drv.input_srcs,
        platform=drv.system,
        builder=drv.builder,
        args=drv.args,
        env=drv.env,
    )


# ---------------------------------------------------------------------------------------------------- graph

#: The bytes of the .drv file at a path. Raises OSError.
ReadFile = t.Callable[[str], bytes]
#: How long a derivation takes, in any unit.
Cost = t.Callable[[str], float]


class Graph:
    """Derivations and which waits for which, by .drv path. Made by read_graph().

    derivations: every one, inputs before what needs them. wanted: for each the names of the outputs that others or the
    caller want; none wanted: nothing waits for it. inputs: for each the derivations that it needs an output of.
    dependents: the other way round.
    """

    def __init__(self, found: t.Mapping[str, Derivation], wanted: t.Mapping[str, t.AbstractSet[str]]) -> None:
        self.inputs: dict[str, tuple[str, ...]] = {
            path: tuple(drv for drv, outputs in found[path].input_drvs.items() if outputs and drv in found)
            for path in found
        }
        dependents: dict[str, list[str]] = {path: [] for path in found}
        for path, needed in self.inputs.items():
            for drv in needed:
                dependents[drv].append(path)
        self.dependents: dict[str, tuple[str, ...]] = {path: tuple(them) for path, them in dependents.items()}
        self.derivations: dict[str, Derivation] = {path: found[path] for path in self._order()}
        self.wanted: dict[str, frozenset[str]] = {path: frozenset(wanted[path]) for path in self.derivations}

    def _order(self) -> list[str]:
        """Inputs first; among equals as they were found."""
        waits_for = {path: len(needed) for path, needed in self.inputs.items()}
        order = [path for path, count in waits_for.items() if not count]
        for path in order:  # grows while it is read
            for dependent in self.dependents[path]:
                waits_for[dependent] -= 1
                if not waits_for[dependent]:
                    order.append(dependent)
        if len(order) < len(self.inputs):
            path = next(path for path, count in waits_for.items() if count)
            raise DerivationError(path, "it needs itself, over its inputs", "no store can hold such files: check it")
        return order

    def heights(self, cost: Cost = lambda path: 1) -> dict[str, float]:
        """For each derivation the cost of the dearest chain that begins with it, itself included: what waits for it."""
        heights: dict[str, float] = {}
        for path in reversed(list(self.derivations)):
            heights[path] = cost(path) + max((heights[above] for above in self.dependents[path]), default=0)
        return heights

    def critical_path(self, cost: Cost = lambda path: 1) -> list[str]:
        """The dearest chain of derivations, first to last: no number of machines builds the graph faster."""
        heights = self.heights(cost)
        chain: list[str] = []
        candidates: t.Iterable[str] = heights
        while True:
            step = max(candidates, key=heights.__getitem__, default=None)
            if step is None:
                return chain
            chain.append(step)
            candidates = self.dependents[step]


def read_graph(
    roots: t.Mapping[str, t.Collection[str]],
    read_file: ReadFile,
    within: t.Container[str] | None = None,
) -> Graph:
    """The graph of what these derivations need. roots: the wanted outputs by .drv path; none named: all.

    within: derivations beside these are left out unread, with what only they need; for example those that are built
    already. Raises DerivationError, also for a file that cannot be read and an output that a derivation does not have.
    """
    found: dict[str, Derivation] = {}
    wanted: dict[str, set[str]] = {}
    named_by: dict[str, str] = {}
    left = [path for path in roots if within is None or path in within]
    for path in left:
        wanted[path] = set(roots[path])
    while left:
        path = left.pop()
        if path in found:
            continue
        try:
            data = read_file(path)
        except OSError as error:
            by = f", an input of {named_by[path]}," if path in named_by else ""
            reason = f"the file{by} cannot be read: {error.strerror or error}"
            raise DerivationError(path, reason, "it must be valid in the store that is read") from None
        drv = found[path] = parse(path, data)
        for needed, outputs in drv.input_drvs.items():
            if not outputs or (within is not None and needed not in within):
                continue
            if needed not in wanted:
                wanted[needed] = set()
                named_by[needed] = path
                left.append(needed)
            wanted[needed].update(outputs)
    for path, drv in found.items():
        if path in roots and not roots[path]:
            wanted[path] = set(drv.outputs)
        missing = sorted(wanted[path] - drv.outputs.keys())
        if missing:
            by = f" and {named_by[path]} needs it" if path in named_by else ""
            raise DerivationError(
                path, f"it has no output {missing[0]!r}{by}", f"its outputs are {', '.join(sorted(drv.outputs))}"
            )
    return Graph(found, wanted)
