# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From a machine, or the URI of any store, to an open Store."""

from __future__ import annotations

import concurrent.futures
import contextlib
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils import store_uri
from ansible_collections.nixfleet.builders.plugins.module_utils.channel import Channel, open_local
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh import SshHost
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_config import remote_command, target_of
from ansible_collections.nixfleet.builders.plugins.module_utils.store import Store


def is_ssh(machine: Machine) -> bool:
    """Whether a machine is reached by ssh."""
    return machine.parts.protocol in store_uri.SSH_SCHEMES


@contextlib.contextmanager
def open_store(
    machine: Machine,
    *,
    nix_daemon: str = "nix-daemon",
    connect_timeout: float = 20.0,
    timeout: float | None = 60.0,
    patience: float | None = None,
) -> t.Iterator[Store]:
    """A store, with a connection of its own that ends with the context.

    Of a machine only uri, ssh_key and public_host_key count; C(ssh://) is spoken to as C(ssh-ng://), other URIs than
    these two are the local host's (channel.open_local). Times in seconds, see Store.

    Raises ChannelError, SshConfigError, ParamikoMissing, VersionError, ProtocolError, RemoteError.
    """
    with contextlib.ExitStack() as stack:
        if is_ssh(machine):
            machine = machine.with_protocol("ssh-ng")
            host = SshHost(target_of(machine), connect_timeout)
            stack.callback(host.close)
            channel: Channel = host.open(remote_command(machine), timeout)
        else:
            channel = open_local(machine.uri, nix_daemon, connect_timeout, timeout)
        stack.callback(channel.close)
        store = Store(channel, timeout, patience)
        stack.callback(store.close)
        yield store


@contextlib.contextmanager
def open_stores(machines: t.Sequence[Machine], **options: t.Any) -> t.Iterator[list[Store]]:
    """Several stores at once, in the time of the slowest. C(options), and what is raised: see open_store()."""
    with contextlib.ExitStack() as stack:
        with concurrent.futures.ThreadPoolExecutor(len(machines)) as pool:
            opening = [pool.submit(stack.enter_context, open_store(machine, **options)) for machine in machines]
        yield [each.result() for each in opening]
