#!/usr/bin/env bash
# The checks that read code without running it: formatting, clang-tidy, self-contained headers, file sizes.
#   scripts/lint.sh [--fix]      --fix formats in place and does nothing else
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/install_deps.sh scripts/packages.txt scripts/packages-ci.txt

mapfile -t sources < <(git ls-files '*.h' '*.cc' '*.cu' '*.cuh')
if [ "${1:-}" = --fix ]; then
  clang-format -i "${sources[@]}"
  exit 0
fi
clang-format --dry-run -Werror "${sources[@]}"

# A file above these lengths holds two nouns (style: one file, one noun).
too_long=$(for file in "${sources[@]}"; do
  lines=$(wc -l <"$file")
  case $file in
    tests/*) limit=600 ;;
    *.h) limit=250 ;;
    *.cuh | *.cu) limit=700 ;;
    *) limit=500 ;;
  esac
  [ "$lines" -le "$limit" ] || echo "$file has $lines lines, limit $limit"
done)
if [ -n "$too_long" ]; then
  echo "$too_long" >&2
  exit 1
fi

# A configured tree gives the compile commands; generated protos must exist for the headers.
cmake --preset ci-tsan >/dev/null
cmake --build build/cpu-tsan --target proto all_headers >build/cpu-tsan/lint.log 2>&1 || {
  grep -E -A12 'error|FAILED' build/cpu-tsan/lint.log >&2
  echo "lint: a header does not compile by itself" >&2
  exit 1
}
# What that tree does not compile (it is one without CUDA) has no commands to check it with.
own=()
while read -r file; do
  if grep -qF "\"file\": \"$PWD/$file\"" build/cpu-tsan/compile_commands.json; then
    own+=("$file")
  else
    echo "lint: clang-tidy leaves out $file"
  fi
done < <(git ls-files 'common/*.cc' 'kernels/*.cc' 'worker/*.cc' 'router/*.cc' 'cli/*.cc')
printf '%s\n' "${own[@]}" | xargs -P "$(nproc)" -n 4 clang-tidy -p build/cpu-tsan --quiet 2>/dev/null ||
  { echo "lint: clang-tidy found the above" >&2; exit 1; }
