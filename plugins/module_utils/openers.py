# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How a run reaches stores for real: the client's daemon, builders over ssh."""

from __future__ import annotations

import threading
import typing as t
from dataclasses import replace

from ansible_collections.nixfleet.builders.plugins.module_utils import load_probe
from ansible_collections.nixfleet.builders.plugins.module_utils.channel import ChannelClosed, open_local
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine
from ansible_collections.nixfleet.builders.plugins.module_utils.protocol import Options
from ansible_collections.nixfleet.builders.plugins.module_utils.site import Opener
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh import SshHost
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_config import Target, remote_command, target_of
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_wire import ALIVE_INTERVAL, ALIVE_TIMEOUT
from ansible_collections.nixfleet.builders.plugins.module_utils.store import Store
from ansible_collections.nixfleet.builders.plugins.module_utils.stores import is_ssh

#: Seconds without a byte that a store may take for anything but builds and downloads.
TIMEOUT = 60.0
#: Seconds that a load probe may take.
MEASURE_TIMEOUT = 2.0


class RealStores:
    """See dispatch.Stores.

    nix_daemon: the program. connect_timeout: seconds. client_options: for connections to the client's own store, or
    None to leave them as they are.
    """

    def __init__(self, nix_daemon: str, connect_timeout: float, client_options: Options | None) -> None:
        self._nix_daemon = nix_daemon
        self._connect_timeout = connect_timeout
        self._client_options = client_options

    def client(self) -> Opener:
        return _Local("auto", self._nix_daemon, self._connect_timeout, self._client_options)

    def machine(self, machine: Machine) -> Opener:
        if is_ssh(machine):
            return _Ssh(machine.with_protocol("ssh-ng"), self._connect_timeout)
        return _Local(machine.uri, self._nix_daemon, self._connect_timeout, None)


class _Local:
    """A store of this host."""

    def __init__(self, uri: str, nix_daemon: str, connect_timeout: float, options: Options | None) -> None:
        self._open: t.Callable[[], t.Any] = lambda: open_local(uri, nix_daemon, connect_timeout, TIMEOUT)
        self._options = options

    def open(self) -> Store:
        channel = self._open()
        try:
            store = Store(channel, TIMEOUT)
            if self._options is not None:
                store.set_options(self._options)
        except BaseException:
            channel.close()
            raise
        return store

    def measure(self) -> bytes:
        """A host that runs builds beside a dispatcher is not asked."""
        return b""

    def close(self) -> None:
        """Each store is a connection of its own."""


class _Ssh:
    """A builder; what it is configured for is read when it is first opened."""

    def __init__(self, machine: Machine, connect_timeout: float) -> None:
        self._machine = machine
        self._connect_timeout = connect_timeout
        self._lock = threading.Lock()
        self._host: SshHost | None = None
        self._closed = False

    def open(self) -> Store:
        with self._lock:
            if self._closed:
                raise ChannelClosed(self._machine.uri, "the run ended")
            if self._host is None:
                self._host = SshHost(_watched(target_of(self._machine)), self._connect_timeout)
            host = self._host
        channel = host.open(remote_command(self._machine), TIMEOUT)
        try:
            return Store(channel, TIMEOUT)
        except BaseException:
            channel.close()
            raise

    def measure(self) -> bytes:
        with self._lock:
            host = self._host
        if host is None:
            raise ChannelClosed(self._machine.uri, "nothing is open")
        return host.ask(load_probe.COMMAND, MEASURE_TIMEOUT, load_probe.ANSWER_MOST)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            host = self._host
        if host is not None:
            host.close()


def _watched(target: Target) -> Target:
    """With signs of life as often as is usual here, where ssh_config has them more seldom: others wait for its work."""
    silence = (target.alive_interval or 0) * (1 + (target.alive_count or 3))
    if silence <= ALIVE_INTERVAL + ALIVE_TIMEOUT:
        return target
    return replace(target, alive_interval=None, alive_count=None)
