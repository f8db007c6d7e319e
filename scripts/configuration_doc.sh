#!/usr/bin/env bash
# Writes docs/configuration.md from the programs' own settings.
#   scripts/configuration_doc.sh [--check] [BIN_FOLDER]      --check: fail if the page is not current
set -euo pipefail
cd "$(dirname "$0")/.."
check=false
if [ "${1:-}" = --check ]; then
  check=true
  shift
fi
bin=${1:-build/release/bin}

page=$(
  cat <<'END'
# Configuration

Every setting is a flag (`--name value`) and a key of the YAML file given with `--config`; a flag overrides the file, the file overrides the default. An unknown key is an error that names the nearest known one. This page is written by `scripts/configuration_doc.sh`.
END
  for program in "longhaul serve" "longhaul generate" "longhaul plan" "longhaul-router" "longhaul-worker leader" "longhaul-worker rank"; do
    printf '\n## %s\n\n' "$program"
    # shellcheck disable=SC2086  # program and subcommand
    "$bin"/$program --settings-table
  done
)
if $check; then
  diff <(printf '%s\n' "$page") docs/configuration.md ||
    { echo "docs/configuration.md is not current: run scripts/configuration_doc.sh" >&2; exit 1; }
else
  printf '%s\n' "$page" >docs/configuration.md
fi
