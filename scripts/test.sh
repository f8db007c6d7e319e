#!/usr/bin/env bash
# Builds and runs every test but those labelled slow, and ends with the runner's summary.
#   scripts/test.sh [--slow] [CTest options]      --slow runs the slow ones too
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${LONGHAUL_PRESET:-release}
exclude=(-LE slow)
if [ "${1:-}" = --slow ]; then
  exclude=()
  shift
fi

./scripts/build.sh "$preset"
./scripts/python_env.sh
folder=build/$(echo "$preset" | sed 's/^ci-release$/release/; s/^ci-/cpu-/')
log=$folder/test.log

status=0
ctest --test-dir "$folder" --output-on-failure --no-tests=error "${exclude[@]}" "$@" 2>&1 |
  tee "$log" || status=$?
# What a passing test left out, and why.
skipped=$(grep -rhoE '^\[  SKIPPED \] .*|.*: Skipped$|^SKIPPED .*' "$folder/Testing/Temporary/LastTest.log" |
  sort -u || true)
[ -z "$skipped" ] || printf 'test.sh: skipped here:\n%s\n' "$skipped"
if ! grep -q '^LONGHAUL_HAVE_CUDA' "$folder/CMakeCache.txt" && ! command -v nvcc >/dev/null; then
  echo "test.sh: no nvcc: CUDA code was not compiled and its tests were skipped"
fi
grep -E '^[0-9]+% tests passed' "$log" || true
exit "$status"
