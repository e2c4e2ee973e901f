#!/bin/sh
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes the Nix of a host an ordinary user's, whose account is made as by hand. Usage: own.sh USER ROOT [TARBALL]
# Without a tarball it is that of Debian's packages. ROOT is where the store will be: /nix, or a directory that a wrapper shows as /nix.
set -eu
user=$1 root=$2 tarball=${3-}
useradd --create-home --shell /bin/bash --password "\$6\$salt\$hash" "$user"
home=/home/$user
install -d -o "$user" -g "$user" -m 700 "$home/.ssh" "$home/.config" "$home/.config/nix"
install -o "$user" -g "$user" -m 600 /root/.ssh/authorized_keys "$home/.ssh/authorized_keys"
echo '# mine' >"$home/.ssh/config"
printf 'sandbox = false\nsubstituters =\n' >"$home/.config/nix/nix.conf"
chown "$user:$user" "$home/.ssh/config" "$home/.config/nix/nix.conf"
if [ -z "$tarball" ]; then
  systemctl disable --quiet --now nix-daemon.socket nix-daemon.service
  rm -rf /nix/var/nix/daemon-socket
  chown -R "$user:$user" /nix
  exit
fi
install -d -o "$user" -g "$user" "$root"
# What the installer does, as the user.
cat >/tmp/unpack.sh <<'END'
set -eu
root=$1 tarball=$2
cd "$HOME"
python3 -m tarfile -e "$tarball" .
mkdir -p "$root/store" "$root/var/nix/profiles"
cp -a nix-*/store/* "$root/store/"
cp nix-*/.reginfo reginfo
nix=/nix/store/$(cd nix-*/store && ls -d ./*-nix-[0-9]* | cut -c 3-)
ln -s "$nix" "$root/var/nix/profiles/default-1-link"
ln -s default-1-link "$root/var/nix/profiles/default"
ln -s /nix/var/nix/profiles/default .nix-profile
chmod -R u+w nix-* && rm -r nix-*
END
runuser -l "$user" -c "sh /tmp/unpack.sh $root $tarball"
