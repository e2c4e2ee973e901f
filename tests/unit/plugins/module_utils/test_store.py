# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Store against a played server: what goes out together, streams, and what happens when something fails."""

from __future__ import annotations

import shutil
import subprocess
import threading
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import protocol
from ansible_collections.nixfleet.builders.plugins.module_utils import store as room
from ansible_collections.nixfleet.builders.plugins.module_utils.channel import (
    ChannelClosed,
    ChannelError,
    ChannelTimeout,
    open_local,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.derivation import BasicDerivation, Output
from ansible_collections.nixfleet.builders.plugins.module_utils.protocol import LogLine, PathInfo, Phase, RemoteError
from ansible_collections.nixfleet.builders.plugins.module_utils.store import DamagedNar, Store
from ansible_collections.nixfleet.builders.plugins.module_utils.wire import ProtocolError, encode
from ansible_collections.nixfleet.builders.tests.support import session
from ansible_collections.nixfleet.builders.tests.support.played_store import (
    BUILT,
    CannedChannel,
    PlayedStore,
    connected,
    nar,
    path_info,
)

DERIVATION = BasicDerivation({"out": Output("/nix/store/o")}, (), "x86_64-linux", "/bin/sh", (), {})


def path(number: int) -> str:
    return f"/nix/store/{number:032d}-path"


@pytest.fixture
def played() -> PlayedStore:
    return PlayedStore()


@pytest.fixture
def store(played: PlayedStore) -> Iterator[Store]:
    with connected(played) as channel:
        yield Store(channel, timeout=10, patience=10)


def count_sends(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of each packet that goes out from here on."""
    sends: list[int] = []
    send = store.channel._send
    monkeypatch.setattr(store.channel, "_send", lambda buffers: (sends.append(sum(map(len, buffers))), send(buffers)))
    return sends


@pytest.mark.parametrize("version", [(1, 34), (1, 35), (1, 37), (1, 38), (1, 39), (1, 99)])
def test_versions(version: tuple[int, int]) -> None:
    """1.35 is Lix's, in all its versions from 2.90 to 2.95; 1.39 is the one of Nix Super and Nix 2.35."""
    played = PlayedStore(version, trusted=False)
    result = BUILT._replace(cpu_user=None) if version < (1, 37) else BUILT
    played.builds["/d.drv"] = BUILT
    with connected(played) as channel:
        store = Store(channel)
        assert store.version == min(version, (1, 38))
        assert store.nix_version == "2.99"
        assert store.trusted is (None if version == (1, 34) else False)
        assert store.build_derivation("/d.drv", DERIVATION) == result
        assert store.build_paths(["/d.drv!out", "/a"]) == {"/d.drv!out": result, "/a": result}


def test_too_old() -> None:
    with connected(PlayedStore((1, 21))) as channel, pytest.raises(protocol.VersionError, match=r"Nix 2\.3"):
        Store(channel)


def test_shell_noise_instead_of_nix() -> None:
    with pytest.raises(ProtocolError, match="'Welcome '.*magic of the handshake"):
        Store(CannedChannel(b"Welcome to this host!\n" * 10))


def test_an_error_instead_of_a_welcome() -> None:
    hello = encode(protocol.SERVER_HELLO, protocol.Hello((1, 38)), (1, 38))
    info = encode(protocol.SERVER_INFO, protocol.ServerInfo((), "2.26.3", None), (1, 38))
    refusal = encode(protocol.MESSAGE, RemoteError(0, "no room"), (1, 38))
    with pytest.raises(RemoteError, match="no room"):
        Store(CannedChannel(hello + info + refusal))


# ---------------------------------------------------------------------------------------------------- the queue


def test_operations(store: Store, played: PlayedStore) -> None:
    one, two = played.add(path(1), b"one"), played.add(path(2), b"two", references=(path(1),), deriver=path(9))
    paths = [path(number) for number in (1, 2, 3)]
    assert store.is_valid_path(path(1))
    assert store.valid_paths(paths) == {path(1), path(2)}
    assert store.valid_paths([]) == set()
    assert store.path_infos(paths) == {path(1): one, path(2): two, path(3): None}
    assert store.missing(paths).unknown == (path(3),)
    store.add_temp_roots(paths)
    assert played.roots == paths
    store.add_signatures(path(1), ["b:2", "a:1"])
    assert played.requests[-1] == ("AddSignatures", (path(1), ("a:1", "b:2")))
    store.set_options(protocol.Options(1, 2, overrides={"timeout": "5"}))
    assert played.requests[-1][1] == protocol.Options(1, 2, overrides={"timeout": "5"})
    store.ensure_path(path(1))
    store.add_indirect_root("/root/link")
    assert store.output_map(path(4)) == {"out": path(4) + "-out", "dev": None}


def test_a_thousand_questions_in_few_packets(
    store: Store, played: PlayedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    infos = {path(number): played.add(path(number), b"%d" % number) for number in range(1000)}
    sends = count_sends(store, monkeypatch)
    assert store.path_infos(infos) == infos
    assert len(sends) <= 4
    assert max(sends) <= room.WINDOW


def test_several_operations_in_one_packet(store: Store, played: PlayedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    info = played.add(path(1), b"out")
    lines = [LogLine(1, "one"), Phase(1, "build")]
    played.log["BuildDerivation"] = list(lines)
    played.log["QueryPathInfo"] = [LogLine(2, "not ours")]
    sends = count_sends(store, monkeypatch)
    seen: list[protocol.Event] = []
    built = store.queue(protocol.BUILD_DERIVATION, protocol.BuildDerivationRequest("/d.drv", DERIVATION), seen.append)
    asked = [store.queue(protocol.QUERY_PATH_INFO, each) for each in (path(1), path(2))]
    assert not sends
    assert built.result() == BUILT
    assert seen == lines
    assert built.done
    assert not asked[0].done
    # Asked for in another order than sent.
    assert asked[1].result() is None
    assert asked[0].result() == info
    assert len(sends) == 1
    assert sends[0] < 1000


def test_a_refusal_is_of_one_operation(store: Store, played: PlayedStore) -> None:
    played.refuse["EnsurePath"] = "\x1b[31mno such path\x1b[0m"
    first = store.queue(protocol.IS_VALID_PATH, path(1))
    refused = store.queue(protocol.ENSURE_PATH, path(2))
    last = store.queue(protocol.IS_VALID_PATH, path(3))
    assert (first.result(), last.result()) == (False, False)
    for _each in range(2):
        # Each time the same, however late it is asked for.
        with pytest.raises(RemoteError, match=r"^EnsurePath: no such path$"):
            refused.result()
    assert not store.broken


def test_a_listener_that_fails_breaks_the_store(store: Store, played: PlayedStore) -> None:
    played.log["EnsurePath"] = [LogLine(1, "x")]

    def listener(_event: protocol.Event) -> None:
        raise KeyError("ours")

    later = store.queue(protocol.ENSURE_PATH, path(1), listener)
    behind = store.queue(protocol.IS_VALID_PATH, path(1))
    with pytest.raises(KeyError):
        later.result()
    with pytest.raises(KeyError):
        behind.result()
    assert store.broken
    with pytest.raises(KeyError):
        store.is_valid_path(path(1))


def test_a_connection_that_ends(played: PlayedStore) -> None:
    with connected(played) as channel:
        store = Store(channel)
        pending = store.queue(protocol.IS_VALID_PATH, path(1))
        store.close()
        with pytest.raises(ChannelClosed, match="closed by us"):
            pending.result()
        with pytest.raises(ChannelClosed, match="closed by us"):
            store.is_valid_path(path(1))


def test_patience(store: Store, played: PlayedStore) -> None:
    limits: list[float | None] = []
    read = store.channel._receive

    def watched() -> t.Any:
        limits.append(store.channel.idle_timeout)
        return read()

    store.channel._receive = watched  # type: ignore[method-assign]
    store._timeout, store._patience = 5.0, None
    store.is_valid_path(path(1))
    assert limits.count(5.0) == len(limits) > 0
    limits.clear()
    store.ensure_path(path(1))
    assert limits.count(None) == len(limits) > 0


def test_silence(played: PlayedStore) -> None:
    hushed = threading.Event()
    played.answer = lambda *_request: hushed.wait(10)  # type: ignore[method-assign]
    with connected(played) as channel:
        store = Store(channel, timeout=0.1)
        for _each in range(2):
            with pytest.raises(ChannelTimeout):
                store.is_valid_path(path(1))
        hushed.set()


# ---------------------------------------------------------------------------------------------------- NARs


def test_nars(store: Store, played: PlayedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    infos = [played.add(path(number), b"%d" % number * number * 50) for number in range(400)]
    sends = count_sends(store, monkeypatch)
    found = {info.path: b"".join(bytes(piece) for piece in pieces) for info, pieces in store.nars(infos)}
    assert len(sends) < 10
    assert found == {name: archive for name, (_info, archive) in played.paths.items()}
    assert store.is_valid_path(path(1))


def test_nars_that_are_left_unread(store: Store, played: PlayedStore) -> None:
    infos = [played.add(path(number), bytes(200_000)) for number in range(5)]
    sizes = []
    for number, (_info, pieces) in enumerate(store.nars(infos)):
        sizes.append(len(next(pieces)) if number % 2 else 0)
    assert len(sizes) == 5
    assert store.is_valid_path(path(1))


def test_nars_behind_other_operations(store: Store, played: PlayedStore) -> None:
    info = played.add(path(1), b"x")
    before = store.queue(protocol.QUERY_PATH_INFO, path(1))
    for _info, pieces in store.nars([info]):
        assert b"".join(bytes(piece) for piece in pieces) == nar(b"x")
        during = store.queue(protocol.IS_VALID_PATH, path(1))
    assert before.result() == info
    assert during.result()


def test_a_question_in_the_middle_of_a_nar(store: Store, played: PlayedStore) -> None:
    info = played.add(path(1), bytes(10_000_000))
    with pytest.raises(RuntimeError, match="while a NAR before it was not read"):
        for _info, _pieces in store.nars([info]):
            store.is_valid_path(path(1))
    assert store.broken


def test_to_stop_early_breaks_the_store(store: Store, played: PlayedStore) -> None:
    infos = [played.add(path(number), b"x") for number in range(3)]
    for _info, _pieces in store.nars(infos):
        break
    with pytest.raises(ChannelError):
        store.is_valid_path(path(1))


@pytest.mark.parametrize(("verify", "raises"), [(True, True), (False, False)])
def test_the_hash_of_a_nar(store: Store, played: PlayedStore, verify: bool, raises: bool) -> None:
    info = played.add(path(1), b"good")
    played.paths[path(1)] = (info, nar(b"baad"))
    caught = None
    try:
        for _info, pieces in store.nars([info], verify):
            assert b"".join(bytes(piece) for piece in pieces) == nar(b"baad")
    except DamagedNar as error:
        caught = error
    assert (caught is not None) is raises
    assert store.broken is raises


@pytest.mark.parametrize("size", [120, 100_000])
def test_an_error_within_a_nar(store: Store, played: PlayedStore, size: int) -> None:
    """As Nix does: it has promised a NAR, fails to read the file, and has no other place to say so."""
    refusal = encode(protocol.MESSAGE, RemoteError(0, "getting status: " + "very " * 40 + "gone"), (1, 38))
    info = played.add(path(1), bytes(size))
    played.paths[path(1)] = (info, nar(b"")[:24] + refusal)
    played.last = "NarFromPath"
    with pytest.raises(RemoteError, match="gone$"):
        for _info, pieces in store.nars([info]):
            list(pieces)
    assert store.broken


# ---------------------------------------------------------------------------------------------------- adding


def items_of(contents: dict[str, bytes]) -> list[tuple[PathInfo, list[bytes]]]:
    return [(path_info(name, nar(content)), [nar(content)]) for name, content in contents.items()]


def test_add_many(store: Store, played: PlayedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    sends = count_sends(store, monkeypatch)
    contents = {path(number): b"%d" % number for number in range(500)}
    store.add_many(500, items_of(contents), check_signatures=False)
    assert {name: archive for name, (_info, archive) in played.paths.items()} == {
        name: nar(content) for name, content in contents.items()
    }
    assert played.requests[-1] == ("AddMultipleToStore", protocol.AddManyRequest(False, True))
    assert len(sends) == 1


def test_add_a_large_one_in_odd_pieces(store: Store, played: PlayedStore) -> None:
    archive = nar(bytes(range(256)) * 20_000)
    pieces = [archive[start : start + 70_001] for start in range(0, len(archive), 70_001)]
    pieces[3:4] = [pieces[3][:5], b"", pieces[3][5:]]
    store.add_many(1, [(path_info(path(1), archive), pieces)], check_signatures=True)
    assert played.paths[path(1)][1] == archive
    assert played.requests[-1][1] == protocol.AddManyRequest(False, False)


def test_from_store_to_store(store: Store, played: PlayedStore) -> None:
    infos = [played.add(path(number), b"%d" % number * 3000 * number) for number in range(60)]
    target = PlayedStore((1, 34))
    with connected(target) as channel:
        other = Store(channel)
        other.add_many(60, store.nars(infos, verify=False), check_signatures=False)
    assert target.paths == played.paths


def test_a_build_right_behind_its_inputs(store: Store, played: PlayedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    sends = count_sends(store, monkeypatch)
    added = store.queue_add_many(1, items_of({path(1): b"input"}), check_signatures=False)
    assert store.build_derivation("/d.drv", DERIVATION) == BUILT
    assert added.done
    added.result()
    assert len(sends) == 1


def test_add_many_refused(store: Store, played: PlayedStore) -> None:
    played.refuse["AddMultipleToStore"] = "lacks a signature"
    with pytest.raises(RemoteError, match="lacks a signature"):
        store.add_many(1, items_of({path(1): b"x"}), check_signatures=True)
    assert not store.is_valid_path(path(1))


def failing() -> Iterator[bytes]:
    yield nar(b"x")[:50]
    raise KeyError("the source")


@pytest.mark.parametrize(
    ("count", "items", "error"),
    [
        (1, lambda: [(path_info(path(2), nar(b"x")), failing())], KeyError),
        (1, lambda: [(path_info(path(2), nar(b"x")), [nar(b"x")[:-1]])], ValueError),
        (2, lambda: items_of({path(2): b"x"}), ValueError),
    ],
)
def test_a_source_that_fails_leaves_the_store_usable(
    store: Store, played: PlayedStore, count: int, items: t.Callable[[], t.Any], error: type[Exception]
) -> None:
    played.refuse["AddMultipleToStore"] = "the stream is too short"
    with pytest.raises(error):
        store.add_many(count, items(), check_signatures=False)
    assert not store.broken
    assert not store.is_valid_path(path(2))


def endless(taken: list[int]) -> Iterator[bytes]:
    while True:
        taken.append(1)
        yield bytes(1 << 16)


def early(played: PlayedStore, message: bytes) -> None:
    """The server says this before it has read what comes in frames, and reads no further."""
    serve = played.serve

    def cut(source: t.Any) -> Iterator[bytes]:
        framed = protocol.ADD_MULTIPLE_TO_STORE
        for piece in serve(source):
            yield piece
            if piece == encode(protocol.MESSAGE, protocol.Last(), (1, 38)):
                assert protocol.read_request(source)[0] is framed
                yield message
                return

    played.serve = cut  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (RemoteError(0, "disk full"), RemoteError),
        (protocol.Last(), ProtocolError),
        (LogLine(1, "then nothing"), ChannelClosed),
    ],
)
def test_bad_news_in_the_middle_of_a_stream(message: t.Any, error: type[Exception]) -> None:
    played = PlayedStore()
    early(played, encode(protocol.MESSAGE, message, (1, 38)))
    taken: list[int] = []
    seen: list[protocol.Event] = []
    info = path_info(path(1), nar(b"x"))._replace(nar_size=1 << 40)
    with connected(played) as channel:
        store = Store(channel)
        with pytest.raises(error):
            store.add_many(1, [(info, endless(taken))], check_signatures=False, on_event=seen.append)
        assert store.broken
    assert len(taken) < 1000
    assert seen == ([message] if isinstance(message, LogLine) else [])


# ---------------------------------------------------------------------------------------------------- a real Nix


@pytest.mark.skipif(shutil.which("nix-daemon") is None, reason="no Nix here")
def test_a_real_nix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of our own, without a daemon: one path there and back."""
    monkeypatch.setenv("NIX_CONFIG", "substituters =\nbuild-users-group =")
    subprocess.run(["nix-store", "--store", str(tmp_path), "--init"], check=True)
    store = Store(open_local(str(tmp_path)), timeout=20)
    archive = nar(b"there and back")
    info = path_info(session.SOURCE, archive)
    store.add_many(1, [(info, [archive])], check_signatures=False)
    found = store.path_infos([session.SOURCE, session.ABSENT])
    there = found[session.SOURCE]
    assert there is not None
    assert (there.nar_hash, there.nar_size, found[session.ABSENT]) == (info.nar_hash, info.nar_size, None)
    with pytest.raises(KeyError):
        store.add_many(1, [(path_info(session.FAILS, archive), failing())], check_signatures=False)
    assert [b"".join(bytes(piece) for piece in pieces) for _info, pieces in store.nars([there])] == [archive]
    assert not store.is_valid_path(session.FAILS)
    # What is promised and then cannot be read.
    with pytest.raises(RemoteError, match="No such file"):
        for _info, pieces in store.nars([there._replace(path=session.ABSENT)]):
            list(pieces)
    store.close()
