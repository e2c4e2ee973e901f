# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which keys are offered, in which order, and what is said of those that are not."""

from __future__ import annotations

import base64
import contextlib
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import known_hosts
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_config import Target
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_keys import Keys, public_blob, read_text
from ansible_collections.nixfleet.builders.tests.support.key_files import PrivateKey, public_line, write_key
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

TARGET = Target(name="b1", address="127.0.0.1", port=22, user="me")


def string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


class Agent:
    """Plays an ssh agent that holds ed25519 keys. signed: the blob of the key of each signature."""

    def __init__(self, path: Path, keys: list[ed25519.Ed25519PrivateKey]) -> None:
        self.keys = {self.blob(key): key for key in keys}
        self.signed: list[bytes] = []
        self.hung_up = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    @staticmethod
    def blob(key: ed25519.Ed25519PrivateKey) -> bytes:
        raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return string(b"ssh-ed25519") + string(raw)

    def _serve(self) -> None:
        with contextlib.suppress(OSError), self._listener:
            connection, _address = self._listener.accept()
            with connection, connection.makefile("rwb") as stream:
                while header := stream.read(4):
                    message = paramiko.Message(stream.read(struct.unpack(">I", header)[0]))
                    stream.write(string(self._answer(message)))
                    stream.flush()
        self.hung_up.set()

    def _answer(self, message: paramiko.Message) -> bytes:
        """draft-ietf-sshm-ssh-agent: SSH_AGENTC_REQUEST_IDENTITIES, else SSH_AGENTC_SIGN_REQUEST."""
        if message.get_byte() == b"\x0b":
            listed = b"".join(string(blob) + string(b"comment") for blob in self.keys)
            return b"\x0c" + struct.pack(">I", len(self.keys)) + listed
        blob = message.get_binary()
        self.signed.append(blob)
        return b"\x0e" + string(string(b"ssh-ed25519") + string(self.keys[blob].sign(message.get_binary())))


@pytest.fixture
def held() -> list[ed25519.Ed25519PrivateKey]:
    return [ed25519.Ed25519PrivateKey.generate() for _unused in range(3)]


@pytest.fixture
def agent(tmp_path: Path, held: list[ed25519.Ed25519PrivateKey]) -> Agent:
    return Agent(tmp_path / "agent", held)


@contextlib.contextmanager
def keys_of(target: Target) -> Iterator[Keys]:
    with contextlib.closing(Keys(paramiko, target, lambda: 10.0)) as keys:
        yield keys


def offered(target: Target) -> tuple[list[tuple[str, bytes]], list[str]]:
    """What is said of each key, and its blob; then the remarks."""
    with keys_of(target) as keys:
        return [(label, key.asbytes()) for label, key in keys.offers()], keys.remarks


# ---------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    "key",
    [
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP256R1()),
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
    ],
    ids=["ed25519", "ecdsa", "rsa"],
)
def test_keys_of_each_type_are_read(tmp_path: Path, key: PrivateKey) -> None:
    blob = write_key(tmp_path / "key", key=key)
    kind = public_line(key).split()[0]
    found, remarks = offered(replace(TARGET, identity_files=(str(tmp_path / "key"),)))
    assert found == [(f"{tmp_path}/key ({kind} {known_hosts.fingerprint(blob)})", blob)]
    assert remarks == []


def test_files_are_offered_in_their_order(tmp_path: Path) -> None:
    names = ("c", "a", "b")
    blobs = [write_key(tmp_path / name) for name in names]
    found, _remarks = offered(replace(TARGET, identity_files=tuple(str(tmp_path / name) for name in names)))
    assert [blob for _label, blob in found] == blobs


def test_what_kept_a_file_from_use(tmp_path: Path) -> None:
    blob = write_key(tmp_path / "good")
    write_key(tmp_path / "locked", b"secret")
    (tmp_path / "garbage").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n")
    (tmp_path / "directory").mkdir()
    files = tuple(str(tmp_path / name) for name in ("missing", "locked", "garbage", "directory", "good"))
    found, remarks = offered(replace(TARGET, identity_files=files))
    assert [each for _label, each in found] == [blob]
    assert [remark.removeprefix(f"{tmp_path}/") for remark in remarks] == [
        "missing cannot be read (No such file or directory)",
        "locked has a passphrase; put it into an agent (ssh-add), or use a key without",
        "garbage is no private key that paramiko reads (ed25519, ecdsa, rsa)",
        "directory cannot be read (Is a directory)",
    ]


def test_only_the_first_file_is_missed(tmp_path: Path) -> None:
    """ssh -G lists the default files whether they are there or not."""
    write_key(tmp_path / "key")
    there, other = str(tmp_path / "key"), str(tmp_path / "none")
    assert offered(replace(TARGET, identity_files=(there, other)))[1] == []
    assert offered(replace(TARGET, identity_files=(other, there)))[1] == [
        f"{other} cannot be read (No such file or directory)"
    ]


# ---------------------------------------------------------------------------------------------------- the agent


@pytest.mark.parametrize("public_file", [False, True])
def test_agent_holds_what_the_file_locks(
    agent: Agent, held: list[ed25519.Ed25519PrivateKey], tmp_path: Path, public_file: bool
) -> None:
    blob = write_key(tmp_path / "locked", b"secret", held[1])
    if public_file:
        (tmp_path / "locked").unlink()
        (tmp_path / "locked.pub").write_text(public_line(held[1]) + " me@here\n")
    target = replace(TARGET, identity_files=(str(tmp_path / "locked"),), agent=str(tmp_path / "agent"))
    with keys_of(replace(target, agent_offers_all=False)) as keys:
        ((label, key),) = keys.offers()
        assert label == f"{tmp_path}/locked (by the agent)"
        assert key.asbytes() == blob
        signature = paramiko.Message(bytes(key.sign_ssh_data(b"data")))
        assert signature.get_text() == "ssh-ed25519"
        held[1].public_key().verify(signature.get_binary(), b"data")
        assert keys.remarks == []
    assert agent.signed == [blob]


def test_configured_keys_come_before_the_agents_others(
    agent: Agent, held: list[ed25519.Ed25519PrivateKey], tmp_path: Path
) -> None:
    """Each once; with IdentitiesOnly, none but them."""
    plain = write_key(tmp_path / "plain")
    blobs = [Agent.blob(key) for key in held]
    assert write_key(tmp_path / "held", key=held[2]) == blobs[2]
    files = (str(tmp_path / "plain"), str(tmp_path / "held"))
    target = replace(TARGET, identity_files=files, agent=str(tmp_path / "agent"))
    found, remarks = offered(target)
    assert [blob for _label, blob in found] == [plain, blobs[2], blobs[0], blobs[1]]
    assert [label for label, _blob in found[2:]] == [
        f"the agent's ssh-ed25519 {known_hosts.fingerprint(blob)}" for blob in blobs[:2]
    ]
    assert remarks == []


def test_identities_only(agent: Agent, tmp_path: Path) -> None:
    plain = write_key(tmp_path / "plain")
    target = replace(TARGET, identity_files=(str(tmp_path / "plain"),), agent=str(tmp_path / "agent"))
    found, _remarks = offered(replace(target, agent_offers_all=False))
    assert [blob for _label, blob in found] == [plain]


def test_the_agent_is_let_go(agent: Agent, tmp_path: Path) -> None:
    with keys_of(replace(TARGET, agent=str(tmp_path / "agent"))) as keys:
        assert len(list(keys.offers())) == 3
        assert not agent.hung_up.is_set()
    assert agent.hung_up.wait(20)


def test_an_agent_that_is_not_there(tmp_path: Path) -> None:
    """The files are still offered."""
    blob = write_key(tmp_path / "key")
    found, remarks = offered(replace(TARGET, identity_files=(str(tmp_path / "key"),), agent="/nonexistent"))
    assert [each for _label, each in found] == [blob]
    assert len(remarks) == 1 and remarks[0].startswith("the agent at /nonexistent does not answer (")


def test_an_agent_that_says_nothing(tmp_path: Path) -> None:
    """Costs the time that is left, not for ever."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "agent"))
        listener.listen()
        target = replace(TARGET, agent=str(tmp_path / "agent"))
        with contextlib.closing(Keys(paramiko, target, lambda: 0.05)) as keys:
            assert list(keys.offers()) == []
            assert keys.remarks == [f"the agent at {tmp_path}/agent does not answer (timed out)"]


# ---------------------------------------------------------------------------------------------------- certificates

needs_keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen")


def certify(directory: Path, key: PrivateKey, name: str, *options: str) -> bytes:
    """Writes NAME-cert.pub; its blob."""
    write_key(directory / "authority")
    (directory / "authority").chmod(0o600)
    (directory / f"{name}.pub").write_text(public_line(key) + "\n")
    command = ["ssh-keygen", "-q", "-s", "authority", "-I", name, "-n", "me", *options, f"{name}.pub"]
    subprocess.run(command, check=True, cwd=directory)
    found = known_hosts.key_from_line((directory / f"{name}-cert.pub").read_text(), "")
    assert found is not None
    return found.blob


def sent(target: Target) -> tuple[list[tuple[str, bytes]], list[str]]:
    """The type and the blob that each offer sends; then the remarks."""
    with keys_of(target) as keys:
        found = []
        for _label, key in keys.offers():
            blob = key.public_blob
            found.append((blob.key_type, blob.key_blob) if blob else (key.get_name(), key.asbytes()))
        return found, keys.remarks


@needs_keygen
@pytest.mark.parametrize("kind", ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"])
def test_a_certificate_beside_its_key_comes_first(tmp_path: Path, kind: str) -> None:
    keys: dict[str, PrivateKey] = {
        "ssh-ed25519": ed25519.Ed25519PrivateKey.generate(),
        "ecdsa-sha2-nistp256": ec.generate_private_key(ec.SECP256R1()),
        "ssh-rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    }
    other, plain = write_key(tmp_path / "other"), write_key(tmp_path / "key", key=keys[kind])
    blob = certify(tmp_path, keys[kind], "key")
    files = (str(tmp_path / "other"), str(tmp_path / "key"))
    found, remarks = sent(replace(TARGET, identity_files=files))
    assert found == [(f"{kind}-cert-v01@openssh.com", blob), ("ssh-ed25519", other), (kind, plain)]
    assert remarks == []
    assert offered(replace(TARGET, identity_files=files))[0][0][0] == (
        f"{tmp_path}/key-cert.pub (certificate 'key' for me)"
    )


@needs_keygen
def test_a_certificate_that_is_named(tmp_path: Path) -> None:
    """Once, also where it stands beside its key, too."""
    key = ed25519.Ed25519PrivateKey.generate()
    plain = write_key(tmp_path / "key", key=key)
    blob = certify(tmp_path, key, "elsewhere")
    shutil.copy(tmp_path / "elsewhere-cert.pub", tmp_path / "key-cert.pub")
    named = (str(tmp_path / "elsewhere-cert.pub"),)
    found, remarks = sent(replace(TARGET, identity_files=(str(tmp_path / "key"),), certificate_files=named))
    assert [each for _kind, each in found] == [blob, plain]
    assert remarks == []


@needs_keygen
def test_certificates_that_are_of_no_use(tmp_path: Path) -> None:
    key, stranger = ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()
    plain = write_key(tmp_path / "key", key=key)
    certify(tmp_path, key, "old", "-V", "20200101000000Z:20200102000000Z")
    certify(tmp_path, key, "early", "-V", "29990101000000Z:29990102000000Z")
    certify(tmp_path, stranger, "strange")
    (tmp_path / "rubbish").write_text("rubbish")
    named = tuple(str(tmp_path / f"{name}-cert.pub") for name in ("old", "early", "strange", "none"))
    target = replace(TARGET, identity_files=(str(tmp_path / "key"),), certificate_files=named)
    found, remarks = sent(replace(target, certificate_files=(*named, str(tmp_path / "rubbish"))))
    assert [each for _kind, each in found] == [plain]
    assert [remark.removeprefix(f"{tmp_path}/") for remark in remarks] == [
        "old-cert.pub is no longer valid since 2020-01-02 00:00:00 UTC",
        "early-cert.pub is not valid before 2999-01-01 00:00:00 UTC",
        "strange-cert.pub is for a key that is in no identity file, and not in the agent",
        "none-cert.pub is no certificate of an ed25519, ecdsa or rsa key, or cannot be read",
        "rubbish is no certificate of an ed25519, ecdsa or rsa key, or cannot be read",
    ]


@needs_keygen
def test_a_certificate_whose_key_the_agent_holds(
    agent: Agent, held: list[ed25519.Ed25519PrivateKey], tmp_path: Path
) -> None:
    blob = certify(tmp_path, held[1], "key")
    named = (str(tmp_path / "key-cert.pub"),)
    target = replace(TARGET, certificate_files=named, agent=str(tmp_path / "agent"), agent_offers_all=False)
    with keys_of(target) as keys:
        ((_label, key),) = keys.offers()
        assert key.public_blob.key_blob == blob  # type: ignore[attr-defined]
        key.sign_ssh_data(b"data", "ssh-ed25519-cert-v01@openssh.com")
    assert agent.signed == [Agent.blob(held[1])]


@needs_keygen
@pytest.mark.parametrize("named", [False, True])
def test_a_certificate_that_the_agent_holds(
    agent: Agent, held: list[ed25519.Ed25519PrivateKey], tmp_path: Path, named: bool
) -> None:
    blob = certify(tmp_path, held[1], "key")
    agent.keys[blob] = held[1]
    target = replace(TARGET, agent=str(tmp_path / "agent"))
    if named:
        target = replace(target, certificate_files=(str(tmp_path / "key-cert.pub"),), agent_offers_all=False)
    with keys_of(target) as keys:
        offers = list(keys.offers())
        assert [key.asbytes() for _label, key in offers[1:]] == ([] if named else [Agent.blob(each) for each in held])
        key = offers[0][1]
        assert (key.public_blob.key_type, key.public_blob.key_blob) == (  # type: ignore[attr-defined]
            "ssh-ed25519-cert-v01@openssh.com",
            blob,
        )
        key.sign_ssh_data(b"data", "ssh-ed25519-cert-v01@openssh.com")
    assert agent.signed == [blob]


def test_keys_of_security_keys_are_named(tmp_path: Path) -> None:
    blob = string(b"sk-ssh-ed25519@openssh.com") + string(bytes(32)) + string(b"ssh:")
    head = b"openssh-key-v1\0" + string(b"none") + string(b"none") + string(b"") + struct.pack(">I", 1)
    text = base64.b64encode(head + string(blob) + string(bytes(64))).decode()
    (tmp_path / "key").write_text(f"-----BEGIN OPENSSH PRIVATE KEY-----\n{text}\n-----END OPENSSH PRIVATE KEY-----\n")
    found, remarks = offered(replace(TARGET, identity_files=(str(tmp_path / "key"),)))
    assert found == []
    assert remarks == [
        f"{tmp_path}/key is a key of a security key (sk-ssh-ed25519@openssh.com), which is not used here but by an "
        "agent: ssh-add it, or use another key"
    ]


# ---------------------------------------------------------------------------------------------------- public halves


def test_public_half_of_a_file(tmp_path: Path) -> None:
    key = tmp_path / "key"
    blob, locked = write_key(key), write_key(tmp_path / "locked", b"secret")
    assert public_blob(str(key)) == blob
    assert public_blob(str(tmp_path / "locked")) == locked
    # A .pub file counts before what is in the key's own, as for OpenSSH; one that is none does not count.
    other = ed25519.Ed25519PrivateKey.generate()
    (tmp_path / "key.pub").write_text(public_line(other) + " with a comment\n")
    assert public_blob(str(key)) == Agent.blob(other)
    (tmp_path / "key.pub").write_text("ssh-ed25519 nonsense\n")
    assert public_blob(str(key)) == blob


@pytest.mark.parametrize("text", ["", "not base64!", "AAAA", "-----BEGIN RSA PRIVATE KEY-----\nMIIB\n"])
def test_no_public_half(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    assert public_blob(str(tmp_path / "key")) is None


def test_text_of_files(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"a\xffb\n")
    assert read_text(str(tmp_path / "text")).encode("utf-8", "surrogateescape") == b"a\xffb\n"
    assert read_text(str(tmp_path / "none")) == ""
    assert read_text(str(tmp_path)) == ""
    assert read_text("a\0b") == ""
