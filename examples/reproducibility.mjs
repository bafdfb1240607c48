// Two runs with the same seeds, device, dtype and number of threads write the same bytes.
//
//   node examples/reproducibility.mjs [MODEL_DIR] [OUT_DIR]
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CausalLM, Trainer, loadDataset, setThreads } from 'lora-native';

const [dir = new URL('base-model', import.meta.url), outDir = 'reproducibility-run'] = process.argv.slice(2);
setThreads(2); // as many on every machine: sums are split between threads

async function train(name, { adapterSeed, dataSeed }) {
  const model = await CausalLM.fromPretrained(dir);
  const file = new URL('data/train.jsonl', import.meta.url);
  const data = await loadDataset(file, { tokenizer: model.tokenizer, maxLength: 256 });
  const config = { r: 8, loraAlpha: 16, loraDropout: 0.1, targetModules: 'all-linear' };
  model.addAdapter(config, { seed: adapterSeed }); // of the initial weights and of dropout
  const out = join(outDir, name);
  await new Trainer({ model, data, outDir: out, maxSteps: 10, lr: 2e-3, seed: dataSeed }).run(); // of the order
  const { text } = await model.generate('On Monday', { maxNewTokens: 12, temperature: 1, seed: 3 });
  await model.dispose();
  const bytes = await readFile(join(out, 'adapter_model.safetensors'));
  const hash = createHash('sha256').update(bytes).digest('hex').slice(0, 16);
  console.log(`${name.padEnd(13)} ${hash}  ${JSON.stringify(text)}`);
}

await train('first', { adapterSeed: 0, dataSeed: 0 });
await train('second', { adapterSeed: 0, dataSeed: 0 });
await train('other-adapter', { adapterSeed: 1, dataSeed: 0 });
await train('other-order', { adapterSeed: 0, dataSeed: 1 });
