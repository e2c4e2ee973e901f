#!/bin/sh
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Rotates sshd's host keys. KEY.next is the key that takes the place of KEY, and the only thing that is kept of the rotation.
# Usage: host_keys.sh stages|begin|switch|end
#   stages   prints a line for each key, of words with tabs between them: stage, file, public key, next public key. Stages:
#            none, begun (there is a next key), switched (it is in place), left (not touched; the third word says why)
#   begin    makes a next key of the same kind for each key that has none
#   switch   puts the next keys in place; sshd then has to be reloaded
#   end      removes what tells of the rotation
set -eu
PATH=$PATH:/usr/sbin:/sbin

# sshd reads no configuration without it.
[ -d /run/sshd ] || mkdir -m 0755 /run/sshd
effective=$(sshd -T -C user=root,host=localhost,addr=127.0.0.1)

# OpenSSH 10.6 writes keywords as they are in the manual, and some lines twice.
setting() { # KEYWORD, in lower case
  printf '%s\n' "$effective" | awk -v keyword="$1" 'tolower($1) == keyword && !seen[$0]++ { sub(/^[^ ]+ /, ""); print }'
}

public_key() { # FILE
  ssh-keygen -y -P '' -f "$1" 2>/dev/null | cut -d ' ' -f 1,2
}

kind() { # FILE: type and bits, as ssh-keygen takes them; nothing for what is not made anew
  ssh-keygen -l -f "$1" | sed -nE 's/^([0-9]+) .*[(](ED25519|ECDSA|RSA)[)]$/\2 \1/p' | tr '[:upper:]' '[:lower:]'
}

# Why the file is left alone; nothing if it is not.
reason() { # FILE
  if setting hostcertificate | grep -qvx none; then
    echo "sshd shows a certificate, which its authority would have to make anew (HostCertificate)"
  elif setting hostkeyagent | grep -qvx none; then
    echo "an agent holds the host keys (HostKeyAgent)"
  elif [ -L "$1" ] || [ ! -f "$1" ]; then
    echo "it is a link or no ordinary file, so something else manages it"
  elif [ -z "$(public_key "$1")" ]; then
    echo "its private key cannot be read"
  elif [ -z "$(kind "$1")" ]; then
    echo "it is neither ed25519 nor ecdsa nor rsa"
  fi
}

stage() { # FILE
  if [ ! -e "$1.next" ]; then
    echo none
  elif cmp -s "$1" "$1.next"; then
    echo switched
  else
    echo begun
  fi
}

# A killed run leaves a whole key or none: its name comes last. It is as readable as the present one, and no more before that.
begin() { # FILE
  rm -f "$1.new" "$1.new.pub"
  # shellcheck disable=SC2046
  set -- "$1" $(kind "$1")
  ssh-keygen -q -t "$2" -b "$3" -N '' -C "nixfleet:$(uname -n)" -f "$1.new"
  chown --reference="$1" "$1.new"
  chmod --reference="$1" "$1.new"
  mv -f "$1.new.pub" "$1.next.pub"
  mv "$1.new" "$1.next"
}

# Of two halves that do not fit, sshd takes the private one.
switch() { # FILE
  rm -f "$1.new"
  if ! cmp -s "$1.next" "$1"; then
    ln "$1.next" "$1.new"
    mv -f "$1.new" "$1"
  fi
  cp "$1.next.pub" "$1.new.pub"
  chmod 0644 "$1.new.pub"
  mv -f "$1.new.pub" "$1.pub"
}

setting hostkey | while IFS= read -r file; do
  [ -e "$file" ] || continue
  why=$(reason "$file")
  stage=$(stage "$file")
  case $1:${why:+left}:$stage in
    stages:left:*) printf 'left\t%s\t%s\n' "$file" "$why" ;;
    stages::none) printf 'none\t%s\t%s\n' "$file" "$(public_key "$file")" ;;
    stages::*) printf '%s\t%s\t%s\t%s\n' "$stage" "$file" "$(public_key "$file")" "$(public_key "$file.next")" ;;
    begin::none) begin "$file" ;;
    # Again where it is in place: a run may have been killed before it had its public half.
    switch::begun | switch::switched) switch "$file" ;;
    end::switched) rm -f "$file.next.pub" "$file.next" ;;
  esac
done
