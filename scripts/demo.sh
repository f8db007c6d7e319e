#!/usr/bin/env bash
# Builds Longhaul, serves models/demo on the CPU, and asks it for a pass key hidden in 20,000 tokens.
#   scripts/demo.sh [--keep]      --keep leaves the server running and says what to try next
set -euo pipefail
cd "$(dirname "$0")/.."
keep=false
case "${1:-}" in
  --keep) keep=true ;;
  '') ;;
  *) echo "usage: scripts/demo.sh [--keep]" >&2; exit 2 ;;
esac
port=${LONGHAUL_PORT:-8000}
grpc_port=${LONGHAUL_GRPC_PORT:-9000}

./scripts/build.sh release longhaul longhaul-router longhaul-worker
exec python3 scripts/demo.py --program build/release/bin/longhaul --model models/demo \
  --port "$port" --grpc-port "$grpc_port" $($keep && echo --keep)
