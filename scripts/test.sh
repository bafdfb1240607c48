#!/usr/bin/env bash
# All tests on a fresh machine: sets up, builds the add-on, the bundle and the native tests, runs ctest and jest.
# Counts are left in build/ctest.json and build/jest.json, for .ci/run.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
npm run --silent build:js & js=$!
status=0
node scripts/ctest.mjs || status=1 # builds the add-on too
wait "$js"
npx jest --json --outputFile=build/jest.json || status=1
exit $status
