# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An sshd that paramiko plays, which refuses what it is not told to allow; a scenario tries the fleet's real ones."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import typing as t

import paramiko
from ansible_collections.nixfleet.builders.plugins.module_utils.wire import ProtocolError, Reader
from ansible_collections.nixfleet.builders.tests.support.played_store import PlayedStore

HOST_KEY = paramiko.ECDSAKey.generate()
HOST_LINE = f"{HOST_KEY.get_name()} {HOST_KEY.get_base64()}"
OTHER_KEY = paramiko.ECDSAKey.generate()
OTHER_LINE = f"{OTHER_KEY.get_name()} {OTHER_KEY.get_base64()}"

#: A gate's answer to what it does not know.
REFUSAL = b"nixfleet-gate: refused: that\n"


class PlayedLogin:
    """methods: what is offered. keys: blobs that are let in, by user; any_key: all are; open_door: no proof is wanted.

    allow: kinds of requests and channels that are granted. answers: stdout, stderr and exit status by how the command
    begins, the longest counts; others are refused as by a gate. store: what nix-daemon --stdio is. tries: failed proofs
    after which it hangs up. drops: so many connections are closed at once. silent: programs say nothing and do not end.
    """

    def __init__(self, version: str = "SSH-2.0-OpenSSH_9.2p1 Played") -> None:
        self.version = version
        self.methods = ["publickey"]
        self.keys: dict[str, set[bytes]] = {}
        self.any_key = False
        self.open_door = False
        self.allow: set[str] = set()
        self.answers: dict[str, tuple[bytes, bytes, int]] = {}
        self.store: PlayedStore | None = PlayedStore()
        self.tries = 6
        self.drops = 0
        self.silent = False
        self.connections = 0
        self._transports: list[paramiko.Transport] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self.connections <= self.drops:
                connection.sendall(b"Not allowed at this time\r\n")
                connection.close()
                continue
            transport = paramiko.Transport(connection)
            transport.local_version = self.version
            transport.daemon = True
            transport.add_server_key(HOST_KEY)
            self._transports.append(transport)
            transport.start_server(server=_Door(self, transport), event=threading.Event())

    def close(self) -> None:
        self._listener.close()
        for transport in self._transports:
            transport.close()

    def run(self, channel: paramiko.Channel, command: str) -> None:
        """What a granted program does."""
        time.sleep(0.02)  # first the reply to the request
        with contextlib.suppress(OSError, EOFError, ProtocolError):
            if self.silent:
                return
            if command == "nix-daemon --stdio" and self.store is not None:
                with channel.makefile("rb") as stream:
                    for piece in self.store.serve(Reader(stream.read, self.store.version)):
                        channel.sendall(piece)
            said = max((each for each in self.answers if command.startswith(each)), key=len, default=None)
            stdout, stderr, status = (b"", REFUSAL, 126) if said is None else self.answers[said]
            channel.sendall(stdout)
            channel.sendall_stderr(stderr)
            channel.send_exit_status(status)
            channel.close()


class _Door(paramiko.ServerInterface):
    def __init__(self, played: PlayedLogin, transport: paramiko.Transport) -> None:
        self.played = played
        self.transport = transport
        self.failed = 0

    def get_allowed_auths(self, username: str) -> str:
        return ",".join(self.played.methods)

    def _judged(self, good: bool) -> int:
        if good:
            return paramiko.AUTH_SUCCESSFUL
        self.failed += 1
        if self.failed >= self.played.tries:
            self.transport.close()
        return paramiko.AUTH_FAILED

    def check_auth_none(self, username: str) -> int:
        return paramiko.AUTH_SUCCESSFUL if self.played.open_door else paramiko.AUTH_FAILED

    def check_auth_password(self, username: str, password: str) -> int:
        return self._judged(False)

    def check_auth_interactive(self, username: str, submethods: str) -> int | paramiko.InteractiveQuery:
        if "keyboard-interactive" in self.played.methods:
            return paramiko.InteractiveQuery("Login", "", ("Password: ", False))
        return self._judged(False)

    def check_auth_interactive_response(self, responses: t.Any) -> int:
        return self._judged(False)

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return self._judged(self.played.any_key or key.asbytes() in self.played.keys.get(username, set()))

    def check_channel_request(self, kind: str, chanid: int) -> int:
        granted = kind == "session" or kind in self.played.allow
        return paramiko.OPEN_SUCCEEDED if granted else paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED

    def check_channel_direct_tcpip_request(self, chanid: int, origin: t.Any, destination: t.Any) -> int:
        return self.check_channel_request("direct-tcpip", chanid)

    def check_port_forward_request(self, address: str, port: int) -> int | t.Literal[False]:
        return 4711 if "tcpip-forward" in self.played.allow else False

    def cancel_port_forward_request(self, address: str, port: int) -> None:
        pass

    def check_global_request(self, kind: str, msg: paramiko.Message) -> bool:
        return kind in self.played.allow

    def check_channel_pty_request(self, *_arguments: t.Any) -> bool:
        return "pty-req" in self.played.allow

    def check_channel_forward_agent_request(self, channel: paramiko.Channel) -> bool:
        return "auth-agent-req@openssh.com" in self.played.allow

    def check_channel_x11_request(self, *_arguments: t.Any) -> bool:
        return "x11-req" in self.played.allow

    def check_channel_env_request(self, channel: paramiko.Channel, name: t.Any, value: t.Any) -> bool:
        return "env" in self.played.allow

    def check_channel_shell_request(self, channel: paramiko.Channel) -> bool:
        return self._start(channel, "shell")

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        return self._start(channel, command.decode())

    def check_channel_subsystem_request(self, channel: paramiko.Channel, name: str) -> bool:
        return self._start(channel, name)

    def _start(self, channel: paramiko.Channel, command: str) -> bool:
        threading.Thread(target=self.played.run, args=(channel, command), daemon=True).start()
        return True
