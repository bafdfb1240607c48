#!/usr/bin/env bash
# The standard tests on a fresh machine, or with --deep those that take long (test/support/tiers.cjs): sets up, builds the add-on, the
# bundle and the native tests, runs ctest (with further arguments, if any) and jest. Deep runs compile all instruction sets.
# Counts are left in build/ctest[-deep].json and build/jest[-deep].json, for .ci/run.
set -euo pipefail
cd "$(dirname "$0")/.."
tier=standard counts=
if [ "${1:-}" = --deep ]; then
  tier=deep counts=-deep
  export LORA_SIMD_BUILD=all LORA_HISTORIES="${LORA_HISTORIES:-200}"
  shift
fi
scripts/setup.sh
npm run --silent build:js & js=$!
status=0
node scripts/ctest.mjs --$tier "$@" || status=$? # builds the add-on too
wait "$js"
[ $status -ne 3 ] || exit 3 # the build failed: jest has nothing to test
npx jest --config "jest.config.$tier.cjs" --json --outputFile="build/jest$counts.json" || status=1
exit $status
