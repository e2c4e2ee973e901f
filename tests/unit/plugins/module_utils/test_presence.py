# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who carries which path, and who waits."""

from __future__ import annotations

import contextlib
import random
import threading
import time
import typing as t

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils.presence import Lease, Presence


class Failure(Exception):
    pass


class Carrier(threading.Thread):
    """Takes a lease, tells so, and ends it when it is told to: with its paths arrived, or failed."""

    def __init__(self, presence: Presence, *paths: str) -> None:
        super().__init__(daemon=True)
        self._presence = presence
        self._paths = paths
        self._end = threading.Event()
        self._fails = False
        self.has_lease = threading.Event()
        self.mine: set[str] = set()
        self.start()

    def run(self) -> None:
        with contextlib.suppress(Failure), self._presence.lease(self._paths) as lease:
            self.mine = set(lease.mine)
            self.has_lease.set()
            self._end.wait(10)
            if self._fails:
                raise Failure
            lease.arrived(set(lease.mine))

    def end(self, fails: bool = False) -> None:
        self._fails = fails
        self._end.set()
        self.join(10)


def waits(carrier: Carrier) -> bool:
    return not carrier.has_lease.wait(0.1)


def test_what_is_known_is_not_carried() -> None:
    presence = Presence()
    presence.add(["a", "b"])
    with presence.lease(["a", "c"]) as lease:
        assert lease.mine == {"c"}
        lease.arrived(["c"])
        assert lease.mine == set()
    assert presence.known(["a", "b", "c", "d"]) == {"a", "b", "c"}
    presence.forget()
    assert presence.known(["a", "b", "c"]) == set()


def test_others_wait_for_what_is_on_its_way() -> None:
    presence = Presence()
    first = Carrier(presence, "a", "b")
    first.has_lease.wait(10)
    second = Carrier(presence, "b", "c")
    assert waits(second)
    first.end()
    assert second.has_lease.wait(10)
    assert second.mine == {"c"}
    second.end()


def test_who_waits_goes_on_as_soon_as_its_paths_are_there() -> None:
    presence = Presence()
    with presence.lease(["small", "large"]) as lease:
        second = Carrier(presence, "small")
        assert waits(second)
        lease.arrived(["small"])
        assert second.has_lease.wait(10)
        assert lease.mine == {"large"}
    second.end()


def test_what_fails_goes_to_the_one_who_waits_longest() -> None:
    presence = Presence()
    first = Carrier(presence, "a")
    first.has_lease.wait(10)
    second = Carrier(presence, "a", "b")
    assert waits(second)
    third = Carrier(presence, "a", "b")
    assert waits(third)
    first.end(fails=True)
    assert second.has_lease.wait(10)
    assert second.mine == {"a", "b"}
    assert waits(third)
    second.end(fails=True)
    assert third.has_lease.wait(10)
    assert third.mine == {"a", "b"}
    third.end(fails=True)
    with presence.lease(["a"]) as lease:
        assert lease.mine == {"a"}


def test_what_is_found_there_is_carried_no_more() -> None:
    presence = Presence()
    with presence.lease(["a"]) as lease:
        second = Carrier(presence, "a")
        assert waits(second)
        presence.add(["a"])
        assert second.has_lease.wait(10)
        assert lease.mine == set()
    second.end()


def test_an_interrupted_wait_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    presence = Presence()
    with presence.lease(["a"]) as lease:

        def interrupt() -> t.NoReturn:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(presence._changed, "wait", interrupt)
            with pytest.raises(KeyboardInterrupt), presence.lease(["a", "b"]):
                pass
        with presence.lease(["b"]) as other:
            assert other.mine == {"b"}
        lease.arrived(["a"])
    assert presence.known(["a", "b"]) == {"a"}


def test_many_threads_that_often_fail() -> None:
    presence = Presence()
    paths = [str(number) for number in range(40)]
    carried: set[str] = set()
    twice: list[str] = []
    arrivals: list[str] = []
    guard = threading.Lock()

    def carry(lease: Lease, chance: random.Random) -> None:
        with guard:
            mine = set(lease.mine)
            twice.extend(mine & carried)
            carried.update(mine)
        try:
            for path in sorted(mine):
                time.sleep(0.0002)
                if chance.random() < 0.2:
                    raise Failure
                with guard:
                    arrivals.append(path)
                    carried.discard(path)
                lease.arrived([path])
        finally:
            with guard:
                carried.difference_update(lease.mine)

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _round in range(12):
            wanted = set(chance.sample(paths, 12))
            while presence.known(wanted) != wanted:
                with contextlib.suppress(Failure), presence.lease(wanted) as lease:
                    carry(lease, chance)

    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert twice == []
    assert sorted(arrivals) == sorted(set(arrivals))
