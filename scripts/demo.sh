#!/usr/bin/env bash
# The main job on a fresh machine: sets up, builds, fine-tunes the bundled base model and shows the result.
# Arguments are passed on to examples/finetune.mjs: scripts/demo.sh --model DIR --data FILE
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
js=
[ -e dist/index.mjs ] || { npm run --silent build:js & js=$!; } # on a core that the compiler leaves idle at times
[ -e build/Release/lora_native.node ] || npm run --silent build:native
[ -z "$js" ] || wait "$js"
node examples/finetune.mjs "$@"
