# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Values as text of the Nix language: strings, numbers, lists, attribute sets, calls of functions.

Pure. What is rendered evaluates to the value again, by every Nix since 2.3 (its src/libexpr/lexer.l).
"""

from __future__ import annotations

import re
import typing as t

#: Values that render() takes. None is null.
Value = t.Union[str, int, float, bool, None, "Call", t.Sequence[t.Any], t.Mapping[str, t.Any]]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_'-]*")
_KEYWORDS = frozenset({"if", "then", "else", "assert", "with", "let", "in", "rec", "inherit", "or"})
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\r": "\\r", "\t": "\\t", "${": "\\${"}
_SPECIAL = re.compile(r'[\\"\r\t]|\$\{')
_WIDTH = 100
INT_MAX = 2**63 - 1


class NixExpressionError(Exception):
    """A value that Nix has no text for."""


class Call(t.NamedTuple):
    """A function, by the text that names it, and its one argument."""

    function: str
    argument: Value


def quote(text: str) -> str:
    """A string in double quotes. Its line ends stay line ends, so that a diff shows it line by line."""
    if "\0" in text:
        raise NixExpressionError(f"{text[:40]!r} holds a NUL character, which no string of Nix can")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NixExpressionError(f"{text[:40]!r} holds what is no character of Unicode") from None
    return '"' + _SPECIAL.sub(lambda found: _ESCAPES[found.group()], text) + '"'


def name(text: str) -> str:
    """The name of an attribute, quoted where it has to be."""
    return text if _NAME.fullmatch(text) and text not in _KEYWORDS else quote(text).replace("\n", "\\n")


def number(value: float) -> str | None:
    """A number as Nix reads it and prints it again without loss (toString: %f); None where it cannot, and below 0."""
    if value.is_integer():
        return str(int(value)) if 0 <= value < 2**53 else None
    text = f"{value:f}"
    return text.rstrip("0") if 0 < value < 1e9 and float(text) == value else None


def render(value: Value, indent: str = "") -> str:
    """The value's text. indent: that of the line on which it begins. Raises NixExpressionError."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        if not -INT_MAX <= value <= INT_MAX:
            raise NixExpressionError(f"{value} is too large for Nix")
        return str(value) if value >= 0 else f"({value})"
    if isinstance(value, float):
        text = number(value)
        if text is None:
            raise NixExpressionError(f"{value} is no number that Nix would print as it is")
        return text
    if isinstance(value, str):
        # A str of another class, such as Ansible's, is a plain one from here on.
        return quote(str(value))
    if isinstance(value, Call):
        return f"{value.function} {_argument(value.argument, indent)}"
    if isinstance(value, t.Mapping):
        return _set(value, indent)
    if isinstance(value, t.Sequence) and not isinstance(value, (bytes, bytearray)):
        return _list(value, indent)
    raise NixExpressionError(f"there is no way to write a {type(value).__name__} in Nix")


def _argument(value: Value, indent: str) -> str:
    text = render(value, indent)
    return f"({text})" if isinstance(value, Call) else text


def _list(values: t.Sequence[t.Any], indent: str) -> str:
    items = [_argument(value, indent + "  ") for value in values]
    line = " ".join(["[", *items, "]"])
    if "\n" not in line and len(line) + len(indent) <= _WIDTH:
        return line
    return "[\n" + "".join(f"{indent}  {item}\n" for item in items) + f"{indent}]"


def _set(values: t.Mapping[str, t.Any], indent: str) -> str:
    if not values:
        return "{ }"
    for key in values:
        if not isinstance(key, str):
            raise NixExpressionError(f"{key!r} is no name of an attribute")
    return "{\n" + bindings(values, indent + "  ") + f"{indent}}}"


def bindings(values: t.Mapping[str, t.Any], indent: str) -> str:
    """The lines C(name = value;) of an attribute set."""
    return "".join(f"{indent}{name(key)} = {render(value, indent)};\n" for key, value in values.items())
