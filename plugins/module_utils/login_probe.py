# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What an account may do on a builder, asked over ssh by paramiko (the interface only, for now)."""

from __future__ import annotations

import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_config import Target

#: All checks, in the order in which they are reported.
CHECKS = (
    "host_key",
    "methods",
    "password",
    "keyboard_interactive",
    "wrong_key",
    "protocol",
    "shell",
    "command",
    "sftp",
    "scp",
    "pty",
    "agent",
    "x11",
    "tcp_forwarding",
    "socket_forwarding",
    "tunnel",
    "environment",
    "other_user",
)
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


class Verdict(t.NamedTuple):
    """What one check found."""

    name: str
    verdict: str
    evidence: str


class Findings(t.NamedTuple):
    """What all checks found. server: sshd's own line, "" where it was not reached."""

    target: Target
    checks: tuple[Verdict, ...]
    server: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.verdict == PASSED for check in self.checks)

    def as_dict(self) -> dict[str, t.Any]:
        """As a module returns it."""
        return {
            "passed": self.passed,
            "checks": [check._asdict() for check in self.checks],
            "server": self.server,
            "seconds": round(self.seconds, 1),
        }

    def complaint(self) -> str:
        """Which checks failed, and by what."""
        failed = "; ".join(f"{check.name}: {check.evidence}" for check in self.checks if check.verdict == FAILED)
        return f"the login {self.target} is not as it has to be: {failed}"


def account(host: str, port: int, user: str, ssh_key: str, public_host_key: str) -> Target:
    """The account to probe. Raises ValueError where the host key is no public key line."""
    raise NotImplementedError


def probe(target: Target, checks: t.Iterable[str], timeout: float) -> Findings:
    """Runs the checks. timeout: seconds for a connection, and for each answer. Raises ParamikoMissing, ValueError."""
    raise NotImplementedError
