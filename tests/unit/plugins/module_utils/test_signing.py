# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys and signatures, against a path that a real Nix 2.8.0 has signed."""

from __future__ import annotations

import base64
import contextlib
import sys

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import signing
from ansible_collections.nixfleet.builders.plugins.module_utils.signing import SigningError
from hypothesis import given
from hypothesis import strategies as st

# Made for this test by nix-store --generate-binary-cache-key, nix-build and nix store sign of Nix 2.8.0.
SECRET = "test-1:adzlalvY6MKrp0iADQXNMtYEJsB3MG5eRcv6WY4Zv5iM6msis3wRR89zcZffNI3/ga8XfHducfO6KKepX9puqQ=="
PUBLIC = "test-1:jOprIrN8EUfPc3GX3zSN/4GvF3x3bnHzuiinqV/abqk="
PATH = "/tmp/st/store/5wbhmwn9q94syv39gwnhfylbx43ah2zb-vector"
REFERENCES = ["/tmp/st/store/c1ih049zx72521ap5kd5hqanmvarlwzl-vector-dep", PATH]
NAR_HASH = "sha256-0BuW1HbG5/MupkqKm9nsy27O1g0vrbvmYoh3IrNTuXA="
NAR_HASH_NIX32 = "sha256:0w5rafrj4xw8cbkbpb9g1pbcwvnbxkcrp2jalqpg7ry6fva9c6yh"
SIGNATURE = "test-1:CT3BWjKjbmMMYqAJcaXNu1o0JH+huWO+xt7WSI+VQkXcVeg9bsj54y8yoAev0d8+NsbZNrierZmblsVwATVwDQ=="

names = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters=":#"), min_size=1, max_size=20)


@pytest.fixture
def no_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)


def test_as_nix_does_it() -> None:
    secret = signing.parse_secret(SECRET)
    assert signing.public_of(SECRET) == PUBLIC
    assert signing.generate("test-1", secret.seed) == secret
    text = signing.fingerprint(PATH, NAR_HASH, 224, REFERENCES)
    assert text == f"1;{PATH};{NAR_HASH_NIX32};224;{PATH},{REFERENCES[0]}"
    assert str(signing.sign(secret, text)) == SIGNATURE
    public = signing.parse_public(PUBLIC)
    signature = signing.parse_signature(SIGNATURE)
    assert signing.verify(public, text, signature)
    assert not signing.verify(public, text + ",", signature)
    assert not signing.verify(signing.PublicKey("test-2", public.data), text, signature)
    assert not signing.verify(signing.PublicKey("test-1", bytes(32)), text, signature)


@given(names, st.binary(min_size=64, max_size=64))
def test_keys_are_read_as_written(name: str, data: bytes) -> None:
    secret = signing.SecretKey(name, data)
    assert signing.parse_secret(secret.text()) == secret
    assert signing.parse_secret(secret.text().rstrip("=") + "\n") == secret
    # Nix passes over newlines in the base64, and keeps those of a name, which no list could hold.
    with pytest.raises(signing.SigningError, match="its name holds"):
        signing.parse_secret("\n" + secret.text())
    assert signing.parse_public(str(secret.public)) == secret.public
    assert signing.public_of(secret.text()) == str(secret.public)
    signature = signing.Signature(name, data)
    assert signing.parse_signature(str(signature)) == signature


@given(
    st.one_of(
        st.text(),
        st.text().map(lambda text: f"a:{text}"),
        st.binary(max_size=70).map(lambda data: "a:" + base64.b64encode(data).decode()),
    )
)
def test_no_key_raises_anything_else(text: str) -> None:
    for read in (signing.parse_secret, signing.parse_public, signing.parse_signature, signing.public_of):
        with contextlib.suppress(SigningError):
            read(text)


@given(names, st.binary(min_size=32, max_size=32), names, st.text(max_size=50))
def test_signatures_hold(name: str, seed: bytes, other: str, text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    secret = signing.generate(name, seed)
    signature = signing.sign(secret, text)
    assert signing.verify(secret.public, text, signature)
    assert not signing.verify(secret.public, text + "x", signature)
    assert signing.verify(signing.PublicKey(other, secret.public.data), text, signature) == (name == other)


@given(st.binary(max_size=70))
def test_nix32(data: bytes) -> None:
    assert signing.parse_nix32(signing.nix32(data)) == data


@given(st.one_of(st.text(), st.text(signing.NIX32_DIGITS), st.text(signing.NIX32_DIGITS).map("sha256:".__add__)))
def test_no_hash_raises_anything_else(text: str) -> None:
    for read in (signing.parse_nix32, signing.parse_sha256):
        try:
            data = read(text)
        except SigningError:
            continue
        assert signing.nix32(data) == text.rpartition(":")[2]


def test_hashes() -> None:
    data = signing.parse_sha256(NAR_HASH)
    assert signing.parse_sha256(NAR_HASH_NIX32) == signing.parse_sha256(f"sha256:{data.hex()}") == data
    with pytest.raises(SigningError, match="no SHA-256"):
        signing.parse_sha256("md5:00")
    with pytest.raises(SigningError, match="whole number of bytes"):
        signing.parse_nix32("z")


@pytest.mark.parametrize(
    ("path", "size", "references", "said"),
    [
        (PATH, 0, [], "has no size"),
        ("/nix/store/x", 1, [], "'/nix/store/x' is no full store path"),
        (PATH, 1, ["c1ih049zx72521ap5kd5hqanmvarlwzl-vector-dep"], "is no full store path"),
    ],
)
def test_fingerprints_that_nix_would_not_make(path: str, size: int, references: list[str], said: str) -> None:
    with pytest.raises(SigningError, match=said):
        signing.fingerprint(path, NAR_HASH, size, references)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no ':'"),
        (":AAAA", "name is empty"),
        ("a b:AAAA", "name holds ' '"),
        ("a#:AAAA", "name holds '#'"),
        ("a:A*", "no base64"),
        ("a:A", "no base64"),
        ("a:AAAA", "'a' has 3 bytes instead of 64"),
        (PUBLIC, "has 32 bytes instead of 64"),
    ],
)
def test_bad_keys(text: str, said: str) -> None:
    with pytest.raises(SigningError, match=f"secret key is corrupt: .*{said}".replace("*:", "*:")):
        signing.parse_secret(text)


def test_a_secret_is_not_printed() -> None:
    secret = signing.parse_secret(SECRET)
    for damaged in (SECRET[:-8], SECRET + "AAAA", "*".join(SECRET.rsplit("a", 1)), SECRET.replace(":", "")):
        with pytest.raises(SigningError) as caught:
            signing.parse_secret(damaged)
        assert damaged[10:20] not in str(caught.value)
    assert "data" not in repr(secret) and SECRET[7:] not in f"{secret} {secret!r}"


def test_without_cryptography(no_cryptography: None) -> None:
    assert not signing.has_cryptography()
    assert signing.public_of(SECRET) == PUBLIC
    for call in (
        lambda: signing.generate("a", bytes(32)),
        lambda: signing.sign(signing.parse_secret(SECRET), ""),
        lambda: signing.verify(signing.parse_public(PUBLIC), "", signing.parse_signature(SIGNATURE)),
    ):
        with pytest.raises(SigningError, match="needs the Python package cryptography"):
            call()


def test_a_bad_seed_or_name() -> None:
    with pytest.raises(SigningError, match="32 bytes, not 1"):
        signing.generate("a", b"a")
    with pytest.raises(SigningError, match="':'"):
        signing.generate("a:b", bytes(32))
