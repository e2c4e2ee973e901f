#!/bin/sh
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# mmdebstrap's customize hook: turns a fresh root file system ($1) into a host without Nix ("bare").
set -eu
root=$1

# What a container does not need, or what would only make it boot slower.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    fstrim.timer man-db.timer logrotate.timer motd-news.timer ldconfig.service console-getty.service getty@tty1.service \
    getty.target systemd-networkd.service systemd-networkd.socket systemd-networkd-wait-online.service \
    systemd-resolved.service systemd-timesyncd.service systemd-firstboot.service systemd-homed.service \
    systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-pstore.service \
    systemd-journal-catalog-update.service systemd-update-done.service dev-hugepages.mount dev-mqueue.mount \
    sys-fs-fuse-connections.mount sys-kernel-debug.mount sys-kernel-tracing.mount; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
# sshd must let unprivileged users in as soon as it answers.
mkdir -p "$root/etc/tmpfiles.d" "$root/etc/systemd/journald.conf.d"
ln -sf /dev/null "$root/etc/tmpfiles.d/systemd-nologin.conf"
printf '[Journal]\nStorage=persistent\nSystemMaxUse=64M\n' > "$root/etc/systemd/journald.conf.d/fleet.conf"
touch "$root/etc/default/locale"

# An unprivileged login with password-less sudo; keys come with each host. Debian has a group operator already.
chroot "$root" useradd --uid 1000 --gid users --create-home --shell /bin/bash operator
printf 'operator ALL=(ALL) NOPASSWD: ALL\n' > "$root/etc/sudoers.d/operator"
chmod 0440 "$root/etc/sudoers.d/operator"

# Certificates which this machine's administrator added: hosts share its way to the network.
for file in /usr/local/share/ca-certificates/*.crt; do
    [ -e "$file" ] || continue
    cp "$file" "$root/usr/local/share/ca-certificates/"
done
chroot "$root" update-ca-certificates >/dev/null

# What a test derivation may want beside its shell, as one directory to be taken into the store: the sandbox shows
# nothing of the host but a static /bin/sh, and a busybox that is not named like its applet does nothing.
mkdir -p "$root/opt/fleet-tools/bin"
cp "$root/bin/busybox" "$root/opt/fleet-tools/bin/busybox"
for applet in sh awk base64 basename cat chmod cmp cp cut date dd df dirname du echo env expr false find grep gzip head \
    hostname id ln ls mkdir mktemp mv nproc od printf ps pwd readlink rm rmdir sed seq sha256sum sleep sort stat tail \
    tar tee test touch tr true uname uniq wc xargs yes; do
    ln -s busybox "$root/opt/fleet-tools/bin/$applet"
done

# Tests stay off the Internet. Without this line each build spends 5 s on finding out that no cache can be reached.
# It is added when a package brought nix.conf, because a file that was there before would be a conflict to dpkg.
cat > "$root/usr/local/sbin/fleet-nix-conf" <<'SCRIPT'
#!/bin/sh
conf=/etc/nix/nix.conf
if [ -e "$conf" ] && ! grep -q '^substituters' "$conf"; then
    printf '\n# Test fleet: no binary cache can be reached.\nsubstituters =\n' >> "$conf"
fi
SCRIPT
chmod 0755 "$root/usr/local/sbin/fleet-nix-conf"
echo 'DPkg::Post-Invoke { "/usr/local/sbin/fleet-nix-conf"; };' > "$root/etc/apt/apt.conf.d/90fleet"

# Nix's packages wait in the cache, so that an installation in a host needs no download.
chroot "$root" apt-get clean
chroot "$root" apt-get -y -o APT::Install-Recommends=true --download-only install nix-bin nix-setup-systemd
chroot "$root" apt-cache gencaches

# Each host brings its own.
rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/machine-id" "$root/var/lib/dbus/machine-id" "$root/etc/hostname" \
    "$root/etc/resolv.conf"
