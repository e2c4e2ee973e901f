# shellcheck shell=bash
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Sourced by the developers' scripts: where things are, how to install what is missing, which Pythons there are.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD=$ROOT/.build
export ROOT BUILD

# Ansible refuses to start without a UTF-8 locale, and a bare machine has none but this.
export LC_ALL=C.UTF-8
# The checkout seen as ansible_collections/nixfleet/builders; nothing a user has installed may shadow it.
export ANSIBLE_COLLECTIONS_PATH=$BUILD/collections
export ANSIBLE_HOME=$BUILD/ansible
export PIP_DISABLE_PIP_VERSION_CHECK=1

die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# link_collection: makes ANSIBLE_COLLECTIONS_PATH lead to this checkout.
link_collection() {
  mkdir -p "$BUILD/collections/ansible_collections/nixfleet"
  ln -sfn "$ROOT" "$BUILD/collections/ansible_collections/nixfleet/builders"
}

# need_commands COMMAND=PACKAGE...: installs the Debian packages of the commands that are missing.
need_commands() {
  local pair missing=()
  for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  install_packages "${missing[@]}"
}

install_packages() {
  command -v apt-get >/dev/null || die "please install: $* (there is no apt-get here to do it)"
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "please install, as root: $*"
    as_root=(sudo)
  fi
  echo "installing: $*"
  mkdir -p "$BUILD"
  (
    # Stages that run side by side may want something at the same time.
    flock 8
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null
  ) 8>"$BUILD/apt.lock"
}

# pythons: each Python interpreter of this machine, as "3.12 /path/to/python", the highest version first, one path each.
pythons() {
  local candidate dir
  {
    IFS=: read -ra dirs <<<"$PATH"
    for dir in "${dirs[@]}" /usr/local/bin /usr/bin "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin "$HOME"/.local/share/uv/python/*/bin; do
      for candidate in "$dir"/python3 "$dir"/python3.[0-9] "$dir"/python3.[0-9][0-9]; do
        if [ -x "$candidate" ]; then readlink -f "$candidate"; fi
      done
    done
  } | grep -v "^$BUILD/" | sort -u | while read -r candidate; do
    "$candidate" -c 'import sys; print("%d.%d %s" % (sys.version_info[:2] + (sys.executable,)))' 2>/dev/null || true
  done | sort -t. -k2,2nr -s | awk '!seen[$1]++'
}

# python_between LOW HIGH: the path of the highest 3.x with LOW <= x <= HIGH, or nothing. The machine's own python3 wins where it fits.
python_between() {
  local low=$1 high=$2 version path own
  own=$(python3 -c 'import sys; print(sys.version_info[1])' 2>/dev/null || echo 0)
  if [ "$own" -ge "$low" ] && [ "$own" -le "$high" ]; then
    python3 -c 'import sys; print(sys.executable)'
    return
  fi
  while read -r version path; do
    if [ "${version#3.}" -ge "$low" ] && [ "${version#3.}" -le "$high" ] && [ "${version%%.*}" -eq 3 ]; then
      echo "$path"
      return
    fi
  done < <(pythons)
}
