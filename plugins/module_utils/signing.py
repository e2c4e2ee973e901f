# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Nix's signing keys, fingerprints and signatures (src/libutil/signature/local-keys.cc, src/libstore/path-info.cc).

Keys and signatures are C(name:base64), ed25519. Reading and writing them needs nothing; generate, sign and verify need
the Python package cryptography and raise SigningError where it is not installed. Pure: a new key's seed is handed in.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import re
import typing as t

if t.TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SEED_BYTES = 32
PUBLIC_BYTES = 32
SECRET_BYTES = SEED_BYTES + PUBLIC_BYTES
SIGNATURE_BYTES = 64
SHA256_BYTES = 32

#: Without e, o, u and t (src/libutil/base-nix-32.cc).
NIX32_DIGITS = "0123456789abcdfghijklmnpqrsvwxyz"

_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")


class SigningError(Exception):
    """A key, hash or signature is not one, or the package cryptography is missing. Never holds secret bytes."""


@dataclasses.dataclass(frozen=True)
class PublicKey:
    """What C(trusted-public-keys) lists. C(data) is 32 bytes."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return _text(self.name, self.data)


@dataclasses.dataclass(frozen=True)
class SecretKey:
    """What C(secret-key-files) name. C(data) is 64 bytes: the seed, then the public key. Only C(text) shows it."""

    name: str
    data: bytes = dataclasses.field(repr=False)

    @property
    def seed(self) -> bytes:
        return self.data[:SEED_BYTES]

    @property
    def public(self) -> PublicKey:
        """The public key, which is the secret's own second half."""
        return PublicKey(self.name, self.data[SEED_BYTES:])

    def text(self) -> str:
        """The content of a key file: one line without a newline, as Nix writes it."""
        return _text(self.name, self.data)


@dataclasses.dataclass(frozen=True)
class Signature:
    """One entry of a path's signatures. C(data) is 64 bytes."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return _text(self.name, self.data)


def _text(name: str, data: bytes) -> str:
    return f"{name}:{base64.b64encode(data).decode('ascii')}"


def check_name(name: str, what: str = "the key's name") -> str:
    """C(name), if a key can be called so; SigningError.

    Nix only forbids the colon, but a name with a blank or a C(#) could not be listed in C(trusted-public-keys).
    """
    if not name:
        raise SigningError(f"{what} is empty")
    for char in name:
        if char in ":# " or not char.isprintable():
            raise SigningError(
                f"{what} holds {char!r}, which no name of a key can hold (blank, ':', '#', control characters)"
            )
    return name


def _parse(text: str, what: str, size: int) -> tuple[str, bytes]:
    """(name, bytes) of C(name:base64). As in Nix newlines in the base64 do not count and its padding may be missing."""
    name, colon, encoded = text.partition(":")
    if not colon:
        raise SigningError(f"{what} is corrupt: it has no ':' between a name and the key")
    check_name(name, f"{what} is corrupt: its name")
    encoded = encoded.replace("\n", "").rstrip("=")
    if not _BASE64.fullmatch(encoded):
        raise SigningError(f"{what} is corrupt: what follows {name!r} is no base64")
    try:
        data = base64.b64decode(encoded + "=" * (-len(encoded) % 4))
    except binascii.Error as error:
        raise SigningError(f"{what} is corrupt: what follows {name!r} is no base64") from error
    if len(data) != size:
        raise SigningError(f"{what} is corrupt: {name!r} has {len(data)} bytes instead of {size}")
    return name, data


def parse_secret(text: str) -> SecretKey:
    """A secret key file's content; SigningError, which does not repeat it."""
    return SecretKey(*_parse(text, "the secret key", SECRET_BYTES))


def parse_public(text: str) -> PublicKey:
    """A public key file's content, or one of C(trusted-public-keys)."""
    return PublicKey(*_parse(text, "the public key", PUBLIC_BYTES))


def parse_signature(text: str) -> Signature:
    """One entry of a path's signatures."""
    return Signature(*_parse(text, "the signature", SIGNATURE_BYTES))


def public_of(secret: str) -> str:
    """The public key's text that belongs to a secret key's text."""
    return str(parse_secret(secret).public)


def nix32(data: bytes) -> str:
    """Nix's base 32: digits of the little-endian number, the highest first (52 for a SHA-256)."""
    number = int.from_bytes(data, "little")
    length = (len(data) * 8 + 4) // 5
    return "".join(NIX32_DIGITS[number >> 5 * place & 31] for place in reversed(range(length)))


def parse_nix32(text: str) -> bytes:
    """The bytes of Nix's base 32; SigningError for another digit and for bits beyond the last byte."""
    number = 0
    for char in text:
        digit = NIX32_DIGITS.find(char)
        if digit < 0:
            raise SigningError(f"{char!r} is no digit of Nix's base 32")
        number = number << 5 | digit
    size = len(text) * 5 // 8
    if number >> 8 * size or (size * 8 + 4) // 5 != len(text):
        raise SigningError(f"{text!r} is no whole number of bytes in Nix's base 32")
    return number.to_bytes(size, "little")


def parse_sha256(text: str) -> bytes:
    """The 32 bytes of C(sha256:) with base 16 or Nix's base 32, or of C(sha256-) with base 64; SigningError."""
    found = re.fullmatch(r"sha256(?:-([A-Za-z0-9+/]{43}=)|:([0-9a-f]{64})|:([0-9a-z]{52}))", text)
    if not found:
        raise SigningError(f"{text!r} is no SHA-256 hash")
    sri, hexadecimal, digits = found.groups()
    if sri:
        return base64.b64decode(sri)
    return bytes.fromhex(hexadecimal) if hexadecimal else parse_nix32(digits)


def fingerprint(path: str, nar_hash: str, nar_size: int, references: t.Iterable[str]) -> str:
    """What is signed of a store path: full paths, the NAR's hash (see C(parse_sha256)) and its size in bytes."""
    references = sorted(set(references))
    for each in (path, *references):
        if not re.fullmatch(r"/[^;,\s]+/[0-9a-z]{32}-[0-9A-Za-z+._?=-]+", each):
            raise SigningError(f"{each!r} is no full store path")
    if nar_size <= 0:
        raise SigningError(f"{path} has no size; Nix cannot sign it")
    return f"1;{path};sha256:{nix32(parse_sha256(nar_hash))};{nar_size};{','.join(references)}"


def has_cryptography() -> bool:
    """Whether generate, sign and verify can work here."""
    try:
        _classes()
    except SigningError:
        return False
    return True


def _classes() -> tuple[type[Ed25519PrivateKey], type[Ed25519PublicKey]]:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    except ImportError as error:
        raise SigningError(f"this needs the Python package cryptography: {error}") from error
    return Ed25519PrivateKey, Ed25519PublicKey


def generate(name: str, seed: bytes) -> SecretKey:
    """The key of a seed of 32 random bytes."""
    check_name(name)
    if len(seed) != SEED_BYTES:
        raise SigningError(f"a seed has {SEED_BYTES} bytes, not {len(seed)}")
    private, _public = _classes()
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = private.from_private_bytes(seed).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return SecretKey(name, seed + public)


def sign(secret: SecretKey, text: str) -> Signature:
    """The signature of a fingerprint."""
    private, _public = _classes()
    return Signature(secret.name, private.from_private_bytes(secret.seed).sign(text.encode()))


def verify(public: PublicKey, text: str, signature: Signature) -> bool:
    """Whether a fingerprint was signed by just this key, name and bytes."""
    _private, key = _classes()
    if signature.name != public.name:
        return False
    from cryptography.exceptions import InvalidSignature

    try:
        key.from_public_bytes(public.data).verify(signature.data, text.encode())
    except InvalidSignature:
        return False
    return True
