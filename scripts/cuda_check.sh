#!/usr/bin/env bash
# Runs the tests of CUDA code on this machine's device, plainly and then under compute-sanitizer: accesses out of bounds
# or misaligned, races in shared memory, barriers not reached by all, reads of memory nothing wrote.
#   scripts/cuda_check.sh [--binaries FOLDER] [--tool TOOL]... [--max-ms N | --all] [--seconds N] [--total-seconds N]
#                         [--jobs N] [--tests WORDS]
#     --binaries       the tests' programs; default: $LONGHAUL_CUDA_TESTS, else build/release/tests
#     --tool           memcheck, racecheck, synccheck, initcheck; again for more; default: all four
#     --max-ms         tools are 10 to 50 times slower: they run the tests that took at most so long plainly (500)
#     --all            they run all tests
#     --seconds        for one program under one tool (60); what has not ended then is stopped
#     --total-seconds  for everything (no limit); what has not begun then does not
#     --jobs           programs that run at the same time (4)
#     --tests          programs whose names have this in them; default: every *_cuda*_test
# Ends with a table, a line for each program and tool. Status 1 if a test failed, 2 if there is no device or no test,
# 3 if none failed but some were stopped or not begun, or compute-sanitizer refuses the device.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; echo "cuda_check: $1" >&2; exit 2; }
folder=${LONGHAUL_CUDA_TESTS:-build/release/tests}
PLAIN_SECONDS=120
tools=() max_ms=500 seconds=60 total=0 jobs=4 words=
while [ $# -gt 0 ]; do
  [ "$1" = --all ] && { max_ms=; shift; continue; }
  [ $# -ge 2 ] || usage "$1: a value is missing"
  case $1 in
    --binaries) folder=$2 ;;
    --tool)
      case $2 in memcheck | racecheck | synccheck | initcheck) tools+=("$2") ;; *) usage "--tool $2 is none" ;; esac ;;
    --max-ms) max_ms=$2 ;;
    --seconds) seconds=$2 ;;
    --total-seconds) total=$2 ;;
    --jobs) jobs=$2 ;;
    --tests) words=$2 ;;
    *) usage "$1: no such flag" ;;
  esac
  shift 2
done
[ ${#tools[@]} -gt 0 ] || tools=(memcheck racecheck synccheck initcheck)
for number in "${max_ms:-0}" "$seconds" "$total" "$jobs"; do
  [[ $number =~ ^[0-9]+$ ]] || usage "$number is no number"
done
if [ "$jobs" -eq 0 ] || [ "$seconds" -eq 0 ]; then usage "--jobs and --seconds are at least 1"; fi
export LONGHAUL_SOURCE_DIR=$PWD

nvidia-smi -L >/dev/null 2>&1 || { echo "cuda_check: no CUDA device" >&2; exit 2; }
sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
[ -x "$sanitizer" ] || { echo "cuda_check: no compute-sanitizer, not at $sanitizer either" >&2; exit 2; }
shopt -s nullglob
tests=()
for test in "$folder"/*_cuda_test "$folder"/*_cuda_{backend,model}_test; do
  [[ $(basename "$test") == *"$words"* ]] && tests+=("$test")
done
[ ${#tests[@]} -gt 0 ] || { echo "cuda_check: no tests${words:+ named *$words*} in $folder" >&2; exit 2; }
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
has_time() { [ "$total" -eq 0 ] || [ $SECONDS -lt "$total" ]; }

# What a run was, as a line of the table, and the beginning of what it had to say if it failed.
report() {  # name, tool, status, seconds, tests that were to run
  local log=$logs/$1.$2 passed state
  passed=$(grep -c '^\[       OK' "$log")
  if grep -q 'Device not supported' "$log"; then  # of compute-sanitizer, in some sandboxes
    state=refused
    : >"$logs/refused"
  elif [ "$3" -eq 124 ] || [ "$3" -eq 137 ]; then
    state=stopped
  elif [ "$3" -ne 0 ]; then
    state=FAILED
  elif [ "$passed" -eq 0 ]; then  # a test that skips itself has passed nothing
    state=nothing
  else
    state=ok
  fi
  printf '%-8s %-46s %-10s %3s of %3s tests %4s s\n' "$state" "$1" "$2" "$passed" "$5" "$4" >"$logs/$1.$2.line"
  cat "$logs/$1.$2.line"
  [ "$state" = FAILED ] && grep -E 'Failure|FAILED|ERROR|Error|=========|rror:' "$log" | head -n 40
  return 0
}

# A program under a tool: the tests that `plain` found cheap.
check() {  # test, tool
  local name filter count begin=$SECONDS
  name=$(basename "$1")
  filter=$(sed -n 's/^\[       OK \] \([^ ,]*\).* (\([0-9]*\) ms)$/\1 \2/p' "$logs/$name.plain" |
    awk -v most="${max_ms:-1000000000}" '$2 <= most { printf "%s%s", sep, $1; sep = ":" }')
  if [ -z "$filter" ]; then
    printf '%-8s %-46s %-10s no test passed plainly within %s ms\n' nothing "$name" "$2" "$max_ms" \
      >"$logs/$name.$2.line"
    cat "$logs/$name.$2.line"
    return
  fi
  count=$(tr ':' '\n' <<<"$filter" | wc -l)
  timeout -k 5 "$seconds" "$sanitizer" --tool "$2" --error-exitcode 1 --launch-timeout 0 "$1" \
    --gtest_filter="$filter" >"$logs/$name.$2" 2>&1
  report "$name" "$2" $? $((SECONDS - begin)) "$count"
}

plain() {  # test
  local name begin=$SECONDS
  name=$(basename "$1")
  timeout -k 5 "$PLAIN_SECONDS" "$1" >"$logs/$name.plain" 2>&1
  report "$name" plain $? $((SECONDS - begin)) \
    "$(sed -n 's/^\[==========\] Running \([0-9]*\) test.*/\1/p' "$logs/$name.plain")"
}

await_place() {
  while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
}
for test in "${tests[@]}"; do
  await_place
  plain "$test" &
done
wait
for tool in "${tools[@]}"; do
  for test in "${tests[@]}"; do
    await_place
    if [ -e "$logs/refused" ]; then
      printf '%-8s %-46s %-10s\n' refused "$(basename "$test")" "$tool" >"$logs/$(basename "$test").$tool.line"
    elif has_time; then
      check "$test" "$tool" &
    else
      printf '%-8s %-46s %-10s\n' "no time" "$(basename "$test")" "$tool" >"$logs/$(basename "$test").$tool.line"
    fi
  done
done
wait
echo "== $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -n 1), $SECONDS s, ${tools[*]}," \
  "tests of at most ${max_ms:-any} ms"
for tool in plain "${tools[@]}"; do
  for test in "${tests[@]}"; do cat "$logs/$(basename "$test").$tool.line"; done
done | tee "$logs/table"
grep -q '^FAILED' "$logs/table" && exit 1
grep -qE '^(stopped|no time|nothing|refused)' "$logs/table" && exit 3
exit 0
