#!/usr/bin/env bash
# scripts/gpu-check --pack: puts into build/gpu-pack/ what its js part needs on a machine without node
# and without a network: node itself, the built add-on and bundle with the packages they use, the acceptance programs
# and their data. Less than 60 MB.
set -euo pipefail
cd "$(dirname "$0")/.."
folders=(stories260K-all-linear-r8 stories260K-patterns stories260K-rslora-accumulate tiny-qwen2 tiny-qwen3
  tiny-mistral-sliding tiny-llama3-rope tiny-llama-yarn-bias)
shared=${LORA_SHARED:-../shared}

for needed in build/Release/lora_native.node dist/index.js node_modules/node-gyp-build "$shared/acceptance/replay.mjs"; do
  [ -e "$needed" ] || { echo "gpu-check --pack: $needed is missing; run npm ci and npm run build first" >&2; exit 1; }
done
if grep -q 'has no CUDA backend' <<<"$(node dist/cli.js doctor)"; then
  echo 'gpu-check --pack: the add-on has no CUDA backend: run LORA_CUDA_BUILD=all npm run build where nvcc is' >&2
  exit 1
fi

pack=build/gpu-pack
rm -rf $pack
mkdir -p $pack/app/{build,node_modules/@huggingface,shared/data/golden,shared/data/models}
cp -R build/Release $pack/app/build/
cp -R dist package.json $pack/app/
cp -R node_modules/{detect-libc,node-gyp-build} $pack/app/node_modules/
cp -R node_modules/@huggingface/{jinja,tokenizers} $pack/app/node_modules/@huggingface/
cp -R "$shared/acceptance" $pack/app/shared/
cp -R "$shared/data/models/stories260K" $pack/app/shared/data/models/
for folder in "${folders[@]}"; do cp -R "$shared/data/golden/$folder" $pack/app/shared/data/golden/; done
gzip -9 -c "$(readlink -f "$(command -v node)")" >$pack/node.gz
# There is a limit to what a lent machine takes, counted as it lies here; this halves the app.
tar -C $pack -czf $pack/app.tgz app
rm -r $pack/app
du -sh $pack
