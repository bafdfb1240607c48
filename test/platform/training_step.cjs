// What a binary must do on its platform, with nothing but Node and the package around it: train a layer in f32 and bf16,
// train the bundled model for a step, and give the numbers of the reference backend.
//   node training_step.cjs MODEL_DIR DATA.jsonl       from a folder where 'lora-native' is installed
const { mkdtempSync, readFileSync, rmSync, writeFileSync } = require('node:fs');
const { tmpdir } = require('node:os');
const { join } = require('node:path');
const { AdamW, CausalLM, LoRALinear, Trainer, loadDataset, tensor } = require('lora-native');

const [modelDir, dataPath] = process.argv.slice(2);
const must = (condition, sentence) => {
  if (!condition) throw new Error(sentence);
};

/** Thirty steps towards a target; the loss before and after them. */
function trainLayer(dtype) {
  const x = tensor(
    Array.from({ length: 24 }, (_, i) => Array.from({ length: 33 }, (_, j) => Math.sin(i * 1.7 + j * 0.9))),
    { dtype },
  );
  const target = tensor(
    Array.from({ length: 24 }, (_, i) => Array.from({ length: 17 }, (_, j) => Math.cos(i * 0.3 - j))),
    { dtype },
  );
  const layer = new LoRALinear({ inFeatures: 33, outFeatures: 17, r: 5, loraAlpha: 10, seed: 0, dtype });
  const optimizer = new AdamW(layer.parameters(), { lr: 3e-2 });
  const losses = [];
  for (let step = 0; step < 30; step++) {
    const y = layer.forward(x);
    must(y.dtype === dtype, `expected y to be ${dtype} but received ${y.dtype}`);
    const loss = y.sub(target).square().mean();
    losses.push(loss.itemSync());
    loss.backward();
    optimizer.step();
    optimizer.zeroGrad();
  }
  must(losses.every(Number.isFinite), `${dtype}: a loss is not finite`);
  must(losses.at(-1) < 0.8 * losses[0], `${dtype}: the loss went from ${losses[0]} to ${losses.at(-1)} only`);
  return `${dtype} ${losses[0].toFixed(5)} → ${losses.at(-1).toFixed(5)}`;
}

async function trainModel(scratch) {
  const few = join(scratch, 'few.jsonl');
  writeFileSync(few, readFileSync(dataPath, 'utf8').split('\n').slice(0, 4).join('\n'));
  const losses = {};
  for (const device of ['reference', 'cpu']) {
    const model = await CausalLM.fromPretrained(modelDir, { device, dtype: 'f32' });
    const data = await loadDataset(few, { tokenizer: model.tokenizer, maxLength: 64 });
    losses[device] = (await model.evaluate(data)).loss;
    if (device === 'cpu') {
      model.addAdapter({ r: 4, loraAlpha: 8, targetModules: 'all-linear' }, { seed: 0 });
      const outDir = join(scratch, 'run');
      const trainer = new Trainer({ model, data, outDir, maxSteps: 1, lr: 1e-2, batchSize: 4 });
      for await (const event of trainer.run()) if (event.type === 'step') losses.step = event.loss;
      losses.after = (await model.evaluate(data)).loss;
      must(
        JSON.parse(readFileSync(join(outDir, 'adapter_config.json'), 'utf8')).r === 4,
        'no adapter was saved',
      );
    }
    await model.dispose();
  }
  const apart = Math.abs(losses.cpu - losses.reference);
  must(apart <= 1e-4 * losses.reference, `loss on cpu ${losses.cpu}, on reference ${losses.reference}`);
  must(losses.after < losses.cpu, `a step took the loss from ${losses.cpu} to ${losses.after}`);
  return `model ${losses.cpu.toFixed(4)} (reference ${losses.reference.toFixed(4)}) → ${losses.after.toFixed(4)}`;
}

async function main() {
  const scratch = mkdtempSync(join(tmpdir(), 'lora-platform-'));
  try {
    const layers = ['f32', 'bf16'].map(trainLayer).join(', ');
    const glibc = process.report?.getReport().header.glibcVersionRuntime;
    console.log(
      `${process.platform}-${process.arch}, Node ${process.version}${glibc ? `, glibc ${glibc}` : ''}, ${process.env.LORA_SIMD || 'best instruction set'}: ${layers}; ${await trainModel(scratch)}`,
    );
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
