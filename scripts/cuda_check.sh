#!/usr/bin/env bash
# Runs the tests of CUDA kernels on this machine's device, plainly and then under compute-sanitizer: accesses out of
# bounds or misaligned, races in shared memory, barriers not reached by all, reads of memory nothing wrote.
#   scripts/cuda_check.sh [FOLDER] [TOOL...]     default: build/release/tests, then memcheck racecheck synccheck initcheck
# Ends with a line for each test and tool; status 1 if one failed, 2 if there is no device or no test.
set -uo pipefail
cd "$(dirname "$0")/.."
folder=${1:-build/release/tests}
shift || true
tools=("$@")
[ ${#tools[@]} -gt 0 ] || tools=(memcheck racecheck synccheck initcheck)
export LONGHAUL_SOURCE_DIR=$PWD

nvidia-smi -L >/dev/null 2>&1 || { echo "cuda_check: no CUDA device" >&2; exit 2; }
sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
shopt -s nullglob
tests=("$folder"/*_cuda_test "$folder"/*_cuda_{backend,model}_test)
[ ${#tests[@]} -gt 0 ] || { echo "cuda_check: no tests in $folder" >&2; exit 2; }
log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=0
report() {  # name, tool, status
  local passed
  passed=$(grep -c '\[       OK' "$log")
  if [ "$3" -eq 0 ] && [ "$passed" -gt 0 ]; then  # a test that skips itself has passed nothing
    echo "ok      $1 $2 $passed tests"
  else
    echo "FAILED  $1 $2"
    grep -E 'Failure|ERROR|Error|=========' "$log" | head -n 40
    failed=1
  fi
}
for test in "${tests[@]}"; do
  name=$(basename "$test")
  "$test" >"$log" 2>&1
  report "$name" plain $?
  for tool in "${tools[@]}"; do
    "$sanitizer" --tool "$tool" --error-exitcode 1 --launch-timeout 0 "$test" >"$log" 2>&1
    report "$name" "$tool" $?
  done
done
exit $failed
