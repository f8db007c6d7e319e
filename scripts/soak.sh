#!/usr/bin/env bash
# Builds the programs and sends a cluster of them 1,000 requests of all sizes whose clients stay, leave, break off or
# run out of time; ends with one table and status 1 if anything is left of them.
#   scripts/soak.sh [options of tests/soak/soak.py, such as --requests 200 --groups 2 --tensor-parallel-size 2]
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${LONGHAUL_PRESET:-release}
./scripts/build.sh "$preset" longhaul longhaul-router longhaul-worker
./scripts/python_env.sh
folder=$PWD/build/$(echo "$preset" | sed 's/^ci-release$/release/; s/^ci-/cpu-/')
export LONGHAUL_SOURCE_DIR=$PWD LONGHAUL_BIN_DIR=$folder/bin LONGHAUL_STUB_DIR=$folder/tests/soak/stubs
export PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
exec .venv/bin/python tests/soak/soak.py "$@"
