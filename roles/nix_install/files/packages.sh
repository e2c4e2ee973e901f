#!/bin/sh
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# What apt and dpkg have of the packages named, as JSON: which are not installed, what would be installed with them, whether
# apt knows them all, whether dpkg was interrupted, and whether Ansible's apt module could look itself.
missing="" dependencies="" known=true interrupted=false python_apt=false
for package; do
    state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null)
    [ "$state" = installed ] || missing="$missing${missing:+, }\"$package\""
    [ -n "$(apt-cache show "$package" 2>/dev/null)" ] || known=false
done
for package in $(apt-get --simulate install "$@" 2>/dev/null | sed -n 's/^Inst \([^ ]*\) (.*/\1/p'); do
    case " $* " in
        *" $package "*) ;;
        *) dependencies="$dependencies${dependencies:+, }\"$package\"" ;;
    esac
done
# Half-installed packages, or a journal that apt wants to be worked off first.
[ -z "$(dpkg --audit; ls -A /var/lib/dpkg/updates)" ] || interrupted=true
! /usr/bin/python3 -c 'import apt_pkg' 2>/dev/null || python_apt=true
printf '{"missing": [%s], "dependencies": [%s], "known": %s, "interrupted": %s, "python_apt": %s}\n' \
    "$missing" "$dependencies" "$known" "$interrupted" "$python_apt"
