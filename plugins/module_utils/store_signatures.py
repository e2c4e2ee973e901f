# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which paths of the local store a key has not signed, and signing them, by Nix's command line in few processes."""

from __future__ import annotations

import json
import re
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils import signing
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import Nix, NixError

#: Bytes of paths in one argument list; Linux takes 2 MiB with the environment, macOS 1 MiB.
BATCH_BYTES = 256 * 1024

#: C(nix path-info --json) warns without the flag C(--json-format) from 2.33 on (src/nix/path-info.cc).
JSON_FORMAT_SINCE = (2, 33)

_ADDED = re.compile(r"added (\d+) signatures")


class PathInfo(t.NamedTuple):
    """One valid path as Nix knows it. C(nar_size) in bytes, C(references) full paths, C(signatures) C(name:base64)."""

    path: str
    nar_hash: str
    nar_size: int
    references: list[str]
    signatures: list[str]

    def is_signed(self, key: signing.PublicKey) -> bool | None:
        """Whether the key has signed the path. None: its name has, and only Nix can tell whether the key has too.

        That is so where cryptography is missing, and for a path of which no fingerprint can be made here.
        """
        named = [text for text in self.signatures if text.startswith(f"{key.name}:")]
        if not named:
            return False
        if not signing.has_cryptography():
            return None
        try:
            text = signing.fingerprint(self.path, self.nar_hash, self.nar_size, self.references)
        except signing.SigningError:
            return None
        for signature in named:
            try:
                if signing.verify(key, text, signing.parse_signature(signature)):
                    return True
            except signing.SigningError:
                continue
        return False


def parse_path_info(text: str) -> tuple[list[PathInfo], list[str]]:
    """(valid paths, other paths) of what C(nix path-info --json) printed; NixError for anything else.

    That is a list up to 2.18, and an object by path since 2.19.
    """
    infos, invalid = [], []
    try:
        parsed = json.loads(text)
        pairs = [(it["path"], it) for it in parsed] if isinstance(parsed, list) else [*dict(parsed).items()]
        for path, entry in pairs:
            if entry is None or entry.get("valid") is False:
                invalid.append(path)
                continue
            signatures = [str(signature) for signature in entry.get("signatures", ())]
            infos.append(PathInfo(path, entry["narHash"], entry["narSize"], entry["references"], signatures))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NixError(f"cannot read what 'nix path-info --json' printed ({error!r})") from error
    return infos, invalid


def batches(paths: t.Iterable[str]) -> t.Iterator[list[str]]:
    """The paths in lists that fit on a command line."""
    batch: list[str] = []
    size = 0
    for path in paths:
        size += len(path.encode("utf-8", "surrogateescape")) + 1
        if batch and size > BATCH_BYTES:
            yield batch
            batch, size = [], len(path) + 1
        batch.append(path)
    if batch:
        yield batch


def _kinds(paths: t.Iterable[str]) -> t.Iterator[tuple[list[str], list[str]]]:
    """(option, paths) by kind. Without C(--derivation), Nix before 2.15 takes a .drv for the outputs it builds."""
    derivations: list[str] = []
    others: list[str] = []
    for path in paths:
        (derivations if path.endswith(".drv") else others).append(path)
    for batch in batches(others):
        yield [], batch
    for batch in batches(derivations):
        yield ["--derivation"], batch


class StoreSignatures:
    """The local store's paths and one key, whose secret is in the file C(key). A key that is yet to be made is None."""

    def __init__(self, nix: Nix, key: str, public: signing.PublicKey | None) -> None:
        self._nix = nix
        self._key = key
        self._public = public

    def _path_info(self, *args: str) -> tuple[list[PathInfo], list[str]]:
        words = ["--json-format", "1"] if self._nix.cli_version >= JSON_FORMAT_SINCE else []
        return parse_path_info(self._nix.run("nix", "--offline", "path-info", "--json", *words, *args))

    def all(self) -> list[PathInfo]:
        """All valid paths. One that is collected as garbage meanwhile is left out."""
        return self._path_info("--all")[0]

    def of(self, paths: t.Iterable[str], recursive: bool) -> list[PathInfo]:
        """These paths, or their closures. NixError that names the paths which are not valid.

        Validity is asked first and the old way, as C(nix path-info) would try to build or fetch what is not there.
        """
        paths = list(dict.fromkeys(paths))
        invalid = []
        for batch in batches(paths):
            rc, out, err = self._nix.call("nix-store", "--check-validity", "--print-invalid", *batch)
            if rc:
                raise NixError(f"Nix cannot look for the paths to sign: {_said(err)}", rc, err)
            invalid += out.split("\n")[:-1]
        infos: dict[str, PathInfo] = {}
        if not invalid:
            options = ["--recursive"] if recursive else []
            for kind, batch in _kinds(paths):
                valid, invalid = self._path_info(*kind, *options, *batch)
                infos.update((info.path, info) for info in valid)
                if invalid:
                    break
        if invalid:
            more = f" (and {len(invalid) - 5} more)" if len(invalid) > 5 else ""
            raise NixError(f"not a valid path of the store: {', '.join(invalid[:5])}{more}")
        return [*infos.values()]

    def unsigned(self, infos: t.Iterable[PathInfo]) -> tuple[list[str], list[str]]:
        """(paths that the key has not signed, paths of which only Nix can tell)."""
        missing: list[str] = []
        doubtful: list[str] = []
        for info in infos:
            signed = info.is_signed(self._public) if self._public else False
            if signed is None:
                doubtful.append(info.path)
            elif not signed:
                missing.append(info.path)
        return missing, doubtful

    def sign(self, paths: t.Iterable[str]) -> int:
        """Signs paths; how many of them got a signature, as Nix passes over those that have this very one."""
        added = 0
        for kind, batch in _kinds(paths):
            arguments = [*kind, "--key-file", self._key, *batch]
            rc, out, err = self._nix.call("nix", "--offline", "store", "sign", *arguments)
            if rc:
                raise NixError(f"Nix could not sign: {_said(err)}", rc, err)
            found = _ADDED.search(err) or _ADDED.search(out)
            if not found:
                raise NixError(f"'nix store sign' does not tell how many signatures it has added: {_said(err)}")
            added += int(found.group(1))
        return added


def _said(stderr: str) -> str:
    """The end of what Nix said, where its error is."""
    return " ".join(stderr.split())[-800:] or "it says nothing"
