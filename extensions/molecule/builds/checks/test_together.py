# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is tried from all clients at once: many connections, and a builder that no longer answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import fleetlib.hosts
import pytest
from hosts import Client

# nix_client_ssh_connect_timeout in molecule.yml.
TIMEOUT = 6
ROUND = 12
# A build that has nobody to wait for takes a second, or some on a busy machine.
SPARE = 14


@pytest.fixture
def without_builder1(clients: list[Client]) -> Iterator[None]:
    """Drops every packet from and to builder1."""
    host = fleetlib.hosts.find(clients[0].fleet, "builder1")
    fleetlib.hosts.set_cut(host, True)
    yield
    fleetlib.hosts.set_cut(host, False)


def _rush(client: Client) -> list[str]:
    """Where the client built ROUND derivations, with a nix-build for each of them."""
    done = client.try_(
        "sh",
        "-c",
        """for n in $(seq "$1"); do
             nix-build --no-out-link --argstr run "$2-$n" --attr rush --builders "$3" /opt/builds/builds.nix &
           done
           wait""",
        "sh",
        *(str(ROUND), f"{client.name}-{time.time_ns()}", client.machines(slots=ROUND)),
    )
    paths = done.stdout.split()
    assert len(paths) == ROUND, done.stderr
    return client.places(*paths)


def test_rush_of_connections(clients: list[Client]) -> None:
    # An sshd that was not told otherwise drops connections when more than ten are about to log in.
    with ThreadPoolExecutor() as threads:
        assert list(threads.map(_rush, clients)) == [["builder2"] * ROUND] * len(clients)


def _build(client: Client) -> tuple[str, float]:
    """Where the client built something, and the seconds it took."""
    begun = time.monotonic()
    built = client.build("where", f"{client.name}-{time.time_ns()}", user="operator")
    return client.places(*built.paths)[0], time.monotonic() - begun


@pytest.mark.usefixtures("without_builder1")
def test_another_builder_takes_over(clients: list[Client]) -> None:
    with ThreadPoolExecutor() as threads:
        for client, (place, seconds) in zip(clients, threads.map(_build, clients)):
            print(f"{client.name}: built on {place} after {seconds:.1f} s")
            assert place == "builder2"
            assert TIMEOUT <= seconds < TIMEOUT + SPARE


def test_builder_is_used_again(clients: list[Client]) -> None:
    with ThreadPoolExecutor() as threads:
        assert [place for place, _seconds in threads.map(_build, clients)] == ["builder1"] * len(clients)
