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
ctest --test-dir "$folder" --output-on-failure --no-tests=error "${exclude[@]}" "$@" \
  >"$log" 2>&1 || status=$?
[ "$status" = 0 ] || grep -vE '^ +Start +[0-9]+:|   Passed +[0-9.]+ sec$' "$log" >&2

# What a passing test left out, and why.
grep -hE '^(\[  SKIPPED \]|SKIPPED|.*: Skipped$)' "$folder/Testing/Temporary/LastTest.log" |
  sort -u | sed 's/^/test.sh: /' || true
if ! grep -q '^CMAKE_CUDA_COMPILER:[A-Z]*=/' "$folder/CMakeCache.txt"; then
  echo "test.sh: without nvcc no CUDA code was compiled, and no test of it was run"
fi
sed -n '/tests passed/,$p' "$log"
exit "$status"
