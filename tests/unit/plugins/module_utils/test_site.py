# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections that are lent and threads that are kept."""

from __future__ import annotations

import queue
import threading
import time
import typing as t
from collections.abc import Iterator

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils.channel import ChannelClosed, ChannelError
from ansible_collections.nixfleet.builders.plugins.module_utils.protocol import RemoteError, VersionError
from ansible_collections.nixfleet.builders.plugins.module_utils.site import Site, Unreachable, Work
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh import SshError
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_config import SshConfigError
from ansible_collections.nixfleet.builders.plugins.module_utils.store import Store
from ansible_collections.nixfleet.builders.tests.support.played_fleet import Host, PlayedOpener, World, store_path
from ansible_collections.nixfleet.builders.tests.support.played_store import PlayedStore, connected

A, B, C = store_path("a"), store_path("b"), store_path("c")
LIMIT = 20.0


class Opener(PlayedOpener):
    """error: what opening raises, if anything."""

    error: Exception | None = None
    closed = False

    def open(self) -> t.Any:
        if self.error is not None:
            raise self.error
        return super().open()

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def host() -> Host:
    return Host("b1")


@pytest.fixture
def opener(host: Host) -> Opener:
    return Opener(World(), host)


@pytest.fixture
def site(opener: Opener) -> Iterator[Site]:
    site = Site("b1", "builder b1", opener)
    yield site
    site.close()


# ---------------------------------------------------------------------------------------------------- connections


def test_a_connection_is_lent_again(site: Site, host: Host) -> None:
    with site.borrow() as first, site.borrow() as second:
        assert first is not second
    with site.borrow() as again:
        assert again in (first, second)
    assert host.opened == 2


def test_a_broken_connection_is_not(site: Site, host: Host) -> None:
    """What it protected may be deleted from then on."""
    site.presence.add([A])
    with site.borrow() as first:
        pass
    assert site.presence.known([A]) == {A}
    with site.borrow() as second:
        assert second is first
        second.channel.abort()
        with pytest.raises(ChannelClosed):
            second.valid_paths([A])
    assert site.presence.known([A]) == set()
    with site.borrow() as third:
        assert third is not first and not third.broken


def test_it_is_given_back_whatever_happens(site: Site, host: Host) -> None:
    with pytest.raises(ZeroDivisionError), site.borrow():
        raise ZeroDivisionError
    with site.borrow():
        assert host.opened == 1


@pytest.mark.parametrize(
    ("error", "permanent"),
    [
        (ChannelError("b1", "no route to host"), False),
        (RemoteError(0, "no"), False),
        (SshError("b1", "lost"), False),
        (SshError("b1", "no key", permanent=True), True),
        (SshConfigError("b1", "no ssh"), True),
        (VersionError("too old"), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_unreachable(site: Site, opener: Opener, error: Exception, permanent: bool) -> None:
    opener.error = error
    for call in (lambda: site.borrow().__enter__(), site.check, lambda: site.valid([A])):
        with pytest.raises(Unreachable) as caught:
            call()
        assert caught.value.site is site and caught.value.permanent is permanent
        assert str(caught.value) == str(error)


def test_check_is_by_a_new_connection(site: Site, host: Host) -> None:
    """Idle ones may be dead without anybody knowing."""
    with site.borrow() as old:
        pass
    site.presence.add([A])
    site.check()
    assert host.opened == 2 and old.broken
    assert site.presence.known([A]) == set()
    assert site.trusted is True and site.nix_version == "2.26.3"
    with site.borrow() as store:
        assert store is not old
    assert host.opened == 2


def test_what_was_learned_of_trust_stays(site: Site) -> None:
    """Old ones say nothing of it, until they refuse."""
    site.trusted = False
    site.check()
    assert site.trusted is False


def test_valid_paths(site: Site, host: Host) -> None:
    assert site.valid([]) == set() and host.opened == 0
    host.add(A)
    host.add(B)
    assert site.valid([A, C, A, B]) == {A, B}
    assert site.presence.known([A, B, C]) == {A, B}


def test_valid_paths_are_protected() -> None:
    """And looked for again then, as they may have been deleted before."""
    played = PlayedStore()
    played.add(A, b"a")
    played.add(B, b"b")
    with connected(played) as channel:

        class Real:
            def open(self) -> Store:
                return Store(channel)

            def close(self) -> None:
                pass

        site = Site("b1", "builder b1", Real())
        assert site.valid([A, C]) == {A}
        assert played.roots == [A]
        assert [name for name, _request in played.requests] == ["QueryValidPaths", "AddTempRoot", "QueryValidPaths"]
        site.close()


def test_what_is_deleted_before_it_is_protected_is_not_valid(site: Site, host: Host) -> None:
    host.add(A)
    host.add(B)
    asked: list[set[str]] = []

    def fault(operation: str, request: t.Any) -> None:
        if operation == "QueryValidPaths":
            asked.append(request)
            if len(asked) == 2:
                host.delete(A)

    host.fault = fault
    assert site.valid([A, B]) == {B}
    assert site.presence.known([A, B]) == {B}


def test_bytes_moved(site: Site) -> None:
    with site.borrow() as first, site.borrow() as second:
        for store in (first, second):
            store.channel.bytes_in, store.channel.bytes_out = 3, 40
        assert site.bytes_moved() == (6, 80)
        first.close()
    assert first.broken and site.bytes_moved() == (6, 80)
    with site.borrow() as third:
        third.channel.bytes_in += 1
        assert third is second and site.bytes_moved() == (7, 80)


def test_close(site: Site, opener: Opener) -> None:
    with site.borrow() as store:
        site.close()
        assert opener.closed
        with pytest.raises(ChannelClosed):
            store.valid_paths([A])
    with site.borrow() as late, pytest.raises(ChannelClosed):
        late.valid_paths([A])
    with site.borrow() as later:
        assert later is not late


def test_close_ends_what_is_not_broken_when_it_is_given_back(site: Site) -> None:
    with site.borrow() as store:
        site.close()
    assert store.broken


# ---------------------------------------------------------------------------------------------------- threads


def meets(barrier: threading.Barrier) -> Work:
    def work() -> None:
        barrier.wait()

    return work


def wait_until_free(site: Site, count: int) -> None:
    """Until so many threads have nothing to do."""
    limit = time.monotonic() + LIMIT
    while site._free < count and time.monotonic() < limit:
        time.sleep(0.001)
    assert site._free == count


def test_as_many_threads_as_there_is_work(site: Site) -> None:
    """None waits for another."""
    together = threading.Barrier(4, timeout=LIMIT)
    for _unused in range(3):
        site.do(meets(together))
    together.wait()


def test_threads_are_kept(site: Site) -> None:
    names: queue.Queue[str] = queue.Queue()
    found = set()
    for _unused in range(5):
        site.do(lambda: names.put(threading.current_thread().name))
        found.add(names.get(timeout=LIMIT))
        wait_until_free(site, 1)
    assert found == {"builder b1 1"}


def test_a_free_thread_is_counted_once(site: Site) -> None:
    """Also before it has taken what it was woken for."""
    site.do(lambda: None)
    wait_until_free(site, 1)
    together = threading.Barrier(3, timeout=LIMIT)
    with site._changed:
        for _unused in range(2):
            site.do(meets(together))
    together.wait()


def test_work_gives_work(site: Site) -> None:
    """Also to be waited for by the thread that gives it."""
    done = threading.Event()
    results: queue.Queue[bool] = queue.Queue()

    def outer() -> None:
        site.do(done.set)
        results.put(done.wait(LIMIT))

    site.do(outer)
    assert results.get(timeout=LIMIT)


def test_threads_end_with_the_site(host: Host) -> None:
    site = Site("b1", "a site that ends", Opener(World(), host))
    together = threading.Barrier(3, timeout=LIMIT)
    for _unused in range(2):
        site.do(meets(together))
    threads = [thread for thread in threading.enumerate() if thread.name.startswith(site.label)]
    assert len(threads) == 2
    together.wait()
    wait_until_free(site, 2)
    site.close()
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()
