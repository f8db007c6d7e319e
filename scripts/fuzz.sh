#!/usr/bin/env bash
# Builds the libFuzzer targets (preset fuzz), runs each for a time, and ends with a table of what was
# run and found. Exits 1 on a finding; what provoked it lies in build/fuzz/findings/<target>.
#   scripts/fuzz.sh [--seconds N] [--jobs N] [--keep] [target...]
#     --seconds N   for each target, default 600
#     --jobs N      targets at the same time, default 1
#     --keep        add inputs that reach something new to tests/fuzz/corpus
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=600
jobs=1
keep=
targets=()
while [ $# -gt 0 ]; do
  case $1 in
    --seconds) seconds=$2; shift ;;
    --jobs) jobs=$2; shift ;;
    --keep) keep=1 ;;
    -*) echo "fuzz.sh: unknown option $1" >&2; exit 2 ;;
    *) targets+=("$1") ;;
  esac
  shift
done
if [ ${#targets[@]} = 0 ]; then
  for source in tests/fuzz/*_fuzz.cc; do targets+=("$(basename "$source" _fuzz.cc)"); done
fi

cmake --preset fuzz >/dev/null
cmake --build --preset fuzz --target "${targets[@]/%/_fuzz}"

# Some targets read files; memory is a faster place for them than a disk.
[ ! -w /dev/shm ] || export TMPDIR=${TMPDIR:-/dev/shm}

build=$PWD/build/fuzz
kept=$PWD/tests/fuzz/corpus
dicts=$PWD/tests/fuzz

# New inputs go to the first folder, which is not the kept one.
fuzz_one() {
  local name=$1 work=$build/work/$1 found=$build/findings/$1 options=() timeout=10
  mkdir -p "$work" "$found"
  [ ! -f "$dicts/$name.dict" ] || options+=("-dict=$dicts/$name.dict")
  [ "$name" != executor ] || timeout=0 # docs/fuzzing.md
  "$build/fuzz/${name}_fuzz" -max_total_time="$seconds" -max_len=4096 -timeout="$timeout" \
    -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="$found/" "${options[@]}" \
    "$work" "$kept/$name" >"$work.log" 2>&1 || echo "$name" >>"$build/failed"
}

rm -f "$build/failed"
for name in "${targets[@]}"; do
  while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
  fuzz_one "$name" &
done
wait

if [ -n "$keep" ]; then
  for name in "${targets[@]}"; do
    # By edges, not by how often they are taken: that would keep thousands.
    "$build/fuzz/${name}_fuzz" -merge=1 -use_counters=0 -max_len=4096 "$kept/$name" "$build/work/$name" \
      >"$build/work/$name.merge.log" 2>&1
  done
fi

printf '%-16s %12s %8s %8s %9s\n' target executions seconds corpus findings
for name in "${targets[@]}"; do
  log=$build/work/$name.log
  executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  ran=$(sed -n 's/^Done [0-9]* runs in \([0-9]*\) second.*/\1/p' "$log")
  findings=$(grep -cxF "$name" "$build/failed" 2>/dev/null || true)
  printf '%-16s %12s %8s %8s %9s\n' "$name" "${executions:-?}" "${ran:-?}" \
    "$(find "$kept/$name" -type f | wc -l)" "${findings:-0}"
done
[ ! -f "$build/failed" ]
