# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What an account may do on a builder, proved from outside: a verdict for each check, with what sshd said.

All on one connection that ends in a login, so that what was refused before costs no penalty; other users need one of
their own each, which does (sshd_config(5), PerSourcePenalties). These are made only when no penalty is left of the one
before, and the end is waited for: whoever comes next finds none.
"""

from __future__ import annotations

import contextlib
import io
import random
import re
import secrets
import time
import typing as t
from dataclasses import replace

from ansible_collections.nixfleet.builders.plugins.module_utils import known_hosts
from ansible_collections.nixfleet.builders.plugins.module_utils.channel import ChannelError
from ansible_collections.nixfleet.builders.plugins.module_utils.login_session import (
    PROHIBITED,
    Attempt,
    Dropped,
    Ended,
    Field,
    Login,
    Opened,
    WrongHost,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.protocol import RemoteError
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh import paramiko_library
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_config import Target
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_keys import Keys
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_wire import SshError
from ansible_collections.nixfleet.builders.plugins.module_utils.store import Store
from ansible_collections.nixfleet.builders.plugins.module_utils.wire import ProtocolError

#: What is asked before the login, in this order.
PROOFS = ("methods", "password", "keyboard_interactive", "wrong_key")
#: What is asked after it.
REQUESTS = (
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
)
#: All checks, in the order in which they are reported.
CHECKS = ("host_key", *PROOFS, *REQUESTS, "other_user")
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"

#: Seconds that a connection costs which ends without a login (sshd_config(5), PerSourcePenalties: authfail,
#: invaliduser), with what it takes sshd to notice its end; and the OpenSSH that has begun to count.
PENALTY = 5.5
PENALTIES_SINCE = (9, 8)
#: Pauses before a connection is tried again that sshd drops: longer than the penalty of others may last.
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)

_DAEMON = "nix-daemon --stdio"
_SOCKET = "/nix/var/nix/daemon-socket/socket"
#: sshd's own words where PermitTunnel forbids a tunnel; without them it tried to make one.
_NO_TUNNEL = "rejected tunnel device forwarding"
#: sshd's words on what it does not forbid and cannot do: the home is not writable, there is no xauth.
_CANNOT = ("Agent forwarding disabled: ", "No xauth program")
#: sshd's goodbye after as many failures as MaxAuthTries says.
_TOO_MANY = "oo many authentication failures"
#: What stands for a reason where sshd forbids; where it tried, it names the error.
_NO_REASON = "open failed"
#: Variables of a client that would change what runs, or its messages.
VARIABLES = {
    "PATH": "/nonexistent",
    "LD_PRELOAD": "/nonexistent/nixfleet-probe.so",
    "LD_LIBRARY_PATH": "/nonexistent",
    "ENV": "/nonexistent/nixfleet-probe",
    "BASH_ENV": "/nonexistent/nixfleet-probe",
    "NIX_REMOTE": "unix:///nonexistent/nixfleet-probe",
    "NIX_CONF_DIR": "/nonexistent",
    "NIX_DAEMON_SOCKET_PATH": "/nonexistent/nixfleet-probe",
    "LANG": "xx_XX.nixfleet-probe",
    "LC_ALL": "xx_XX.nixfleet-probe",
}


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


def account(host: str, port: int, user: str, ssh_key: str, public_host_key: str, jump: Target | None = None) -> Target:
    """The account to probe. Raises ValueError where the host key is no public key line, or the key no file."""
    if known_hosts.key_from_line(public_host_key, "") is None:
        raise ValueError(f"public_host_key is no public key line (TYPE BASE64): {public_host_key[:60]!r}")
    try:
        with open(ssh_key, "rb"):
            pass
    except OSError as error:
        raise ValueError(f"the key {ssh_key} cannot be read: {error.strerror}") from error
    return Target(
        name=host,
        address=host,
        port=port,
        user=user,
        public_host_key=public_host_key,
        identity_files=(ssh_key,),
        agent_offers_all=False,
        jump=jump,
    )


def probe(
    target: Target,
    checks: t.Iterable[str],
    timeout: float,
    clock: t.Callable[[], float] = time.monotonic,
    sleep: t.Callable[[float], None] = time.sleep,
) -> Findings:
    """Runs the checks. timeout: seconds for a connection, and for each answer. Raises ParamikoMissing, ValueError."""
    wanted = set(checks) | {"host_key"}
    unknown = wanted.difference(CHECKS)
    if unknown:
        raise ValueError(f"there is no check {', '.join(sorted(unknown))}")
    return _Probe(target, wanted, timeout, clock, sleep).run()


# -------------------------------------------------------------------------------------------------------- verdicts


def login_verdict(name: str, attempt: Attempt, offered: t.Sequence[str], user: str) -> tuple[str, str]:
    """What a proof that is no good came to. offered: the methods that sshd named before, if it did."""
    method = {"wrong_key": "publickey"}.get(name, name.replace("_", "-"))
    goes_on = f" (it goes on with: {', '.join(attempt.methods)})" if attempt.methods else ""
    if attempt.outcome in ("in", "more"):
        what = {"methods": "without any proof", "wrong_key": "with a key made just now"}.get(
            name, "with a random answer"
        )
        return FAILED, f"sshd {'lets' if attempt.outcome == 'in' else 'begins to let'} {user} in {what}"
    if name == "methods":
        if attempt.outcome == "disabled" and attempt.methods == ("publickey",):
            return PASSED, "sshd offers publickey, and nothing else"
        if attempt.outcome == "disabled":
            return FAILED, f"sshd offers {', '.join(attempt.methods) or 'nothing at all'}"
        return FAILED, f"sshd does not say what it offers: {attempt.said}"
    if attempt.outcome == "disabled":
        return PASSED, f"sshd does not take the method {method}{goes_on}"
    if name == "wrong_key" and (attempt.outcome == "denied" or _TOO_MANY in attempt.said):
        return PASSED, "sshd takes publickey, and refuses a key made just now"
    if attempt.outcome == "lost" and offered and method not in offered:
        return PASSED, f"sshd ends the connection: {attempt.said}; it offers {', '.join(offered)}"
    if attempt.outcome == "lost":
        return FAILED, f"sshd does not say that it refuses {method}, the connection ends: {attempt.said}"
    return FAILED, f"sshd takes {method} from {user}: it looked at a random answer before it refused that"


def program_verdict(ended: Ended, ran: bool, told: bool = True) -> tuple[str, str]:
    """What a program came to that is to be refused. ran: whether its output or exit status is that of the program.

    told: whether it would surely have given itself away; if not, an exit status of 0 counts as having run.
    """
    if not ended.granted:
        return PASSED, "sshd refuses the request"
    said = shown(ended)
    if ran:
        return FAILED, f"it was run: {said}"
    if not ended.over:
        return FAILED, f"it was started and did not end: {said}"
    if ended.status == 0 and not told:
        return FAILED, f"something was run, and ended well: {said}"
    if ended.status == 127:
        return FAILED, f"the account's shell looked for it: {said}"
    return PASSED, f"it was not run: {said}"


def opened_verdict(opened: Opened) -> tuple[str, str]:
    """What a forwarded connection came to that was not opened."""
    if opened.code == PROHIBITED:
        return PASSED, f"refused: {opened.said}"
    return FAILED, f"not refused, sshd tried to connect: {opened.said}"


def shown(ended: Ended) -> str:
    """What a program left, in one line."""
    status = "no exit status" if ended.status is None else f"exit status {ended.status}"
    texts = [
        f"{name} {text!r}" for name, text in (("stdout", _text(ended.stdout)), ("stderr", _text(ended.stderr))) if text
    ]
    return ", ".join((status, *texts))


def has_penalties(server: str) -> bool:
    """Whether a server that names itself so counts failed logins against the client's address."""
    found = re.match(r"SSH-2\.0-OpenSSH_(\d+)\.(\d+)", server)
    return found is not None and (int(found.group(1)), int(found.group(2))) >= PENALTIES_SINCE


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace").strip()[:300]


# -------------------------------------------------------------------------------------------------------- the probe


class _Unreachable(Exception):
    """There is no connection, so there are no more checks. check: the one that this fails."""

    def __init__(self, check: str, reason: str) -> None:
        super().__init__(reason)
        self.check = check


class _Probe:
    def __init__(
        self,
        target: Target,
        wanted: t.Container[str],
        timeout: float,
        clock: t.Callable[[], float],
        sleep: t.Callable[[float], None],
    ) -> None:
        self._target = target
        self._wanted = [check for check in CHECKS if check in wanted]
        self._timeout = timeout
        self._clock = clock
        self._sleep = sleep
        self._found: dict[str, tuple[str, str]] = {}
        self._server = ""
        self._pardoned = clock()
        self._login: Login | None = None
        self._offered: tuple[str, ...] = ()
        self._key: t.Any = None

    def run(self) -> Findings:
        start = self._clock()
        keys = Keys(paramiko_library(), self._target, lambda: self._timeout)
        self._key = next((key for _label, key in keys.offers()), None)
        if self._key is None:
            raise ValueError("; ".join(keys.remarks))
        why = "not tried"
        others = ["root", f"nixfleet-nobody-{secrets.token_hex(4)}"] if "other_user" in self._wanted else []
        others = [user for user in others if user != self._target.user]
        refused: list[str] = []
        try:
            if others:
                # The first before the rest, which then runs while its penalty passes.
                refused.append(self._try_other(others[0]))
            self._prove()
            self._request()
            if self._login is not None:
                # What ends without a login costs.
                with contextlib.suppress(_Unreachable):
                    self._log_in()
            self._hang_up()
            for user in others[1:]:
                refused.append(self._try_other(user))
            if others:
                bad = [text for text in refused if not text.startswith("refused")]
                self._found["other_user"] = FAILED if bad else PASSED, "; ".join(bad or refused)
        except _Unreachable as error:
            self._found[error.check] = FAILED, str(error)
            why = f"not tried, as {error.check} failed"
        finally:
            self._hang_up()
            self._wait_for_pardon()
        checks = tuple(Verdict(check, *self._found.get(check, (SKIPPED, why))) for check in self._wanted)
        return Findings(self._target, checks, self._server, self._clock() - start)

    # connections

    def _connect(self, target: Target, check: str) -> Login:
        """A connection with a checked host key. check: what fails where that has been checked before, and now is none.

        Raises _Unreachable.
        """
        if "host_key" not in self._found:
            check = "host_key"
        for pause in (*PAUSES, None):
            login = Login(target, self._timeout)
            try:
                key = login.connect()
            except Dropped as error:
                login.close()
                if pause is None:
                    raise _Unreachable(
                        check,
                        f"sshd drops each connection before it says anything ({error.reason}): too many logins"
                        " (MaxStartups), or a penalty for this address (PerSourcePenalties)",
                    ) from error
                self._sleep(pause)
            except WrongHost as error:
                login.close()
                self._server = login.server
                raise _Unreachable("host_key", error.reason) from error
            except SshError as error:
                login.close()
                raise _Unreachable(check, error.reason) from error
            else:
                self._server = login.server
                self._found["host_key"] = PASSED, f"it shows {key}, as pinned"
                return login
        raise _Unreachable(check, "no connection")

    def _refused_login(self, login: Login) -> None:
        """A connection ended without a login, which costs."""
        login.close()
        if has_penalties(login.server):
            self._pardoned = max(self._pardoned, self._clock()) + PENALTY

    def _wait_for_pardon(self) -> None:
        left = self._pardoned - self._clock()
        if left > 0:
            self._sleep(left)

    def _hang_up(self) -> None:
        if self._login is not None:
            self._login.close()
            self._login = None

    def _try_other(self, user: str) -> str:
        """What comes of another user's name with this key; begins with "refused" where it does not open that."""
        self._wait_for_pardon()
        login = self._connect(replace(self._target, user=user), "other_user")
        attempt = login.attempt(lambda transport: transport.auth_publickey(user, self._key))
        if attempt.outcome in ("in", "more"):
            login.close()
            return f"the key opens {user}" + ("" if attempt.outcome == "in" else ", with another proof")
        self._refused_login(login)
        if attempt.outcome == "lost" and _TOO_MANY not in attempt.said:
            return f"the connection was lost before an answer for {user}: {attempt.said}"
        what = {"denied": "the key", "disabled": f"all but {', '.join(attempt.methods)}"}.get(
            attempt.outcome, attempt.said
        )
        return f"refused as {user}: {what}"

    # before the login

    def _prove(self) -> None:
        """The proofs that are to fail, then the one that is not, on one connection if sshd's MaxAuthTries lets us."""
        proofs: dict[str, t.Callable[[t.Any], object]] = {
            "methods": lambda transport: transport.auth_none(self._target.user),
            "password": lambda transport: transport.auth_password(
                self._target.user, secrets.token_urlsafe(16), fallback=False
            ),
            "keyboard_interactive": lambda transport: transport.auth_interactive(
                self._target.user, lambda _title, _text, prompts: [secrets.token_urlsafe(16) for _prompt in prompts]
            ),
            "wrong_key": lambda transport: transport.auth_publickey(self._target.user, _new_key()),
        }
        fresh = False
        for name in PROOFS:
            if name not in self._wanted:
                continue
            attempt = Attempt("lost", (), "")
            while attempt.outcome == "lost":
                if self._login is None:
                    self._login = self._connect(self._target, name)
                    fresh = True
                attempt = self._login.attempt(proofs[name])
                if attempt.outcome == "lost":
                    self._refused_login(self._login)
                    self._login = None
                    if fresh:
                        break
            fresh = False
            if attempt.outcome in ("in", "more"):
                self._hang_up()
            if name == "methods":
                self._offered = attempt.methods
            self._found[name] = login_verdict(name, attempt, self._offered, self._target.user)

    def _log_in(self) -> Login:
        """The connection, logged in. Raises _Unreachable where the key is refused."""
        for _try in range(2):
            if self._login is None:
                self._login = self._connect(self._target, "protocol")
            if self._login.logged_in:
                return self._login
            attempt = self._login.attempt(lambda transport: transport.auth_publickey(self._target.user, self._key))
            if attempt.outcome == "in":
                return self._login
            self._refused_login(self._login)
            self._login = None
            if attempt.outcome != "lost":
                break
        said = attempt.said or f"it goes on with: {', '.join(attempt.methods)}"
        raise _Unreachable("protocol", f"the key of the client does not open {self._target.user}: {said}")

    # after the login

    def _request(self) -> None:
        for name in REQUESTS:
            if name not in self._wanted:
                continue
            login = self._log_in()
            try:
                self._found[name] = getattr(self, "_" + name)(login)
            except (SshError, ChannelError) as error:
                self._found[name] = FAILED, error.reason
            if not login.alive:
                self._hang_up()

    def _protocol(self, login: Login) -> tuple[str, str]:
        return self._talk(login, {})

    def _talk(self, login: Login, variables: t.Mapping[str, str]) -> tuple[str, str]:
        channel = login.stream(_DAEMON, variables)
        try:
            store = Store(channel, self._timeout)
            trust = {None: "", True: ", which trusts us", False: ", which does not trust us"}[store.trusted]
            heard = channel.stderr_tail().strip()
            if variables and heard:
                return FAILED, f"with the client's variables {_DAEMON} complains: {heard[:300]}"
            spoken = f"protocol {store.version[0]}.{store.version[1]}"
            return PASSED, f"{_DAEMON} answers: Nix {store.nix_version or '?'}, {spoken}{trust}"
        except (RemoteError, ProtocolError, ChannelError) as error:
            return FAILED, f"{_DAEMON} does not answer as Nix: {getattr(error, 'reason', error)}"
        finally:
            channel.close()

    def _shell(self, login: Login) -> tuple[str, str]:
        secret, command = _riddle()
        ended = login.run("shell", stdin=command.encode() + b"\n")
        return program_verdict(ended, _ran(ended, secret))

    def _command(self, login: Login) -> tuple[str, str]:
        secret, command = _riddle()
        evidence = ""
        for text in (
            command,
            f"{_DAEMON}; {command}",
            f"{_DAEMON}\n{command}",
            f"{_DAEMON} $({command} >&2)",
            f"nix-store --serve --write && {command}",
            f"{_DAEMON} --version",
        ):
            ended = login.run("exec", text)
            verdict, what = program_verdict(ended, _ran(ended, secret) or b"(Nix)" in ended.stdout)
            if verdict != PASSED:
                return verdict, f"{text!r}: {what}"
            evidence = evidence or f"{text!r}: {what}"
        return PASSED, evidence + "; five others with Nix's own before them as well"

    def _sftp(self, login: Login) -> tuple[str, str]:
        # SSH_FXP_INIT, version 3; the answer would be SSH_FXP_VERSION (draft-ietf-secsh-filexfer-02, 4).
        ended = login.run("subsystem", "sftp", stdin=b"\x00\x00\x00\x05\x01\x00\x00\x00\x03", answer=5)
        if ended.stdout[4:5] == b"\x02":
            return FAILED, "the subsystem sftp answers with its version"
        return program_verdict(ended, False, told=False)

    def _scp(self, login: Login) -> tuple[str, str]:
        evidence = ""
        # Its first byte: a file's header, "ready", or scp's own complaint.
        for command, answers in (("scp -f /etc/passwd", b"C\x01\x02"), ("scp -t /dev/null", b"\x00\x01\x02")):
            ended = login.run("exec", command, stdin=b"\x00")
            if ended.stdout[:1] and ended.stdout[:1] in answers:
                return FAILED, f"{command!r} was run, and speaks scp's protocol"
            verdict, what = program_verdict(ended, False, told=False)
            evidence = evidence or f"{command!r}: {what}"
            if verdict != PASSED:
                return verdict, f"{command!r}: {what}"
        return PASSED, evidence

    def _pty(self, login: Login) -> tuple[str, str]:
        return _granted(login, ("pty-req",), "xterm", 80, 24, 0, 0, b"\x00")

    def _agent(self, login: Login) -> tuple[str, str]:
        return _granted(login, ("auth-agent-req@openssh.com", "agent-req"))

    def _x11(self, login: Login) -> tuple[str, str]:
        return _granted(login, ("x11-req",), False, "MIT-MAGIC-COOKIE-1", secrets.token_hex(16), 0)

    def _tcp_forwarding(self, login: Login) -> tuple[str, str]:
        # sshd itself listens there.
        place = f"127.0.0.1:{self._target.port}"
        opened = login.open("direct-tcpip", "127.0.0.1", self._target.port, "127.0.0.1", 0)
        if opened.channel is not None:
            heard = b""
            with contextlib.suppress(Exception):
                heard = opened.channel.recv(256)
            opened.channel.close()
            return FAILED, f"direct-tcpip to {place} was opened" + (f" and answers {_text(heard)}" if heard else "")
        verdict, what = opened_verdict(opened)
        if verdict != PASSED:
            return verdict, f"direct-tcpip to {place}: {what}"
        if login.ask_globally("tcpip-forward", "127.0.0.1", 0):
            return FAILED, "tcpip-forward of a port on 127.0.0.1 was granted; it ends with this connection"
        return PASSED, f"direct-tcpip to {place}: {what}; tcpip-forward: refused"

    def _socket_forwarding(self, login: Login) -> tuple[str, str]:
        # One that is there, and that the account may use: where it is not opened, that is a refusal.
        opened = login.open("direct-streamlocal@openssh.com", _SOCKET, "", 0)
        if opened.channel is not None:
            opened.channel.close()
            return FAILED, f"direct-streamlocal to {_SOCKET} was opened"
        if opened.code != PROHIBITED and not opened.said.startswith(_NO_REASON):
            return FAILED, f"direct-streamlocal to {_SOCKET} is not forbidden, sshd tried to connect: {opened.said}"
        path = f"/tmp/nixfleet-probe-{secrets.token_hex(8)}"
        if login.ask_globally("streamlocal-forward@openssh.com", path):
            login.ask_globally("cancel-streamlocal-forward@openssh.com", path)
            return FAILED, f"streamlocal-forward of {path} was granted"
        return PASSED, f"direct-streamlocal to {_SOCKET}: {opened.said}; streamlocal-forward: refused"

    def _tunnel(self, login: Login) -> tuple[str, str]:
        evidence = ""
        for mode, name in ((1, "point-to-point"), (2, "ethernet")):
            # 0x7fffffff: any device.
            opened = login.open("tun@openssh.com", mode, 0x7FFFFFFF)
            if opened.channel is not None:
                opened.channel.close()
                return FAILED, f"a tunnel ({name}) was opened"
            if _NO_TUNNEL not in opened.notes and opened.code != PROHIBITED:
                return FAILED, f"a tunnel ({name}) is not forbidden, sshd only could not make its device: {opened.said}"
            evidence = f"{opened.said}, {opened.notes}"
        return PASSED, f"refused: {evidence}"

    def _environment(self, login: Login) -> tuple[str, str]:
        taken = [name for name, value in VARIABLES.items() if login.granted("env", name, value)[0]]
        if taken:
            return FAILED, f"sshd takes {', '.join(taken)} from the client (AcceptEnv)"
        verdict, what = self._talk(login, VARIABLES)
        if verdict != PASSED:
            return verdict, f"with {', '.join(VARIABLES)} from the client: {what}"
        return PASSED, f"sshd refuses {', '.join(VARIABLES)}; with them {what}"


def _granted(login: Login, kinds: t.Sequence[str], *fields: Field) -> tuple[str, str]:
    for kind in kinds:
        granted, notes = login.granted(kind, *fields)
        if granted:
            return FAILED, f"sshd grants {kind}"
        if any(words in notes for words in _CANNOT):
            return FAILED, f"sshd does not forbid {kind}, it only could not do it: {notes}"
    return PASSED, f"sshd refuses {', '.join(kinds)}"


def _riddle() -> tuple[str, str]:
    """A number, and the command that prints it without having it in itself, for any shell; its exit status is 73."""
    first, second = random.randrange(10_000, 40_000), random.randrange(10_000, 40_000)
    return str(first * second), f"expr {first} '*' {second}; exit 73"


def _ran(ended: Ended, secret: str) -> bool:
    return ended.status == 73 or secret.encode() in ended.stdout + ended.stderr


def _new_key() -> t.Any:
    """A key that nobody has let in; it is in memory only."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    text = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    return paramiko_library().Ed25519Key(file_obj=io.StringIO(text.decode()))
