# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""sshd_config: which line counts. What sshd itself makes of it is tested on the fleet."""

from __future__ import annotations

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import sshd_config
from ansible_collections.nixfleet.builders.plugins.module_utils.sshd_config import SshdConfigError
from hypothesis import given
from hypothesis import strategies as st

MAIN = "/etc/ssh/sshd_config"
DROP_IN = "/etc/ssh/sshd_config.d/10-nixfleet.conf"
DEBIAN = """# a comment
Include /etc/ssh/sshd_config.d/*.conf

Port=2222
  UsePAM   yes
Match User git, Address 10.0.0.0/8
    SetEnv A=b
Match all
PrintMotd no
"""


def test_directives_know_their_line_and_match() -> None:
    found = {directive.keyword: directive for directive in sshd_config.parse(DEBIAN, MAIN)}
    assert found["port"].value == "2222"
    assert found["usepam"].place == f"{MAIN} line 5"
    assert found["setenv"].match == "user git, address 10.0.0.0/8"
    assert found["setenv"].conditional
    assert not found["printmotd"].conditional


@pytest.mark.parametrize(
    ("text", "conditional"),
    [
        ("Include /etc/ssh/sshd_config.d/*.conf\n", [False]),
        ('Include "/etc/ssh/sshd_config.d/*.conf"\n', [False]),
        ("Include sshd_config.d/*.conf\n", [False]),
        ("Include /etc/ssh/other.d/*.conf /etc/ssh/sshd_config.d/10-*.conf\n", [False]),
        ("Match User git\nInclude /etc/ssh/sshd_config.d/*.conf\n", [True]),
        ("Match User git\nMatch all\nInclude /etc/ssh/sshd_config.d/*.conf\n", [False]),
        ("Include /etc/ssh/sshd_config.d/*.txt\n", []),
        ("#Include /etc/ssh/sshd_config.d/*.conf\n", []),
    ],
)
def test_includes_are_found_with_their_condition(text: str, conditional: list[bool]) -> None:
    assert [found.conditional for found in sshd_config.find_includes(text, MAIN, DROP_IN)] == conditional


def test_only_a_newline_ends_a_line() -> None:
    found = sshd_config.parse("# a\x0cPort 1\r\nPort 2\r\n\u2028\nPort 3", MAIN)
    assert [(directive.line, directive.value) for directive in found] == [(2, "2"), (4, "3")]


def test_walk_follows_includes_and_keeps_the_match_around_them() -> None:
    files = {"/etc/ssh/a.conf": "MaxSessions 3\nMatch User x\nPermitTTY no\n", "/etc/ssh/b.conf": "PermitTTY yes\n"}
    text = "Include /etc/ssh/a.conf\nPort 1\nMatch User git\nInclude /etc/ssh/b.conf\n"
    walked = [
        (directive.keyword, directive.file, directive.match)
        for directive in sshd_config.walk(text, MAIN, lambda pattern: [(pattern, files[pattern])])
        if directive.keyword not in ("include", "match")
    ]
    assert walked == [
        ("maxsessions", "/etc/ssh/a.conf", ""),
        ("permittty", "/etc/ssh/a.conf", "user x"),
        ("port", MAIN, ""),
        ("permittty", "/etc/ssh/b.conf", "user git"),
    ]


def test_walk_ends_on_a_file_that_includes_itself() -> None:
    text = "Include /etc/ssh/sshd_config\n"
    assert len(list(sshd_config.walk(text, MAIN, lambda pattern: [(pattern, text)]))) == sshd_config.MAX_DEPTH + 1


def test_render_puts_globals_first_and_closes_the_block() -> None:
    text = sshd_config.render(
        "nixremote",
        {"PermitTTY": False, "SetEnv": ["A=b", "C=d"], "MaxSessions": 64},
        {"MaxStartups": "1:2:3"},
        "Header",
    )
    assert text == (
        "# Header\nMaxStartups 1:2:3\nMatch User nixremote\n"
        "    PermitTTY no\n    SetEnv A=b C=d\n    MaxSessions 64\nMatch all\n"
    )


@pytest.mark.parametrize(
    ("user", "settings"),
    [
        ("nix remote", {}),
        ("root,other", {}),
        ("*", {}),
        ("nixremote", {"Match": "all"}),
        ("nixremote", {"Include": "/tmp/x"}),
        ("nixremote", {"Permit TTY": "no"}),
        ("nixremote", {"PermitTTY": ""}),
        ("nixremote", {"PermitTTY": "no\nPermitRootLogin yes"}),
        ("nixremote", {"SetEnv": ["A=b # c"]}),
        ("nixremote", {"SetEnv": ['A="b"']}),
        ("nixremote", {"PermitTTY": "= no"}),
    ],
)
def test_render_refuses_what_would_mean_something_else(user: str, settings: dict[str, sshd_config.Value]) -> None:
    with pytest.raises(SshdConfigError):
        sshd_config.render(user, settings, {}, "Header")


@given(st.dictionaries(st.from_regex(r"\A[A-Z][a-zA-Z]{1,20}\Z"), st.one_of(st.booleans(), st.integers(), st.text())))
def test_what_is_rendered_is_parsed_again(settings: dict[str, sshd_config.Value]) -> None:
    try:
        text = sshd_config.render("nixremote", settings, {}, "Header")
    except SshdConfigError:
        return
    parsed = [(found.keyword, found.value) for found in sshd_config.parse(text, MAIN) if found.keyword != "match"]
    assert parsed == [
        (keyword.lower(), sshd_config.render_value(keyword, value).strip()) for keyword, value in settings.items()
    ]


@given(st.text())
def test_no_text_breaks_the_parser(text: str) -> None:
    list(sshd_config.walk(text, MAIN, lambda pattern: []))
    sshd_config.parse_effective(text)


def test_differing_names_what_sshd_has_instead() -> None:
    effective = sshd_config.parse_effective("permittty yes\nsetenv A=b\nsetenv C=d\nmaxsessions 64\n")
    wanted: dict[str, sshd_config.Value] = {
        "PermitTTY": False,
        "SetEnv": ["A=b", "C=d"],
        "MaxSessions": 64,
        "ForceCommand": "/bin/false",
    }
    assert sshd_config.differing(wanted, effective) == {"PermitTTY": "yes", "ForceCommand": None}


def test_explain_names_the_line_of_somebody_else() -> None:
    directives = list(
        sshd_config.walk(DEBIAN, MAIN, lambda pattern: [(DROP_IN, "SetEnv X=y\n"), ("/etc/ssh/z", "setenv Z=z")])
    )
    assert "/etc/ssh/z line 1 sets 'setenv Z=z'" in sshd_config.explain("SetEnv", DROP_IN, "nixremote", directives)
    assert "no line sets it" in sshd_config.explain("ForceCommand", DROP_IN, "nixremote", directives)


@pytest.mark.parametrize(
    ("effective", "barrier"),
    [
        ({}, None),
        ({"allowusers": "root admin"}, "AllowUsers"),
        ({"allowusers": "root nix*"}, None),
        ({"allowusers": "root nixremote@10.0.0.0/8"}, None),
        ({"denyusers": "nixremote"}, "DenyUsers"),
        ({"allowgroups": "wheel"}, "AllowGroups"),
        ({"allowgroups": "wheel nix-users"}, None),
        ({"denygroups": "nix-users"}, "DenyGroups"),
    ],
)
def test_an_account_that_sshd_keeps_out_is_noticed(effective: dict[str, str], barrier: str | None) -> None:
    assert sshd_config.shut_out("nixremote", ["nixremote", "nix-users"], effective) == barrier


def test_spell_out_names_the_files_and_keeps_the_lines() -> None:
    text = "# x\nInclude /etc/ssh/sshd_config.d/*.conf /etc/ssh/b\nInclude /etc/ssh/c\nMatch User git\n"
    text += "  Include sshd_config.d/1*\n"
    files = {"/etc/ssh/sshd_config.d/*.conf": ["/a b", DROP_IN], "/etc/ssh/b": ["/etc/ssh/b"]}
    spelled = sshd_config.spell_out(text, MAIN, [DROP_IN, "/nowhere"], lambda pattern: files.get(pattern, []))
    assert spelled == f'# x\nInclude "/a b" "{DROP_IN}" "/etc/ssh/b"\nInclude /etc/ssh/c\nMatch User git\n#\n'
