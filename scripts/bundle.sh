#!/usr/bin/env bash
# Packs the programs with the libraries that a plain Linux host lacks into an archive that runs wherever it is
# unpacked, their debug symbols into another, and tries the first in an empty root.
#   scripts/bundle.sh [FOLDER]      default: dist
# The host gives glibc (of Debian 12 or newer) and, for GPUs, the driver and cuBLAS of CUDA 13.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-dist}
limit_mib=60
programs=(longhaul longhaul-router longhaul-worker)

./scripts/build.sh bundle "${programs[@]}"
version=$(sed -n 's/^project(longhaul VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
name=longhaul-$version-linux-$(uname -m)
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
root=$stage/$name
debug=$stage/$name-debug
mkdir -p "$root/lib" "$debug" "$out"
cmake --install build/bundle --prefix "$root" >/dev/null

# Whatever a program loads, but what must be the host's own.
host='^(ld-linux.*|libc|libm|libdl|librt|libpthread|libresolv|libcuda|libcublas.*|libnccl)\.so'
for program in "${programs[@]}"; do
  missing=$(ldd "$root/bin/$program" | awk '/not found/ {print $1}' | grep -Ev "$host" || true)
  [ -z "$missing" ] || { echo "bundle: $program needs $missing, which this machine lacks" >&2; exit 1; }
  ldd "$root/bin/$program" | awk '$2 == "=>" && $3 ~ "^/" {print $1, $3}'
done | sort -u | while read -r library path; do
  if [[ ! $library =~ $host ]]; then cp -L "$path" "$root/lib/$library"; fi
done
for program in "${programs[@]}"; do
  objcopy --only-keep-debug "$root/bin/$program" "$debug/$program.debug"
  strip --strip-unneeded "$root/bin/$program"
  objcopy --add-gnu-debuglink="$debug/$program.debug" "$root/bin/$program"
done
cp README.md LICENSE* "$root" 2>/dev/null || cp README.md "$root"

# An empty root has the bundle and what is the host's own: glibc.
try=$stage/root
mkdir -p "$try"/{bundle,tmp,proc,dev,models}
cp -a "$root/." "$try/bundle"
cp -a models/demo "$try/models"
for program in "$root"/bin/*; do ldd "$program"; done | awk '$2 == "=>" {print $3} $1 ~ /^\/.*ld-linux/ {print $1}' |
  sort -u | while read -r path; do
  if [[ $(basename "$path") =~ $host && $path != *libcu* && $path != *libnccl* ]]; then
    mkdir -p "$try$(dirname "$path")"
    cp -L "$path" "$try$path"
  fi
done
cat >"$stage/try.sh" <<'TRY'
mount -t proc proc "$1/proc"
touch "$1/dev/null" && mount --bind /dev/null "$1/dev/null"
touch "$1/dev/urandom" && mount --bind /dev/urandom "$1/dev/urandom"
for program in longhaul longhaul-router longhaul-worker; do
  chroot "$1" "/bundle/bin/$program" --help >/dev/null || exit 1
done
echo "the pass key is" | chroot "$1" /bundle/bin/longhaul generate --raw --prompt-file - --max-tokens 4 /models/demo
TRY
timeout 120 unshare --user --map-root-user --mount --pid --fork sh "$stage/try.sh" "$try" ||
  { echo "bundle: the programs do not run in an empty root" >&2; exit 1; }

for folder in "$name" "$name-debug"; do
  tar -C "$stage" -cf - "$folder" | xz -T0 -6 >"$out/$folder.tar.xz"
  echo "$out/$folder.tar.xz $(($(stat -c %s "$out/$folder.tar.xz") >> 10)) KiB"
done
size=$(stat -c %s "$out/$name.tar.xz")
[ "$size" -le $((limit_mib << 20)) ] || { echo "bundle: $size bytes, limit $limit_mib MiB" >&2; exit 1; }
