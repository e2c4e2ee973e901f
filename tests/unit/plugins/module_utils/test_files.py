# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that a module owns, with a real AnsibleModule."""

from __future__ import annotations

import json
import os
import typing as t
from pathlib import Path

import pytest
from ansible.module_utils import basic
from ansible_collections.nixfleet.builders.plugins.module_utils import files
from ansible_collections.nixfleet.builders.plugins.module_utils.files import FileError, OwnedFile, Pending

Make = t.Callable[..., t.Any]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """make(check=False, **file options): an AnsibleModule."""
    remote = tmp_path_factory.mktemp("remote")

    def module(check: bool = False, **options: t.Any) -> t.Any:
        internal = {"_ansible_check_mode": check, "_ansible_remote_tmp": str(remote)}
        args = json.dumps({"ANSIBLE_MODULE_ARGS": {**options, **internal}})
        monkeypatch.setattr(basic, "_ANSIBLE_ARGS", args.encode())
        monkeypatch.setattr(basic, "_ANSIBLE_PROFILE", "legacy")
        return basic.AnsibleModule(argument_spec={}, add_file_common_args=True, supports_check_mode=True)

    return module


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_texts_come_back_byte_for_byte(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a\r\n\xff\xfe\n\rb")
    text = files.read_text(str(path))
    assert text is not None and "\r\n" in text
    files.write(make(), str(path), text, 0o644)
    assert path.read_bytes() == b"a\r\n\xff\xfe\n\rb"
    assert files.read_text(f"{path}/x") is None and files.read_text(f"{tmp_path}/x") is None
    with pytest.raises(FileError, match=f"cannot read {tmp_path}: Is a directory"):
        files.read_text(str(tmp_path))


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
@pytest.mark.parametrize("wanted", [0o600, 0o644, 0o640, 0o444])
def test_modes(tmp_path: Path, make: Make, umask: int, wanted: int) -> None:
    module, path = make(), tmp_path / "f"
    old = os.umask(umask)
    try:
        files.write(module, str(path), "a", wanted)
        assert mode(path) == wanted
        path.chmod(0o666)
        files.write(module, str(path), "b", wanted)
        assert mode(path) == wanted and path.read_text() == "b"
        path.chmod(0o606)
        files.write(module, str(path), "c", wanted, keep_attributes=True)
        assert mode(path) == 0o606 and path.read_text() == "c"
        assert os.umask(umask) == umask
    finally:
        os.umask(old)


def test_errors_name_the_file_and_leave_nothing(tmp_path: Path, make: Make) -> None:
    module = make()
    for target in (tmp_path / "gone" / "f", tmp_path):
        with pytest.raises(FileError, match=f"cannot write {target}: "):
            files.write(module, str(target), "a", 0o644)
    assert os.listdir(module.tmpdir) == [] and list(tmp_path.iterdir()) == []
    with pytest.raises(FileError, match=f"cannot remove {tmp_path}: "):
        files.remove(str(tmp_path))
    files.remove(str(tmp_path / "gone"))


def test_owned_file(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "f"
    for check in (True, False):
        file = OwnedFile(make(check), str(path), 0o640)
        file.put("a\n")
        assert file.changed and path.exists() != check
        assert file.diff == {
            "before_header": f"{path} (absent)", "after_header": str(path), "before": "", "after": "a\n"
        }  # fmt: skip
    assert mode(path) == 0o640
    file = OwnedFile(make(), str(path), 0o640)
    file.put("a\n")
    assert not file.changed
    for check in (True, False):
        file = OwnedFile(make(check, mode="0600"), str(path), 0o640)
        file.put("a\n")
        assert file.changed and mode(path) == (0o640 if check else 0o600)
    file = OwnedFile(make(mode="0600"), str(path), 0o644, params={"mode": "u=rw,g=r,o="})
    file.put("b\n")
    assert mode(path) == 0o640
    file = OwnedFile(make(mode="0600"), str(path), 0o644)
    file.put("c\n", attributes=False)
    assert mode(path) == 0o640
    for check in (True, False):
        file = OwnedFile(make(check), str(path), 0o640)
        file.remove()
        assert file.changed and path.exists() == check and file.diff["after_header"] == f"{path} (absent)"
    file = OwnedFile(make(), str(path), 0o640)
    file.remove()
    assert not file.changed


def test_pending(tmp_path: Path, make: Make) -> None:
    marker = tmp_path / "run" / "marker"
    none = Pending(make(), None)
    none.mark()
    assert not none.waiting
    checked = Pending(make(check=True), str(marker))
    checked.mark()
    assert not marker.exists()
    module = make()
    file = OwnedFile(module, str(tmp_path / "f"), 0o644, Pending(module, str(marker)))
    file.put("a")
    assert marker.exists() and Pending(module, str(marker)).waiting
    marker.unlink()
    file = OwnedFile(module, str(tmp_path / "f"), 0o644, Pending(module, str(marker)))
    file.put("a")
    assert not marker.exists()
    file.remove()
    assert marker.exists()
    blocked = Pending(module, f"{marker}/x/y")
    with pytest.raises(FileError, match="cannot make the marker"):
        blocked.mark()


def test_the_marker_is_there_before_the_file_is_replaced(tmp_path: Path, make: Make) -> None:
    """What a run that is killed in between leaves behind."""
    module, marker = make(), tmp_path / "marker"

    def killed(*_args: t.Any, **_options: t.Any) -> None:
        assert marker.exists()
        raise KeyboardInterrupt

    module.atomic_move = killed
    file = OwnedFile(module, str(tmp_path / "f"), 0o644, Pending(module, str(marker)))
    with pytest.raises(KeyboardInterrupt):
        file.put("a")
    assert Pending(module, str(marker)).waiting and not (tmp_path / "f").exists()
