# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The gate: the one program that sshd starts for a builder's account, as a POSIX shell script.

Pure: the script's text out of where Nix is and what may pass. The client's command is in C(SSH_ORIGINAL_COMMAND), where
sshd puts it whatever the client is; it is compared with whole lines and never split, expanded or run.
"""

from __future__ import annotations

import json
import re
import shlex
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils.files import HEADER

#: What Nix sends over ssh-ng and over ssh, to the letter (libstore/ssh-store.cc, legacy-ssh-store.cc; 2.8 to 2.34).
DAEMON = "nix-daemon --stdio"
SERVE = "nix-store --serve --write"

#: The load probe: one line of JSON, see LOAD_KEYS.
LOAD = "nixfleet-load"
LOAD_KEYS = ("load", "cpus", "pressure", "memory", "store")

#: What a refused command ends with: a shell's status for what it cannot run.
REFUSED = 126

#: How a refusal begins, on the client's stderr.
REFUSAL = "nixfleet-gate: refused: "

_TEXT = r"""#!/bin/sh
# @HEADER@
# sshd starts this for the builder's account, whatever the client asks for. It lets through what is listed at its end.
set -fu
PATH_FOR_NIX=${PATH-}
PATH=/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin

# Ends the login. What the client sent is shown with nothing but printable ASCII, and not all of it.
refuse() {
  shown=$(printf '%s' "${SSH_ORIGINAL_COMMAND-}" | LC_ALL=C tr -c ' -~' '?' | cut -c 1-200)
  case ${SSH_ORIGINAL_COMMAND-} in
    "$shown") ;;
    *) shown="$shown ... (${#SSH_ORIGINAL_COMMAND} characters)" ;;
  esac
  printf '%s\n' "nixfleet-gate: refused: '$shown'; this account runs nothing but: @ALLOWED@" >&2
  from=$(printf '%s' "${SSH_CONNECTION-}" | LC_ALL=C tr -c '0-9A-Za-z.:% ' '?' | cut -c 1-120)
  logger -p authpriv.notice -t "nixfleet-gate[$$]" -- "refused for $(id -un) from ${from%% *}: '$shown'" 2>/dev/null
  exit 126
}

# Becomes a program of Nix.
run() { # PROGRAM ARGUMENT...
  program=$1
  shift
  if [ ! -x "$program" ]; then
    printf '%s\n' "nixfleet-gate: $program: not found; run the role nixfleet.builders.nix_builder here again" >&2
    exit 127
  fi
  PATH=$PATH_FOR_NIX
  export PATH
  # The account's own nix.conf, should there be one in its home, has no say.
  NIX_USER_CONF_FILES=
  export NIX_USER_CONF_FILES
  exec @WRAPPER@"$program" "$@"
}

# A JSON number out of a word, or null.
number() { # WORD
  case ${1-} in
    '' | *[!0-9.]* | .* | *. | *.*.*) printf null ;;
    *) printf '%s' "$1" ;;
  esac
}

# KiB as bytes, or null.
bytes() { # WORD
  case ${1-} in
    '' | *[!0-9]* | ????????????????*) printf null ;;
    *) printf '%s' "$(($1 * 1024))" ;;
  esac
}

# Percent of the last ten seconds in which something waited, or null on a kernel that does not count it.
pressure() { # cpu|memory|io
  share=
  while read -r kind average _; do
    [ "$kind" != some ] || share=${average#avg10=}
  done 2>/dev/null <"/proc/pressure/$1"
  number "$share"
}

load() {
  one='' five='' fifteen='' total='' available='' size='' free=''
  read -r one five fifteen _ 2>/dev/null </proc/loadavg
  while read -r name value _; do
    case $name in
      MemTotal:) total=$value ;;
      MemAvailable:) available=$value ;;
    esac
  done 2>/dev/null </proc/meminfo
  cpus=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null)
  space=$(df -P -k /nix/store 2>/dev/null | {
    read -r _
    read -r _ size _ free _
    printf '"free": %s, "total": %s' "$(bytes "$free")" "$(bytes "$size")"
  })
  printf '{"load": [%s, %s, %s], ' "$(number "$one")" "$(number "$five")" "$(number "$fifteen")"
  printf '"cpus": %s, ' "$(number "$cpus")"
  printf '"pressure": {"cpu": %s, "memory": %s, "io": %s}, ' "$(pressure cpu)" "$(pressure memory)" "$(pressure io)"
  printf '"memory": {"available": %s, "total": %s}, ' "$(bytes "$available")" "$(bytes "$total")"
  printf '"store": {%s}}\n' "$space"
}

# Whole and to the letter: each of these is all that the client may send.
case ${SSH_ORIGINAL_COMMAND-} in
@CASES@
  *) refuse ;;
esac
"""


class GateError(Exception):
    """A gate that cannot be made."""


def allowed(serve: bool) -> list[str]:
    """The commands that the gate lets through."""
    return [DAEMON, *([SERVE] if serve else []), LOAD]


def render(
    nix_bin: str,
    *,
    serve: bool,
    wrapper: t.Sequence[str] = (),
    daemon_bin: str | None = None,
    own_settings: bool = False,
) -> str:
    """The script. nix_bin: Nix's programs' directory. wrapper: words to put in front of Nix's command. own_settings:
    whether the nix.conf in the account's home counts.

    daemon_bin: that of nix-daemon, where it is another one.

    With a wrapper, Nix may be where only the wrapper shows it, so the gate does not look for it then.
    """
    for word in (nix_bin, *wrapper):
        if not word or re.search(r"[\x00-\x1f\x7f]", word):
            raise GateError(f"the word {word!r} of the gate's command is empty, or has a control character")
    for path in (nix_bin, *wrapper[:1]):
        if not path.startswith("/"):
            raise GateError(f"{path!r} in the gate's command must be an absolute path")
    cases = []
    for command in allowed(serve):
        program, *arguments = command.split()
        directory = daemon_bin if daemon_bin and program == "nix-daemon" else nix_bin
        action = "load" if command == LOAD else shlex.join(["run", f"{directory}/{program}", *arguments])
        cases.append(f"  {shlex.quote(command)}) {action} ;;")
    text = _TEXT
    if wrapper:
        start, end = text.index('  if [ ! -x "$program" ]'), text.index("  PATH=$PATH_FOR_NIX")
        text = text[:start] + text[end:]
    if own_settings:
        start, end = text.index("  # The account's own nix.conf"), text.index("  exec @WRAPPER@")
        text = f"{text[:start]}  unset NIX_USER_CONF_FILES\n{text[end:]}"
    parts = {
        "HEADER": HEADER,
        "ALLOWED": ", ".join(allowed(serve)),
        "WRAPPER": "".join(f"{shlex.quote(word)} " for word in wrapper),
        "CASES": "\n".join(cases),
    }
    return re.sub(r"@([A-Z]+)@", lambda found: parts[found[1]], text)


def parse_load(line: str) -> dict[str, t.Any]:
    """The load probe's answer; GateError where it is none."""
    try:
        answer = json.loads(line)
    except ValueError as error:
        raise GateError(f"the load probe's answer is no JSON: {line[:200]!r}") from error
    if not isinstance(answer, dict) or tuple(answer) != LOAD_KEYS:
        raise GateError(f"the load probe's answer has not the keys {', '.join(LOAD_KEYS)}: {line[:200]!r}")
    return answer
