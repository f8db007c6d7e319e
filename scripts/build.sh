#!/usr/bin/env bash
# Installs what is missing and builds a preset into build/<preset>. Quiet when all is well.
#   scripts/build.sh [PRESET [TARGET...]]      default: release, everything
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:-release}
shift || true
./scripts/install_deps.sh

# A CI preset shares the folder of the preset it tightens.
folder=build/$(echo "$preset" | sed 's/^ci-release$/release/; s/^ci-/cpu-/')
mkdir -p "$folder"
log=$folder/build.log
if ! cmake --preset "$preset" >"$log" 2>&1; then
  cat "$log" >&2
  echo "build: cmake --preset $preset failed" >&2
  exit 1
fi
if ! cmake --build "$folder" ${1:+--target "$@"} >"$log" 2>&1; then
  grep -E -A12 'error|FAILED|undefined reference' "$log" >&2 || tail -n 60 "$log" >&2
  echo "build: preset $preset failed, whole log in $log" >&2
  exit 1
fi
