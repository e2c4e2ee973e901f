# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""nix.conf: its text in both directions, by Nix's own rules (src/libutil/configuration.cc, the same in 2.8 to 2.36).

A line ends at a newline; C(#) starts a comment anywhere; tokens stand between blanks, tabs and carriage returns, and
C(=) is a token of its own; nothing can be quoted or continued. Pure: files come in as texts or by a function.
"""

from __future__ import annotations

import os.path
import re
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils.signing import SigningError, parse_public

#: Settings whose values are secrets. A drop-in is world-readable, as every user's Nix reads it.
SECRET_SETTINGS = frozenset({"access-tokens"})

#: First line of a main file that did not exist before; a file that holds nothing else any more is removed again.
MADE_BY_US = "# Made by the Ansible collection nixfleet.builders, to include the files named here."

_HIDDEN = "********"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_BLANKS = re.compile(r"[^ \t\r\n]+")
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]*:[^/@\s]*(?=@)")


class NixConfError(Exception):
    """Text that Nix would not read, or a setting that cannot be written.

    C(file) is a path or a setting's name; C(line) and C(column) count from 1, and are 0 for a setting.
    """

    def __init__(self, reason: str, file: str, line: int = 0, column: int = 0) -> None:
        place = f"{file}:{line}:{column}" if line else file
        super().__init__(f"{place}: {reason}")
        self.file = file
        self.line = line
        self.column = column
        self.reason = reason


class Setting(t.NamedTuple):
    """C(name = value); the value's words with one blank between them, as Nix keeps it. Empty is a value."""

    name: str
    value: str
    line: int


class Include(t.NamedTuple):
    """C(include path), or C(!include path), which may name a file that does not exist."""

    path: str
    optional: bool
    line: int


class Assignment(t.NamedTuple):
    """One setting as Nix meets it, includes followed."""

    name: str
    value: str
    file: str
    line: int


Entry = t.Union[Setting, Include]


def _tokens(line: str) -> list[tuple[int, str]]:
    """A line's tokens with their columns (from 1), its comment cut off."""
    return [(found.start() + 1, found.group()) for found in _BLANKS.finditer(line.split("#", 1)[0])]


def _include_of(line: str) -> str | None:
    """The path that a line includes, None for another line."""
    tokens = [token for _column, token in _tokens(line)]
    return tokens[1] if len(tokens) == 2 and tokens[0] in ("include", "!include") else None


def parse(text: str, file: str = "nix.conf") -> list[Entry]:
    """The settings and includes of a text in their order. NixConfError where Nix would stop.

    The reasons never repeat more than a setting's name, as the rest of a line can be a secret.
    """
    entries: list[Entry] = []
    for number, line in enumerate(text.split("\n"), 1):
        tokens = _tokens(line)
        if not tokens:
            continue
        column, name = tokens[0]
        words = [token for _column, token in tokens[1:]]
        if name in ("include", "!include"):
            if len(words) != 1:
                reason = f"{name} takes one path, and this one has {len(words)} words (no path can hold a blank)"
                raise NixConfError(reason, file, number, tokens[2][0] if len(tokens) > 2 else column)
            entries.append(Include(words[0], name == "!include", number))
        elif words and words[0] == "=":
            entries.append(Setting(name, " ".join(words[1:]), number))
        else:
            reason = (
                f"the '=' after {name.split('=')[0]!r} must stand between blanks, as in 'name = value'"
                if "=" in line.split("#", 1)[0]
                else f"there is no '=' after {name!r}, and no line can be continued on the next"
            )
            raise NixConfError(reason, file, number, tokens[1][0] if words else column + len(name))
    return entries


def settings_of(text: str, file: str = "nix.conf") -> dict[str, str]:
    """The settings of a text without its includes; of a name given twice the later one."""
    return {entry.name: entry.value for entry in parse(text, file) if isinstance(entry, Setting)}


def text_of(name: str, value: t.Any) -> str:
    """A value as Nix will keep it: true/false, a number's digits, a list's items with a blank between them.

    Runs of blanks in a string become one, as Nix makes them. NixConfError, naming the setting, for anything that the
    file cannot hold.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return " ".join(word for word in _clean(name, value).split(" ") if word)
    if isinstance(value, (list, tuple)):
        return " ".join(_item(name, item) for item in value)
    if value is None:
        raise NixConfError("has no value; leave it out, or give '' to set it to nothing", name)
    raise NixConfError(
        f"has a value of type {type(value).__name__}; Nix takes a string, a number, a boolean or a list", name
    )


def _item(name: str, item: t.Any) -> str:
    if isinstance(item, bool) or not isinstance(item, (str, int)):
        raise NixConfError(f"has an item of type {type(item).__name__} in its list; items are strings", name)
    text = _clean(name, str(item))
    if not text:
        raise NixConfError("has an empty item in its list, which Nix would drop", name)
    if " " in text:
        raise NixConfError(f"has a blank in the item {text!r}, of which Nix would make several items", name)
    return text


def _clean(name: str, text: str) -> str:
    for char in text:
        code = ord(char)
        if char == "\n":
            raise NixConfError("holds a newline; a setting is one line, and none can be continued", name)
        if code < 0x20 or 0x7F <= code < 0xA0:
            raise NixConfError(f"holds the control character {char!r}", name)
        if char == "#":
            raise NixConfError("holds a '#', which starts a comment everywhere; nothing can be quoted", name)
        if 0xD800 <= code < 0xE000:
            raise NixConfError(f"holds {char!r}, which is no character", name)
    return text


def base_name(name: str) -> str:
    """The setting that C(name) sets or, as C(extra-…), appends to."""
    return name[len("extra-") :] if name.startswith("extra-") else name


def render(settings: t.Mapping[str, t.Any], header: str = "") -> str:
    """The text of settings (str, int, bool or list values) under a comment, C(header).

    Sorted by name, C(extra-x) after C(x), which would otherwise take back what it appends. NixConfError for a name or
    a value that cannot be written.
    """
    lines = [f"# {line}" for line in header.splitlines()]
    for name in sorted(settings, key=lambda key: (base_name(str(key)), str(key).startswith("extra-"))):
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name == "include":
            raise NixConfError("is no name of a setting (letters, digits, '-', '_', '.')", repr(name))
        lines.append(f"{name} = {text_of(name, settings[name])}".rstrip(" "))
    return "".join(line + "\n" for line in lines)


def check_values(settings: t.Mapping[str, str]) -> None:
    """NixConfError for values (texts) that Nix takes as they are, and fails on when it needs them."""
    for name, value in settings.items():
        if base_name(name) in ("trusted-public-keys", "binary-cache-public-keys"):
            for word in value.split():
                try:
                    parse_public(word)
                except SigningError as error:
                    raise NixConfError(f"{word!r} is no public key, so Nix would trust none: {error}", name) from error
        elif base_name(name) == "secret-key-files":
            for word in value.split():
                if not word.startswith("/"):
                    raise NixConfError(f"{word!r} is no absolute path", name)


def secret_in(name: str, text: str) -> str | None:
    """What in a setting (a value's text) is a secret, for a message; None for most settings."""
    if base_name(name) in SECRET_SETTINGS:
        return f"{name} is a secret"
    return f"{name} holds a URL with a password" if _CREDENTIALS.search(text) else None


def redact(text: str) -> str:
    """A text to show: without the values of secret settings and without passwords in URLs."""
    lines = text.split("\n")
    for index, line in enumerate(lines):
        tokens = _tokens(line)
        name = re.split("[=#]", tokens[0][1], maxsplit=1)[0] if tokens else ""
        if base_name(name) in SECRET_SETTINGS:
            start = tokens[0][0] - 1 + len(name)
            lines[index] = f"{line[:start]} = {_HIDDEN}"
    return _CREDENTIALS.sub(_HIDDEN, "\n".join(lines))


def resolve(path: str, including: str) -> str:
    """The file that an include in C(including) means: relative to that file's directory, without C(.) and C(..)."""
    return normal(os.path.join(os.path.dirname(including), path))


def normal(path: str) -> str:
    """A path without C(.), C(..) and doubled slashes."""
    return re.sub("^//", "/", os.path.normpath(path))


def include_line(target: str, main: str) -> str:
    """The line of C(main) that includes C(target): relative where it lies below, so that the tree can be moved."""
    directory = os.path.dirname(main)
    path = os.path.relpath(target, directory) if target.startswith(directory.rstrip("/") + "/") else target
    if not _BLANKS.fullmatch(path) or "#" in path or not path.isprintable():
        raise NixConfError("this path cannot be included, as it holds a blank, a '#' or a control character", target)
    return f"!include {path}"


def includes(text: str, main: str, target: str) -> list[int]:
    """The lines (from 1) of C(main)'s text that include C(target), however they are written or indented."""
    wanted = normal(target)
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        path = _include_of(line)
        if path is not None and resolve(path, main) == wanted:
            found.append(number)
    return found


def with_include(text: str | None, main: str, target: str) -> str:
    """C(main)'s text (None: no file) with its last line including C(target), unless one already does.

    A text without a newline at its end gets none: that is how C(without_include) knows to take the one before away.
    """
    line = include_line(target, main)
    if text is None:
        return f"{MADE_BY_US}\n{line}\n"
    if includes(text, main, target):
        return text
    if text and not text.endswith("\n"):
        return f"{text}\n{line}"
    return f"{text}{line}\n"


def without_include(text: str, main: str, target: str) -> str | None:
    """C(main)'s text without the lines that include C(target); None where C(with_include) had made the file."""
    numbers = includes(text, main, target)
    lines = text.split("\n")
    kept = "\n".join(line for number, line in enumerate(lines, 1) if number not in numbers)
    return None if numbers and kept in (MADE_BY_US, MADE_BY_US + "\n") else kept


def walk(file: str, read: t.Callable[[str], str | None], _open: tuple[str, ...] = ()) -> t.Iterator[Assignment]:
    """All settings from C(file) on in the order in which Nix applies them, includes followed.

    C(read) gives a file's text, None for a file that is not there. NixConfError for a syntax error, a file that must
    be there, and files that include each other, in which Nix would never come to an end.
    """
    for entry in parse(read(file) or "", file):
        if isinstance(entry, Setting):
            yield Assignment(entry.name, entry.value, file, entry.line)
            continue
        path = resolve(entry.path, file)
        if path == file or path in _open:
            raise NixConfError(f"includes {path}, which includes this file", file, entry.line, 1)
        if read(path) is not None:
            yield from walk(path, read, (*_open, file))
        elif not entry.optional:
            raise NixConfError(f"includes {path}, which does not exist", file, entry.line, 1)
