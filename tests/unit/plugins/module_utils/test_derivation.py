# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Derivations: text of every kind and damage, requirements, graphs; and what a real Nix makes of the same files."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import subprocess
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import derivation
from ansible_collections.nixfleet.builders.plugins.module_utils.derivation import (
    BasicDerivation,
    Derivation,
    DerivationError,
    DynamicDerivation,
    Graph,
    Output,
    Requirements,
    basic,
    parse,
    read_graph,
    requirements,
)
from hypothesis import given, settings
from hypothesis import strategies as st

HASH = "0123456789abcdfghijklmnpqrsvwxyz"
DRV = f"/nix/store/{HASH}-thing-1.0.drv"
OUT = f"/nix/store/{HASH}-thing-1.0"


def quoted(text: str) -> str:
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(escapes.get(char, char) for char in text) + '"'


def listed(items: t.Iterable[str]) -> str:
    return "[" + ",".join(items) + "]"


def unparse(drv: Derivation) -> bytes:
    """The text that Nix writes of a derivation."""
    text = ",".join(
        (
            listed(f"({','.join(map(quoted, (name, *output)))})" for name, output in sorted(drv.outputs.items())),
            listed(f"({quoted(path)},{listed(map(quoted, names))})" for path, names in sorted(drv.input_drvs.items())),
            listed(map(quoted, drv.input_srcs)),
            quoted(drv.system),
            quoted(drv.builder),
            listed(map(quoted, drv.args)),
            listed(f"({quoted(name)},{quoted(value)})" for name, value in sorted(drv.env.items())),
        )
    )
    return f"Derive({text})".encode("utf-8", "surrogateescape")


def make(
    path: str = DRV,
    outputs: t.Mapping[str, Output] | None = None,
    inputs: t.Mapping[str, tuple[str, ...]] | None = None,
    srcs: tuple[str, ...] = (),
    builder: str = "/bin/sh",
    env: t.Mapping[str, str] | None = None,
) -> bytes:
    outputs = {"out": Output(OUT)} if outputs is None else outputs
    return unparse(Derivation(path, outputs, inputs or {}, srcs, "x86_64-linux", builder, ("-c", "x"), env or {}, ""))


def error(data: bytes) -> DerivationError:
    with pytest.raises(DerivationError) as caught:
        parse(DRV, data)
    return caught.value


# ---------------------------------------------------------------------------------------------------- text


def test_every_part_is_read() -> None:
    drv = parse(
        DRV,
        b'Derive([("dev","/nix/store/d","",""),("out","/nix/store/o","","")],'
        b'[("/nix/store/a.drv",["out"]),("/nix/store/b.drv",["bin","dev"])],["/nix/store/s1","/nix/store/s2"],'
        b'"x86_64-linux","/nix/store/sh",["-e","a b"],[("A",""),("B","1\\n2")])',
    )
    assert drv.name == "thing-1.0"
    assert drv.outputs == {"dev": Output("/nix/store/d"), "out": Output("/nix/store/o")}
    assert drv.input_drvs == {"/nix/store/a.drv": ("out",), "/nix/store/b.drv": ("bin", "dev")}
    assert drv.input_srcs == ("/nix/store/s1", "/nix/store/s2")
    assert (drv.system, drv.builder, drv.args) == ("x86_64-linux", "/nix/store/sh", ("-e", "a b"))
    assert drv.env == {"A": "", "B": "1\n2"}
    assert drv.output_paths == {"dev": "/nix/store/d", "out": "/nix/store/o"}


@pytest.mark.parametrize(
    ("escaped", "value"),
    [
        (rb"\"\\\n\r\t", '"\\\n\r\t'),
        (rb"\\n", "\\n"),
        (rb"\\\n", "\\\n"),
        (rb"\\\\", "\\\\"),
        (rb"\\\"", '\\"'),
        (rb"\$\x\,\]", "$x,]"),
        (b"a\nb\tc", "a\nb\tc"),
        (b'")],[("', None),
        ("grüß \N{ROCKET}".encode(), "grüß \N{ROCKET}"),
        (b"\xff\xfe\x80", "\udcff\udcfe\udc80"),
        (b"\xed\xa0\x80\xed\xa0\x81", "\udced\udca0\udc80\udced\udca0\udc81"),
        (b"\x00\x01\x0b\x0c\x85", "\x00\x01\x0b\x0c\udc85"),
    ],
)
def test_escapes_and_odd_bytes(escaped: bytes, value: str | None) -> None:
    data = make(env={"V": "MARK"}).replace(b"MARK", escaped)
    if value is None:
        assert parse(DRV, data.replace(b'")],[("', b'\\")],[(\\"')).env == {"V": '")],[("'}
    else:
        assert parse(DRV, data).env == {"V": value}


TEXT = st.text(st.characters(codec="utf-8") | st.sampled_from('\\"\n\r\t,[]()\udc80\udcff'), max_size=12)
PATHS = TEXT.map(lambda text: "/" + text)
NAMES = st.lists(TEXT, max_size=3, unique=True).map(lambda names: tuple(sorted(names)))


@settings(max_examples=60)
@given(
    outputs=st.dictionaries(TEXT, PATHS.map(Output), min_size=1, max_size=3),
    inputs=st.dictionaries(PATHS, NAMES, max_size=3),
    srcs=st.lists(PATHS, max_size=3).map(tuple),
    words=st.lists(TEXT, min_size=2, max_size=5),
    env=st.dictionaries(TEXT, TEXT, max_size=4),
)
def test_what_was_written_is_read(
    outputs: dict[str, Output],
    inputs: dict[str, tuple[str, ...]],
    srcs: tuple[str, ...],
    words: list[str],
    env: dict[str, str],
) -> None:
    # What a decoder can give: bytes that are no UTF-8 as escapes, never two that make a character.
    def real(text: str) -> str:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")

    drv = Derivation(
        path=DRV,
        outputs={real(name): Output(real(output.path)) for name, output in outputs.items()},
        input_drvs={real(path): tuple(map(real, names)) for path, names in inputs.items()},
        input_srcs=tuple(map(real, srcs)),
        system=real(words[0]),
        builder=real(words[1]),
        args=tuple(map(real, words[2:])),
        env={real(name): real(value) for name, value in env.items()},
        kind=derivation.INPUT_ADDRESSED,
    )
    data = unparse(drv)
    assert parse(DRV, data) == drv
    assert unparse(parse(DRV, data)) == data


@given(st.data())
def test_damage_is_refused_or_harmless(data: st.DataObject) -> None:
    whole = make(
        inputs={"/nix/store/a.drv": ("out", "dev")},
        srcs=("/nix/store/s",),
        env={"a": 'q"\\', "b": "line\n"},
    )
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    put = data.draw(st.binary(max_size=3) | st.sampled_from([b'"', b"\\", b",", b"]", b'"]']))
    damaged = whole[:start] + put + whole[end:]
    try:
        drv = parse(DRV, damaged)
    except DerivationError as refusal:
        assert refusal.offset is None or 0 <= refusal.offset <= len(damaged)
        assert str(refusal).isprintable()
    else:
        assert parse(DRV, unparse(drv)) == drv


@pytest.mark.parametrize("length", range(0, len(make(inputs={"/a.drv": ("out",)}, srcs=("/s",), env={"x": "y"}))))
def test_a_file_that_was_cut_off(length: int) -> None:
    data = make(inputs={"/a.drv": ("out",)}, srcs=("/s",), env={"x": "y"})[:length]
    refusal = error(data)
    assert refusal.offset is not None and refusal.offset <= length
    assert DRV in str(refusal) and f"byte {refusal.offset}:" in str(refusal)


@pytest.mark.parametrize(
    ("part", "replacement", "offset_of", "expected"),
    [
        ("Derive(", "Derivation(", "Derivation(", r"^'Derive\(\[' should follow, not 'Derivation\("),
        (f'"{OUT}"', '"thing"', '("out"', "^an output, or .* should follow, not .*thing"),
        ('"/a.drv"', '"a.drv"', '("a.drv"', "^an input derivation, or .* should follow"),
        ('["/s"]', '["s"]', '"s"]', "^an input path, or .* should follow"),
        (',["-c","x"]', ',["-c" "x"]', ' "x"', "^an argument, or .* should follow"),
        ('"ü\\"\udcff"', "", '(,"y")', "^an environment variable, or .* should follow"),
        ('"y")])', '"y")])\n', "])\n", r"^an environment variable, or '\]\)' and nothing more"),
    ],
)
def test_damage_is_found_at_its_byte(part: str, replacement: str, offset_of: str, expected: str) -> None:
    data = make(inputs={"/a.drv": ("out",)}, srcs=("/s",), env={'ü"\udcff': "y"})
    part_bytes, put, place = (text.encode("utf-8", "surrogateescape") for text in (part, replacement, offset_of))
    assert part_bytes in data
    damaged = data.replace(part_bytes, put)
    refusal = error(damaged)
    assert re.search(expected, refusal.reason)
    assert refusal.offset == damaged.index(place)


def test_offsets_count_the_bytes_of_the_file() -> None:
    data = make(env={'ü\\"\udcff': "x"}) + b"\n"
    assert error(data).offset == len(data) - 3


def test_a_dynamic_derivation_is_named() -> None:
    with pytest.raises(DynamicDerivation, match="thing-1.0.drv: it is a dynamic derivation .* let Nix itself build it"):
        parse(DRV, b'DrvWithVersion("xp-dyn-drv",[("out","","r:sha256","")],[],[],"s","b",[],[])')


@pytest.mark.parametrize(
    ("outputs", "kind"),
    [
        ({"out": Output(OUT)}, derivation.INPUT_ADDRESSED),
        ({"out": Output(OUT, "sha256", "ab")}, derivation.FIXED),
        ({"out": Output(OUT, "r:sha256", "ab")}, derivation.FIXED),
        ({"out": Output("", "r:sha256"), "dev": Output("", "r:sha256")}, derivation.FLOATING),
        ({"out": Output("", "text:sha256")}, derivation.FLOATING),
        ({"out": Output("")}, derivation.DEFERRED),
        ({"out": Output("", "r:sha256", "impure")}, derivation.IMPURE),
    ],
)
def test_kinds(outputs: dict[str, Output], kind: str) -> None:
    drv = parse(DRV, make(outputs=outputs))
    assert drv.kind == kind
    known = kind in (derivation.INPUT_ADDRESSED, derivation.FIXED)
    assert requirements(drv).features == (frozenset() if known else {"ca-derivations"})
    assert bool(drv.output_paths) == known


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        ({}, "no output"),
        ({"out": Output(OUT), "dev": Output("")}, "several kinds: deferred, input-addressed"),
        ({"dev": Output(OUT, "sha256", "ab")}, "one output, and that is 'out'"),
        ({"out": Output(OUT, "sha256", "ab"), "x": Output(OUT, "sha256", "ab")}, "one output"),
        ({"out": Output("", "sha256", "ab")}, "fixed-output derivation has no path"),
        ({"out": Output(OUT, "sha256")}, "floating content-addressed derivation has a path"),
        ({"out": Output(OUT, "r:sha256", "impure")}, "impure derivation has a path"),
    ],
)
def test_outputs_that_nix_would_not_take(outputs: dict[str, Output], reason: str) -> None:
    refusal = error(make(outputs=outputs))
    assert reason in refusal.reason and refusal.offset is None


def test_a_fixed_output_elsewhere_than_the_environment_says() -> None:
    """Nix computes such a path from the hash; what stands there may be anything."""
    outputs = {"out": Output(OUT, "sha256", "ab")}
    assert parse(DRV, make(outputs=outputs, env={"out": OUT})).kind == derivation.FIXED
    assert parse(DRV, make(outputs=outputs)).kind == derivation.FIXED
    assert "another path than its environment says" in str(error(make(outputs=outputs, env={"out": OUT + "2"})))


@pytest.mark.parametrize("value", ["x" * 1_000_000, "\n" * 1_000_000, '"\\' * 500_000, "\udcff" * 1_000_000])
def test_an_environment_of_a_megabyte_takes_a_moment(value: str) -> None:
    data = make(env={"big": value})
    start = time.process_time()
    drv = parse(DRV, data)
    assert time.process_time() - start < 1
    assert drv.env == {"big": value}


# ---------------------------------------------------------------------------------------------------- requirements


def required(env: dict[str, str], builder: str = "/bin/sh") -> Requirements:
    return requirements(parse(DRV, make(env=env, builder=builder)))


def test_requirements_in_the_environment() -> None:
    assert required({}) == Requirements("x86_64-linux", frozenset(), False, False, True)
    found = required({"requiredSystemFeatures": " kvm\tbig-parallel\n kvm\rx\x0by\u00a0z ", "preferLocalBuild": "1"})
    assert found.features == {"kvm", "big-parallel", "x\x0by\u00a0z"}
    assert found.prefer_local and found.allow_substitutes
    for value in ("", "0", "true", "1 ", "11"):
        assert not required({"preferLocalBuild": value}).prefer_local
        assert not required({"allowSubstitutes": value}).allow_substitutes
    assert required({"allowSubstitutes": "1"}).allow_substitutes
    assert required({}, "builtin:fetchurl").builtin and not required({}, "builtin").builtin


def test_structured_attributes_alone_count() -> None:
    env = {"requiredSystemFeatures": "kvm", "preferLocalBuild": "1", "allowSubstitutes": ""}
    assert required({**env, "__json": "{}"}) == Requirements("x86_64-linux")
    given = {"requiredSystemFeatures": ["benchmark", "a b"], "preferLocalBuild": True, "allowSubstitutes": False}
    found = required({**env, "__json": json.dumps(given)})
    assert found == Requirements("x86_64-linux", frozenset({"benchmark", "a b"}), False, True, False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "are no JSON"),
        ("{", "are no JSON"),
        ('{"x": NaN}', "NaN is no number in JSON"),
        ('{"x": "\udcff"}', "are no JSON"),
        ("[" * 100_000, "are no JSON"),
        ("[]", "no JSON object"),
        ('{"requiredSystemFeatures": "kvm"}', "requiredSystemFeatures is 'kvm', no list of strings"),
        ('{"requiredSystemFeatures": [1]}', "requiredSystemFeatures is \\[1\\], no list of strings"),
        ('{"requiredSystemFeatures": null}', "requiredSystemFeatures is None, no list"),
        ('{"preferLocalBuild": "1"}', "preferLocalBuild is '1', neither true nor false"),
        ('{"allowSubstitutes": 1}', "allowSubstitutes is 1, neither true nor false"),
    ],
)
def test_structured_attributes_that_nix_would_not_take(text: str, reason: str) -> None:
    with pytest.raises(DerivationError, match=reason):
        required({"__json": text})


def test_what_goes_to_a_builder() -> None:
    env = {"__json": "{}", "a": "b"}
    alone = parse(DRV, make(srcs=("/nix/store/s",), env=env))
    assert basic(alone, ["/nix/store/other"]) == BasicDerivation(
        {"out": Output(OUT)}, ("/nix/store/s",), "x86_64-linux", "/bin/sh", ("-c", "x"), env
    )
    needing = parse(DRV, make(inputs={"/nix/store/a.drv": ("out",)}, srcs=("/nix/store/s",)))
    assert basic(needing, ["/nix/store/t", "/nix/store/a", "/nix/store/t"]).input_srcs == (
        "/nix/store/a",
        "/nix/store/t",
    )


# ---------------------------------------------------------------------------------------------------- graph


def store(
    edges: t.Mapping[str, t.Mapping[str, tuple[str, ...]]], outputs: tuple[str, ...] = ("out",)
) -> dict[str, bytes]:
    """Files of derivations /a, /b, ...: what each needs of which."""
    return {
        path: make(path, {name: Output(f"{path}-{name}") for name in outputs}, needed) for path, needed in edges.items()
    }


def reader(files: t.Mapping[str, bytes], read: list[str] | None = None) -> derivation.ReadFile:
    def read_file(path: str) -> bytes:
        if read is not None:
            read.append(path)
        if path not in files:
            raise FileNotFoundError(2, "No such file or directory")
        return files[path]

    return read_file


DIAMOND = {
    "/top": {"/left": ("out",), "/right": ("dev", "out")},
    "/left": {"/base": ("out",)},
    "/right": {"/base": ("dev",), "/unused": ()},
    "/base": {},
    "/unused": {},
}


def test_a_graph_has_each_derivation_once_inputs_first() -> None:
    read: list[str] = []
    graph = read_graph({"/top": ["out"]}, reader(store(DIAMOND, ("dev", "out")), read))
    assert sorted(read) == ["/base", "/left", "/right", "/top"]
    assert list(graph.derivations)[0] == "/base" and list(graph.derivations)[-1] == "/top"
    assert graph.wanted == {"/top": {"out"}, "/left": {"out"}, "/right": {"dev", "out"}, "/base": {"dev", "out"}}
    assert graph.inputs["/right"] == ("/base",)
    assert sorted(graph.dependents["/base"]) == ["/left", "/right"] and graph.dependents["/top"] == ()


def test_an_input_without_outputs_is_not_waited_for() -> None:
    graph = read_graph({"/top": [], "/unused": []}, reader(store(DIAMOND, ("dev", "out"))))
    assert "/unused" in graph.derivations
    assert graph.inputs["/right"] == ("/base",) and graph.dependents["/unused"] == ()


def test_a_root_without_names_means_all_its_outputs() -> None:
    graph = read_graph({"/top": [], "/base": []}, reader(store(DIAMOND, ("dev", "doc", "out"))))
    assert graph.wanted["/base"] == graph.wanted["/top"] == {"dev", "doc", "out"}
    assert graph.wanted["/left"] == {"out"}


def test_within_leaves_out_what_is_built() -> None:
    read: list[str] = []
    graph = read_graph({"/top": [], "/unused": []}, reader(store(DIAMOND, ("dev", "out")), read), {"/top", "/right"})
    assert sorted(read) == ["/right", "/top"]
    assert list(graph.derivations) == ["/right", "/top"] and graph.inputs["/right"] == ()


def test_what_a_graph_cannot_be_made_of() -> None:
    with pytest.raises(DerivationError, match="/gone: the file cannot be read: No such file"):
        read_graph({"/gone": []}, reader({}))
    with pytest.raises(DerivationError, match="/b: the file, an input of /a, cannot be read"):
        read_graph({"/a": []}, reader(store({"/a": {"/b": ("out",)}})))
    with pytest.raises(DerivationError, match="/b: it has no output 'doc' and /a needs it; its outputs are out"):
        read_graph({"/a": []}, reader(store({"/a": {"/b": ("doc",)}, "/b": {}})))
    with pytest.raises(DerivationError, match="/a: it has no output 'doc'; its outputs are out"):
        read_graph({"/a": ["doc"]}, reader(store({"/a": {}})))
    with pytest.raises(DerivationError, match="it needs itself"):
        read_graph({"/a": []}, reader(store({"/a": {"/b": ("out",)}, "/b": {"/c": ("out",)}, "/c": {"/b": ("out",)}})))


def test_heights_and_the_critical_path() -> None:
    graph = read_graph({"/top": []}, reader(store(DIAMOND, ("dev", "out"))))
    assert graph.heights() == {"/top": 1, "/left": 2, "/right": 2, "/base": 3}
    cost = {"/top": 1.0, "/left": 10.0, "/right": 5.0, "/base": 2.0}.__getitem__
    assert graph.heights(cost)["/base"] == 13
    assert graph.critical_path(cost) == ["/base", "/left", "/top"]
    assert Graph({}, {}).critical_path() == []


@given(st.lists(st.sets(st.integers(0, 11), max_size=4), min_size=1, max_size=12))
def test_an_order_that_any_graph_can_be_built_in(needs: list[set[int]]) -> None:
    edges = {f"/{n}": {f"/{k}": ("out",) for k in ks if k < n} for n, ks in enumerate(needs)}
    graph = read_graph({path: [] for path in edges}, reader(store(edges)))
    place = {path: n for n, path in enumerate(graph.derivations)}
    heights = graph.heights()
    for path, needed in edges.items():
        assert sorted(graph.inputs[path]) == sorted(needed)
        for below in needed:
            assert place[below] < place[path] and heights[below] > heights[path]
    chain = graph.critical_path()
    assert len(chain) == max(heights.values())
    assert all(below in graph.inputs[above] for below, above in zip(chain, chain[1:]))


def test_a_chain_of_ten_thousand_needs_no_recursion() -> None:
    edges = {f"/{n}": {f"/{n - 1}": ("out",)} if n else {} for n in range(10_000)}
    graph = read_graph({"/9999": []}, reader(store(edges)))
    assert len(graph.critical_path()) == 10_000 and graph.heights()["/0"] == 10_000


def test_ten_thousand_derivations_are_read_fast_and_small() -> None:
    """3 kB each with 40 variables and 12 inputs, about what a package of nixpkgs has."""
    rng = random.Random(1)
    names = [f"/nix/store/{rng.getrandbits(160):032x}-package-{n}.drv" for n in range(10_000)]
    env = {f"variable{k}": f"/nix/store/{HASH}-part-{k}\\n" * (k % 3) for k in range(40)}
    tail = make(env=env).partition(b'"x86_64-linux"')
    files = {}
    for n, path in enumerate(names):
        below = listed(f'("{name}",["out"])' for name in rng.sample(names[max(0, n - 500) : n], min(n, 12)))
        files[path] = f'Derive([("out","{path[:-4]}","","")],{below},[],'.encode() + tail[1] + tail[2]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    graph = read_graph(dict.fromkeys(names[-600:], ()), files.__getitem__)
    assert time.process_time() - start < 3
    assert len(graph.derivations) > 9_900
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


# ---------------------------------------------------------------------------------------------------- real Nix


@pytest.mark.skipif(not shutil.which("nix-instantiate"), reason="needs Nix")
def test_real_files_are_read_as_nix_reads_them(tmp_path: Path) -> None:
    expression = tmp_path / "default.nix"
    expression.write_text(
        r"""
        let
          mk = name: more: derivation ({ inherit name; system = "x86_64-linux"; builder = "/bin/sh"; } // more);
          base = mk "base" { outputs = [ "out" "dev" ]; odd = "q\"\\ \n\r\t $ü"; };
        in mk "top" {
          args = [ "-c" "x ${base.dev}" ];
          __structuredAttrs = true;
          requiredSystemFeatures = [ "kvm" ];
          fixed = mk "fixed" { outputHash = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";
                               outputHashAlgo = "sha256"; preferLocalBuild = true; };
        }
        """
    )
    environment = {
        **os.environ,
        "NIX_STORE_DIR": str(tmp_path / "store"),
        "NIX_STATE_DIR": str(tmp_path / "state"),
        "NIX_LOG_DIR": str(tmp_path / "log"),
        "NIX_REMOTE": "",
        "NIX_CONFIG": "experimental-features = nix-command",
    }

    def run(*argv: str) -> str:
        return subprocess.run(argv, env=environment, check=True, capture_output=True, text=True).stdout

    top = run("nix-instantiate", str(expression)).strip()
    graph = read_graph({top: []}, lambda path: Path(path).read_bytes())
    assert [drv.name for drv in graph.derivations.values()][-1] == "top"
    shown = json.loads(run("nix", "show-derivation", "--recursive", top))
    if len(shown) != 3:
        pytest.skip("another JSON than Nix 2.8's")
    for path, drv in graph.derivations.items():
        assert unparse(drv) == Path(path).read_bytes()
        told = shown[path]
        assert (drv.env, list(drv.args), drv.system, drv.builder) == tuple(
            told[key] for key in ("env", "args", "system", "builder")
        )
        assert {path: list(names) for path, names in drv.input_drvs.items()} == told["inputDrvs"]
    features = {drv.name: requirements(drv) for drv in graph.derivations.values()}
    assert features["top"].features == {"kvm"} and features["fixed"].prefer_local
