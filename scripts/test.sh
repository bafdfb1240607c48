#!/usr/bin/env bash
# All tests on a fresh machine: sets up, builds the add-on, the bundle and the native tests, runs ctest and jest.
# With --report FILE the counts are written there as JSON, for .ci/run.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
npm run --silent build:native
npm run --silent build:js
node scripts/ctest.mjs
npx jest --json --outputFile=build/jest.json
