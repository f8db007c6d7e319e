#!/usr/bin/env bash
# Makes .venv in the repository's root hold exactly what tests/requirements.txt pins.
#
# Quiet and quick when it already does; otherwise one line says what is being done. Safe to run twice, and from two
# shells at once (the second waits for the first). Ends with status 1 and names what is missing when it cannot.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"
requirements="$root/tests/requirements.txt"
stamp="$venv/.requirements.sha256"

fail() {
  echo "python_env: $*" >&2
  exit 1
}

command -v python3 > /dev/null || fail "python3 is missing (Debian package: python3)"
command -v flock > /dev/null || fail "flock is missing (Debian package: util-linux)"
[[ -r "$requirements" ]] || fail "cannot read $requirements"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "$(python3 --version) is too old, 3.11 or newer is needed (Debian 12 package: python3)"

# What the environment depends on: the pins, the interpreter, and the place, since a venv cannot be moved.
wanted="$({ cat "$requirements"; python3 -VV; command -v python3; echo "$venv"; } | sha256sum | cut -d' ' -f1)"
is_current() {
  [[ -x "$venv/bin/python" && -r "$stamp" && "$(< "$stamp")" == "$wanted" ]]
}
is_current && exit 0

# Two shells that find the environment stale at once must not install into it together.
mkdir -p "$root/build" || fail "cannot create $root/build"
exec 9> "$root/build/.python_env.lock" || fail "cannot write $root/build/.python_env.lock"
flock -w 900 9 || fail "another python_env.sh has held $root/build/.python_env.lock for 15 minutes"
is_current && exit 0

python3 -c 'import ensurepip, venv' 2> /dev/null ||
  fail "python3 cannot create virtual environments (Debian package: python3-venv)"
echo "python_env: installing the Python packages of the tests into .venv"
log="$root/build/python_env.log"
rm -f "$stamp"
if ! { python3 -m venv --clear "$venv" &&
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input -r "$requirements" &&
  "$venv/bin/python" -m pip check; } > "$log" 2>&1; then
  tail -n 20 "$log" >&2
  fail "could not install $requirements into $venv (whole log: $log)"
fi
echo "$wanted" > "$stamp"
