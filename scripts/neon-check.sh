#!/usr/bin/env bash
# Compiles every file of the CPU backend for 64-bit ARM (NEON) with the cross compiler, as objects that nothing
# runs: proof that no kernel leans on x86. Without that compiler: skipped, but an error in CI.
#   scripts/neon-check.sh [FILE.cc ...]      all of native/backend/cpu by default
set -uo pipefail
cd "$(dirname "$0")/.."

compiler=${NEON_CXX:-aarch64-linux-gnu-g++}
if ! command -v "$compiler" >/dev/null; then
  echo "skipped: no cross compiler ($compiler; Debian: g++-aarch64-linux-gnu)"
  [ -z "${CI:-}" ] || { echo "neon-check: it is required in CI" >&2; exit 1; }
  exit 0
fi

# Highway's headers are the same on every architecture. They are searched last, so that the host's libc in that
# directory never hides the target's.
highway=${LORA_HIGHWAY:-/usr/include}
if [ ! -e "$highway/hwy/highway.h" ]; then
  echo "neon-check: no hwy/highway.h in $highway (Debian: libhwy-dev)" >&2
  exit 1
fi

files=("$@")
[ ${#files[@]} -gt 0 ] || files=(native/backend/cpu/{*,*/*}.cc)
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
launcher=$(command -v ccache || true)

compile() {
  $launcher "$compiler" -std=c++20 -O1 -Wall -Wextra -Werror -fno-math-errno -fPIC -Inative -idirafter "$highway" \
    "-DHWY_DISABLED_TARGETS=(HWY_ALL_SVE)" -c "$1" -o "$out/$(basename "$1").o" 2>"$out/$(basename "$1").log" ||
    { echo "failed: $1" && head -n 40 "$out/$(basename "$1").log"; } >&2
}

# At most as many at a time as there are processors.
for file in "${files[@]}"; do
  while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n || true; done
  compile "$file" &
done
wait

built=$(find "$out" -name '*.o' | wc -l)
echo "compiled $built of ${#files[@]} files of the CPU backend for aarch64 with $("$compiler" -dumpfullversion) (not run)"
[ "$built" -eq ${#files[@]} ]
