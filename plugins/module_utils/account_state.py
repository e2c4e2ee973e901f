# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Why sshd would not let an account in, and with which keys it would.

Pure: entries of the host's databases and texts of files are handed in.
"""

from __future__ import annotations

import re
import typing as t

_KEY = re.compile(r"(?:^|\s)((?:ssh|ecdsa|sk)-[a-z0-9@.-]+ AAAA[A-Za-z0-9+/]+=*)")


def refusal(
    user: str, shell_works: bool, shell: str, shadow: str | None, sshd: t.Mapping[str, str], today: int
) -> dict[str, str] | None:
    """C(reason) and C(message) for an account that no key opens; None where its keys count.

    C(shadow) is the account's line of /etc/shadow, None where it has none, C(sshd) what C(sshd -T) prints, C(today) the
    days since 1970. With PAM, sshd leaves a lock of the password alone, and PAM refuses what has expired.
    """
    if not shell_works:
        return {
            "reason": "account_shell",
            "message": f"the shell {shell} of account {user} is no program, so sshd refuses it",
        }
    fields = (shadow or "").split(":")
    if len(fields) < 9:
        return None
    password, changed, most, inactive, expires = fields[1], *(_number(fields[at]) for at in (2, 4, 6, 7))
    with_pam = sshd.get("usepam", "no") == "yes"
    if not with_pam and password.startswith(("!", "*LK*")):
        return {"reason": "account_locked", "message": f"the account {user} is locked, and sshd runs without PAM"}
    if expires is not None and today >= expires:
        return {"reason": "account_expired", "message": f"the account {user} expired {_ago(today - expires)}"}
    if not with_pam:
        return None
    if changed == 0:
        return {
            "reason": "account_expired",
            "message": f"the account {user} must get a new password before it may log in",
        }
    if changed is not None and most is not None and today > changed + most:
        since = today - changed - most
        how = ", and is inactive for it" if inactive is not None and since > inactive else ""
        return {"reason": "account_expired", "message": f"the password of account {user} expired {_ago(since)}{how}"}
    return None


def missing(user: str) -> dict[str, str]:
    """The refusal of an account that is not there."""
    return {"reason": "account_missing", "message": f"there is no account {user} on the builder"}


def key_files(effective: t.Mapping[str, str], user: str, home: str) -> list[str]:
    """The paths of the account's authorized_keys, by what C(sshd -T) prints for it."""
    files = []
    for word in effective.get("authorizedkeysfile", ".ssh/authorized_keys").split():
        if word != "none":
            path = re.sub("%([%hu])", lambda found: {"%": "%", "h": home, "u": user}[found.group(1)], word)
            files.append(path if path.startswith("/") else f"{home}/{path}")
    return files


def keys_of(text: str) -> list[str]:
    """The keys of an authorized_keys file, each as its type and base64 text."""
    lines = (line.strip() for line in text.splitlines())
    return [key for line in lines if not line.startswith("#") for key in _KEY.findall(line)[:1]]


def is_trusted(user: str, groups: t.Collection[str], trusted_users: t.Collection[str]) -> bool:
    """Whether Nix trusts an account (C(trusted-users): names, @groups, C(*))."""
    return any(word == "*" or word == user or (word.startswith("@") and word[1:] in groups) for word in trusted_users)


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch("-?[0-9]+", text) and int(text) >= 0 else None


def _ago(days: int) -> str:
    return "today" if days <= 0 else f"{days} day{'s' if days > 1 else ''} ago"
