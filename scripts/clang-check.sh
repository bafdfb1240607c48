#!/usr/bin/env bash
# Every native file through clang's front end, without a warning: for this machine, and for 64-bit ARM against Debian 11's
# headers, which is as near as a Linux machine comes to macOS (its own file, platform/macos.cc, needs Apple's headers).
set -uo pipefail
cd "$(dirname "$0")/.."
clang=${CLANGXX:-clang++-19}
command -v "$clang" >/dev/null || { echo "clang-check: no $clang (Debian: clang-19)" >&2; exit 1; }
highway=$(mktemp -d)
trap 'rm -rf "$highway"' EXIT
ln -s "${LORA_HIGHWAY:-/usr/include}/hwy" "$highway/hwy"

flags=(-std=c++20 -fsyntax-only -Wall -Wextra -Werror -fno-math-errno -Inative -isystem "$highway"
  -isystem node_modules/node-api-headers/include -isystem node_modules/node-addon-api
  -DNAPI_VERSION=8 -DNAPI_CPP_EXCEPTIONS -DNODE_ADDON_API_DISABLE_DEPRECATED)
old=$(node -e "import('./scripts/sysroot.mjs').then(({ sysroot }) => console.log(sysroot('arm64')))" | tail -n 1) || exit 1
arm=(--target=aarch64-linux-gnu "--sysroot=$old" -include cmake/older_libstdcxx.h)

files=(native/core/*/*.cc native/core/runtime/platform/{posix,linux}.cc native/backend/{reference,cpu,cpu/*,no_cuda}/*.cc native/node/*.cc)
count=0 failed=0
check() { # check FILE FLAGS...
  "$clang" "${flags[@]}" "${@:2}" "$1" || { echo "failed: $1 ${*:2}" >&2; return 1; }
}
for file in "${files[@]}"; do
  check "$file" "-DHWY_DISABLED_TARGETS=(HWY_SSSE3|HWY_AVX3_DL)" || failed=$((failed + 1))
  check "$file" "${arm[@]}" "-DHWY_DISABLED_TARGETS=(HWY_ALL_SVE)" || failed=$((failed + 1))
  count=$((count + 1))
done
echo "$clang: $count files for x86-64 and aarch64, $failed with warnings or errors"
[ "$failed" -eq 0 ]
