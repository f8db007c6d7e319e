#!/usr/bin/env bash
# Installs the Debian packages that are missing. Quiet when there are none.
#   scripts/install_deps.sh [LIST...]      lists of packages, default scripts/packages.txt
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- scripts/packages.txt

wanted=$(cat "$@" | sed 's/#.*//' | tr -s ' \n' ' ')
missing=
for package in $wanted; do
  state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "install_deps: these Debian packages are missing and there is no apt-get:$missing" >&2
  exit 1
fi
as_root=
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "install_deps: run as root, or install sudo; missing packages:$missing" >&2
    exit 1
  fi
  as_root=sudo
fi
echo "install_deps: installing$missing" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# shellcheck disable=SC2086  # a list of words
if ! { $as_root apt-get update -qq &&
       $as_root env DEBIAN_FRONTEND=noninteractive \
         apt-get install -y -qq --no-install-recommends $missing; } >"$log" 2>&1; then
  cat "$log" >&2
  echo "install_deps: apt-get could not install:$missing" >&2
  exit 1
fi
