# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the checks: the client whose builds are looked at, the builders, a word for each test."""

from __future__ import annotations

import time

import pytest
from hosts import Client, Host

NAMES = ("builder1", "builder2", "builder3")


def pytest_addoption(parser: pytest.Parser) -> None:
    """What verify.yml says."""
    parser.addoption("--fleet", required=True, help="the test fleet's name")
    parser.addoption("--clients", required=True, help="the clients' names, separated by commas")
    parser.addoption("--protocol", required=True, help="how clients reach builders: ssh-ng or ssh")


@pytest.fixture(scope="session")
def protocol(request: pytest.FixtureRequest) -> str:
    """How clients reach builders."""
    return str(request.config.getoption("--protocol"))


@pytest.fixture(scope="session")
def clients(request: pytest.FixtureRequest) -> list[Client]:
    """Those given."""
    fleet = request.config.getoption("--fleet")
    return [Client(fleet, name) for name in request.config.getoption("--clients").split(",")]


@pytest.fixture(scope="session")
def client(clients: list[Client]) -> Client:
    """The one whose builds are looked at."""
    return clients[0]


@pytest.fixture(scope="session")
def builders(request: pytest.FixtureRequest) -> dict[str, Host]:
    """All builders by name."""
    return {name: Host(request.config.getoption("--fleet"), name) for name in NAMES}


@pytest.fixture
def run(client: Client) -> str:
    """A word that makes this test's derivations new."""
    return f"{client.name}-{time.time_ns()}"
