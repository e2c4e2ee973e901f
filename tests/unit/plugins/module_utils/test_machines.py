# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machines file, both ways, for every version of Nix that reads it differently."""

from __future__ import annotations

import base64
import struct
import time
import typing as t

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils.files import HEADER
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import COLUMNS, Machine, MachinesError
from ansible_collections.nixfleet.builders.plugins.module_utils.machines import (
    check,
    merge,
    parse,
    render_file,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import LIX_READS_AS
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_version import OLDEST
from ansible_collections.nixfleet.builders.plugins.module_utils.store_uri import identity
from ansible_collections.nixfleet.builders.tests.support.machine_samples import (
    FRACTIONS,
    FULL,
    MACHINE_LISTS,
    MACHINES,
    NEW,
    OLD,
    VERSION,
    VERSIONS,
    key_line,
    refusal,
)
from hypothesis import given
from hypothesis import strategies as st

# ---------------------------------------------------------------------------------------------------- render


def test_a_file_has_a_header_that_no_nix_takes_for_a_machine() -> None:
    text = render_file([Machine.from_dict(FULL)], header=HEADER)
    assert text.startswith(f"# {HEADER}\n")
    assert ";" not in HEADER
    assert text.endswith("\n")
    assert [parse(text, nix_version=version) for version in VERSIONS] == [[Machine.from_dict(FULL)]] * len(VERSIONS)


# ---------------------------------------------------------------------------------------------------- check


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ssh://b", "ssh://B"),
        ("ssh://b", "b"),
        ("ssh://b", "ssh://b."),
        ("ssh://u@b?a=1&c=2", "ssh://u@b?c=2&a=1"),
        ("ssh://[2001:db8::1]", "ssh://[2001:0DB8:0:0::1]"),
    ],
)
def test_the_same_machine_twice_is_refused(one: str, other: str) -> None:
    assert identity(one) == identity(other)
    error = refusal(lambda: check([Machine(one), Machine("ssh://between"), Machine(other)]))
    assert (error.key, "number 1 and as number 3" in error.reason) == ("uri", True)


def test_a_file_is_refused_with_any_of_its_machines() -> None:
    error = refusal(lambda: render_file([Machine("ssh://b"), Machine("ssh://c", max_jobs=-1)]))
    assert (error.key, error.machine) == ("max_jobs", "ssh://c")


@pytest.mark.parametrize("other", ["ssh://c", "ssh-ng://b", "ssh://u@b", "ssh://b?compress=true", "ssh://b:22"])
def test_what_differs_is_another_machine(other: str) -> None:
    check([Machine("ssh://b"), Machine(other)], NEW)


OWN_NAMES = ["client", "client.example.org", "198.18.0.7", "2001:db8::7"]


@pytest.mark.parametrize(
    "uri",
    [
        "ssh-ng://client",
        "ssh://root@Client.example.org.",
        "ssh://198.18.0.7",
        "ssh://[2001:db8:0::7]",
        "ssh://localhost",
        "ssh://127.0.1.1",
        "ssh://[::1]",
        "ssh://client:22",
        "daemon",
        "auto",
        "local",
    ],
)
def test_the_client_cannot_be_its_own_builder(uri: str) -> None:
    error = refusal(lambda: check([Machine("ssh://b"), Machine(uri)], NEW, OWN_NAMES))
    assert (error.key, error.machine, "#2029" in error.reason) == ("uri", uri, True)
    check([Machine(uri)], NEW)


@pytest.mark.parametrize(
    "uri", ["ssh://client2", "ssh://localhost:2222", "ssh://localhost?remote-store=/srv", "local?root=/srv", "/srv"]
)
def test_what_is_another_store_on_the_client_may_be_one(uri: str) -> None:
    check([Machine(uri)], NEW, OWN_NAMES)


# ---------------------------------------------------------------------------------------------------- parse


@pytest.mark.parametrize("version", VERSIONS)
def test_separators_comments_and_defaults(version: tuple[int, ...]) -> None:
    text = "# all\nb1\n\nssh://b2 - - - - - - -;ssh-ng://b3\tx,,y /k 0 3 , m - extra words\n#ssh://b4\n ssh://b5 # end"
    assert parse(text, nix_version=version) == [
        Machine("ssh://b1"),
        Machine("ssh://b2"),
        Machine("ssh-ng://b3", ("x", "y"), "/k", 0, 3.0, (), ("m",)),
        Machine("ssh://b5"),
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_semicolon_in_a_comment(version: tuple[int, ...]) -> None:
    old = version < (2, 28, 2) and version != (2, 24, 15)
    assert parse("ssh://a # old ; ssh://b", nix_version=version) == [Machine("ssh://a"), *[Machine("ssh://b")] * old]


@pytest.mark.parametrize("text", [" \n", "ssh://a ; ", "\r\n", "  # indented", "ssh://a ; # comment"])
@pytest.mark.parametrize("version", VERSIONS)
def test_blanks_alone_break_an_old_nix(text: str, version: tuple[int, ...]) -> None:
    if version < (2, 28, 2) and version != (2, 24, 15):
        error = refusal(lambda: parse("\n" + text, "/etc/nix/machines", version))
        assert (error.file, error.line, "blanks" in error.reason) == ("/etc/nix/machines", 2, True)
    else:
        assert parse(text, nix_version=version) == parse(text.partition(";")[0], nix_version=version)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("line", "key", "column", "reason"),
    [
        ("- x86_64-linux", "uri", 1, "no URI"),
        ("b - - eight", "max_jobs", 4, "no unsigned"),
        ("b - - -1", "max_jobs", 4, "no unsigned"),
        ("b - - 1.5", "max_jobs", 4, "no unsigned"),
        ("b - - 4294967296", "max_jobs", 4, "no unsigned"),
        ("b - - " + "9" * 6000, "max_jobs", 4, "no unsigned"),
        ("b - - ٣", "max_jobs", 4, "no unsigned"),
        ("b - - - -2", "speed_factor", 5, "-2"),
        ("b - - - fast", "speed_factor", 5, "fast"),
        ("b - - - nan", "speed_factor", 5, "nan"),
        ("b - - - inf", "speed_factor", 5, "inf"),
        ("b - - - 1e999", "speed_factor", 5, "1e999"),
        ("b ,", "systems", 2, "names no system"),
        ("b - - - - - - a_b", "public_host_key", 8, "not base64"),
    ],
)
def test_a_line_that_nix_refuses(line: str, key: str, column: int, reason: str, version: tuple[int, ...]) -> None:
    error = refusal(lambda: parse("# first\nssh://good\n" + line + "\n", "/etc/nix/machines", version))
    assert (error.file, error.line, error.key, error.column) == ("/etc/nix/machines", 3, key, column)
    assert COLUMNS[column - 1] == key
    assert reason in error.reason
    assert (
        f"machines file /etc/nix/machines, line 3, {'' if key == 'uri' else 'machine b, '}{key}, column {column}: "
        in str(error)
    )
    assert str(error).endswith("; " + error.hint)


@pytest.mark.parametrize(
    ("text", "number"), [("+4", 4), ("007", 7), ("0", 0), ("4294967295", 4294967295), ("0" * 50 + "1", 1)]
)
def test_numbers_as_nix_reads_them(text: str, number: int) -> None:
    assert parse(f"b - - {text}", nix_version=OLD)[0].max_jobs == number


def test_a_speed_as_each_nix_reads_it() -> None:
    assert [
        m.speed_factor for m in parse("a - - - 0\nb - - - 1.5\nc - - - .5;d - - - 2.\ne - - - 1e1", nix_version=NEW)
    ] == [
        1.0,
        1.5,
        0.5,
        2.0,
        10.0,
    ]
    assert refusal(lambda: parse("b - - - 1.5", nix_version=(2, 19, 4))).key == "speed_factor"


@pytest.mark.parametrize("tail", ["", "=", "==", "=rest that counts for nothing".replace(" ", "_")])
def test_a_host_key_with_or_without_padding_and_newline(tail: str) -> None:
    for line in (key_line(), key_line() + "\n"):
        encoded = base64.b64encode(line.encode()).decode().rstrip("=") + tail
        assert parse(f"b - - - - - - {encoded}")[0].public_host_key == key_line()


def test_a_host_key_need_not_be_text() -> None:
    (machine,) = parse("b - - - - - - " + base64.b64encode(b"\xff\xfe").decode())
    assert machine.public_host_key.encode("utf-8", "surrogateescape") == b"\xff\xfe"
    assert "no key" in refusal(lambda: parse("b - - - - - - A")).reason


# ---------------------------------------------------------------------------------------------------- includes


def reader(files: dict[str, str]) -> t.Callable[[str], str | None]:
    def read(path: str) -> str | None:
        if path == "/secret":
            raise PermissionError(13, "Permission denied", path)
        return files.get(path)

    return read


@pytest.mark.parametrize("version", VERSIONS)
def test_includes_in_their_place(version: tuple[int, ...]) -> None:
    files = {"/etc/nix/more": "b\n@even/more # relative to /\nd\n", "/even/more": "c"}
    text = "a\n@ /etc/nix/more \n@/missing;e"
    read = reader(files)
    assert [m.uri for m in parse(text, nix_version=version, read=read)] == ["ssh://" + name for name in "abcde"]


def test_an_indented_include() -> None:
    assert parse(" @/missing", nix_version=NEW, read=reader({})) == []
    error = refusal(lambda: parse("a\n @/missing", "/m", OLD, reader({})))
    assert (error.line, "indented" in error.reason) == (2, True)


def test_a_cycle_is_named() -> None:
    files = {"/a": "\n@/b", "/b": "# x\n\n@/./a"}
    error = refusal(lambda: parse(files["/a"], "/a", read=reader(files)))
    assert (error.file, error.line, "/a -> /b -> /a" in error.reason) == ("/b", 3, True)
    assert "includes itself" in str(refusal(lambda: parse("@/a", "/x/../a", read=reader(files))))


def test_the_same_file_twice_is_no_cycle() -> None:
    assert len(parse("@/b\n@/b", "/a", read=reader({"/b": "b"}))) == 2


def test_an_include_that_cannot_be_read() -> None:
    error = refusal(lambda: parse("@/secret", "/m", read=reader({})))
    assert (error.file, error.line, "Permission denied" in error.reason) == ("/m", 1, True)
    assert "not read here" in str(refusal(lambda: parse("@/b")))


def test_a_bad_line_in_an_included_file_names_that_file() -> None:
    error = refusal(lambda: parse("@/b", "/m", read=reader({"/b": "ok\nb - - x"})))
    assert (error.file, error.line, error.column) == ("/b", 2, 4)


# ---------------------------------------------------------------------------------------------------- merge


BY_HAND = """# our machines
@/etc/nix/more
ssh://hand  x86_64-linux   /k  # keep me
ssh-ng://b1 - - 4 # rack 3

ssh://other;ssh-ng://b2 - - 1;ssh-ng://b1
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_merging_keeps_what_is_not_named(version: tuple[int, ...]) -> None:
    given = [Machine("ssh-ng://b1", max_jobs=8), Machine("ssh-ng://b2"), Machine("ssh-ng://b3")]
    result = merge(BY_HAND, given, nix_version=version, read=reader({}))
    assert (
        result
        == """# our machines
@/etc/nix/more
ssh://hand  x86_64-linux   /k  # keep me
ssh-ng://b1 - - 8 1 - - - # rack 3

ssh://other;ssh-ng://b2 - - 1
ssh-ng://b3 - - 1 1 - - -
"""
    )
    assert merge(result, given, nix_version=version, read=reader({})) == result


@pytest.mark.parametrize("version", VERSIONS)
def test_taking_machines_out_again(version: tuple[int, ...]) -> None:
    gone = [Machine("ssh-ng://b1"), Machine("ssh-ng://b2"), Machine("ssh://hand"), Machine("ssh://unknown")]
    result = merge(BY_HAND, gone, remove=True, nix_version=version, read=reader({}))
    assert result == "# our machines\n@/etc/nix/more\n# keep me\n# rack 3\n\nssh://other\n"


def test_taking_out_a_machine_that_check_would_refuse() -> None:
    assert merge("ssh://a b\n", [Machine("ssh://a")], remove=True) == ""
    assert merge("ssh://b:22\nc", [Machine("ssh://b:22")], remove=True, nix_version=OLD) == "c\n"


def test_no_newline_at_the_end() -> None:
    assert merge("ssh://a", [Machine("ssh://b")]) == "ssh://a\nssh://b - - 1 1 - - -\n"
    assert merge("ssh://a", [Machine("ssh://a")]) == "ssh://a"
    assert merge("ssh://a\nssh://b", [Machine("ssh://b")], remove=True) == "ssh://a\n"


def test_a_bad_line_is_not_kept() -> None:
    error = refusal(lambda: merge("ssh://a\nssh://b - - x", [Machine("ssh://c")], file="/m"))
    assert (error.file, error.line, error.column) == ("/m", 2, 4)


@pytest.mark.parametrize("remove", [False, True])
def test_a_machine_in_an_included_file_cannot_be_merged(remove: bool) -> None:
    read = reader({"/more": "ssh://x;b1"})
    error = refusal(lambda: merge("\n@/more", [Machine("ssh://b1")], remove, "/m", read=read))
    assert (error.file, error.line, error.machine, "that file" in error.hint) == ("/m", 2, "ssh://b1", True)


# ---------------------------------------------------------------------------------------------------- properties


#: Text that comes near to a machines file, rather than noise alone.
NEAR = st.lists(
    st.sampled_from(
        list(" \t\r\n;#@,-=+.01e/:[]%?") + ["ssh://", "a", "b - - ", "@/m", "- ", "QUJD", "nan", "é", "\udcff", "\x00"]
    ),
    max_size=40,
).map("".join)


TEXTS = st.text(max_size=60) | NEAR


@given(MACHINE_LISTS, VERSION)
def test_parsing_what_was_rendered_gives_the_same(machines: list[Machine], version: tuple[int, ...]) -> None:
    text = render_file(machines, version)
    assert parse(text, nix_version=version) == machines
    assert [machine.line for machine in machines] == text.splitlines()


@given(MACHINES | FRACTIONS)
def test_a_new_nix_reads_fractions_as_they_were(machine: Machine) -> None:
    assert parse(machine.render(NEW), nix_version=NEW) == [machine]


@given(MACHINE_LISTS)
def test_what_the_oldest_nix_reads_every_nix_reads_alike(machines: list[Machine]) -> None:
    text = render_file(machines, OLDEST)
    first = parse(text, nix_version=VERSIONS[0])
    assert all(parse(text, nix_version=version) == first for version in VERSIONS)


@given(TEXTS, VERSION)
def test_no_text_raises_anything_else(text: str, version: tuple[int, ...]) -> None:
    try:
        machines = parse(text, "/m", version, reader({"/m": text}))
    except MachinesError as error:
        assert error.file == "/m"
        assert error.line is not None
        assert str(error).encode()
    else:
        # What was read is either fit to be written, and read again as the same, or refused.
        for machine in machines:
            try:
                assert parse(machine.render(version), nix_version=version) == [machine]
            except MachinesError as error:
                assert error.machine == machine.uri


@given(TEXTS, MACHINE_LISTS, VERSION, st.booleans())
def test_merging_is_what_it_says(text: str, machines: list[Machine], version: tuple[int, ...], remove: bool) -> None:
    read = reader({"/m": text})
    try:
        before = parse(text, "/m", version, read)
        result = merge(text, machines, remove, "/m", version, read)
    except MachinesError:
        return
    named = {identity(machine.uri) for machine in machines}
    after = parse(result, "/m", version, read)
    kept = [machine for machine in before if identity(machine.uri) not in named]
    assert [machine for machine in after if identity(machine.uri) not in named] == kept
    ours = [machine for machine in after if identity(machine.uri) in named]
    assert sorted(ours, key=repr) == ([] if remove else sorted(machines, key=repr))
    assert merge(result, machines, remove, "/m", version, read) == result


def test_ten_thousand_machines_in_a_second() -> None:
    machines = [
        Machine.from_dict(
            {
                **FULL,
                "uri": f"ssh-ng://nixremote@builder{n}",
                "public_host_key": key_line(body=struct.pack(">Q", n) * 4),
            }
        )
        for n in range(10_000)
    ]
    began = time.process_time()
    text = render_file(machines, OLD, OWN_NAMES)
    assert parse(text, "/etc/nix/machines", OLD) == machines
    assert time.process_time() - began < 1


TOML = """
version = 1
[machines.andesite]
uri = "ssh-ng://nix@andesite"
jobs = 3
"""


@pytest.mark.parametrize(
    "text", [TOML, "[machines]\n", "# a remark\n  [ machines . a ]\nuri = 'ssh://a'\n", '["machines".a]']
)
def test_toml_of_lix_is_named(text: str) -> None:
    with pytest.raises(MachinesError, match="this is TOML, which Lix 2.95"):
        parse(text, "/etc/nix/machines", LIX_READS_AS)
    with pytest.raises(MachinesError, match="exclusive: true"):
        merge(text, [Machine("ssh-ng://b1")], nix_version=LIX_READS_AS)


def test_lines_that_only_look_like_it() -> None:
    text = "ssh-ng://u@machines x86_64-linux # [machines.a]\n"
    assert [machine.uri for machine in parse(text)] == ["ssh-ng://u@machines"]


def test_lix_reads_lines_as_nix_did_before_2_28() -> None:
    """Its trim(line) has no effect and a ; ends a comment (Lix 2.90 to 2.95, machines.cc); speeds may be fractions."""
    found = parse("ssh://a - - 2 1.5 # x; ssh://b\n", None, LIX_READS_AS)
    assert [(machine.uri, machine.speed_factor) for machine in found] == [("ssh://a", 1.5), ("ssh://b", 1.0)]
