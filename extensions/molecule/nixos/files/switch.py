# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands for nixos-rebuild switch on a Debian host: what the modules say, evaluated by Nix, is put in force.

The arguments are the modules. Writes the files below /etc, makes the accounts, and takes away what a former call had
made and this one does not. sshd's configuration and Nix's stand for the whole of NixOS's own.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys

STATE = "/var/lib/nixos-switch.json"
#: Where Debian has what NixOS has as one file.
PLACES = {"ssh/sshd_config": "ssh/sshd_config.d/00-nixos.conf"}


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


def evaluate(modules: list[str]) -> dict:
    """The files, users, groups and tmpfiles of a system with these modules."""
    expression = (
        "let system = import /usr/local/lib/nixos/system.nix { modules = [ %s ]; }; in "
        "{ inherit (system) files users groups tmpfiles; }"
    )
    return json.loads(run("nix-instantiate", "--eval", "--strict", "--json", "--expr", expression % " ".join(modules)))


def write(path: str, text: str, mode: int) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{path}.tmp", "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(f"{path}.tmp", mode)
    os.replace(f"{path}.tmp", path)


def main() -> None:
    system = evaluate(sys.argv[1:])
    former = {"files": [], "users": []}
    if os.path.exists(STATE):
        with open(STATE, encoding="utf-8") as file:
            former = json.load(file)
    files = {f"/etc/{PLACES.get(name, name)}": entry for name, entry in system["files"].items()}
    for path in set(former["files"]) - set(files):
        os.unlink(path)
    for name in set(former["users"]) - set(system["users"]):
        run("userdel", name)
    for name in system["groups"]:
        run("groupadd", "--force", "--system", name)
    for name, user in system["users"].items():
        known = name in [entry.pw_name for entry in pwd.getpwall()]
        options = [
            "--gid",
            user["group"],
            "--home-dir" if not known else "--home",
            user["home"],
            "--shell",
            user["shell"],
        ]
        options += ["--comment", user["description"], "--password", user["hashedPassword"] or "!"]
        run(*(["usermod"] if known else ["useradd", "--system", "--no-create-home"]), *options, name)
    write("/etc/tmpfiles.d/nixos.conf", "".join(f"{rule}\n" for rule in system["tmpfiles"]), 0o644)
    run("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/nixos.conf")
    for path, entry in files.items():
        write(path, entry["text"], 0o444 if entry["mode"] == "symlink" else int(entry["mode"], 8))
    write(STATE, json.dumps({"files": sorted(files), "users": sorted(system["users"])}), 0o644)
    run("sshd", "-t")
    run("systemctl", "reload", "ssh")
    run("systemctl", "restart", "nix-daemon.service")


main()
