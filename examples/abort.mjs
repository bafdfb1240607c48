// Stopping: one AbortSignal ends a training run (after writing a checkpoint) or a generation. Training then goes on from
// the checkpoint's weights and optimizer.
//
//   node examples/abort.mjs [MODEL_DIR] [OUT_DIR]          Ctrl-C stops it, too
import { join } from 'node:path';
import { AdamW, CausalLM, Trainer, loadCheckpoint, loadDataset } from 'lora-native';

const [dir = new URL('base-model', import.meta.url), outDir = 'abort-run'] = process.argv.slice(2);
const model = await CausalLM.fromPretrained(dir);
const file = new URL('data/train.jsonl', import.meta.url);
const data = await loadDataset(file, { tokenizer: model.tokenizer, maxLength: 256 });
model.addAdapter({ r: 8, loraAlpha: 16, targetModules: 'all-linear' });

const stop = new AbortController();
process.once('SIGINT', () => stop.abort(new Error('Ctrl-C')));
let checkpoint;
try {
  const trainer = new Trainer({ model, data, outDir, maxSteps: 10_000, lr: 2e-3, schedule: 'constant' });
  for await (const e of trainer.run({ signal: stop.signal })) {
    if (e.type === 'step' && e.step === 30) stop.abort(new Error('30 steps are enough'));
    if (e.type === 'step' && e.step % 10 === 0) console.log(`step ${e.step}  loss ${e.loss.toFixed(3)}`);
    if (e.type === 'checkpoint') checkpoint = e.dir;
  }
} catch (error) {
  if (error !== stop.signal.reason) throw error; // something else went wrong
  console.log(`stopped: ${error.message}; saved ${checkpoint}`);
}

// Later, in this process or another one: the weights from the checkpoint, the optimizer's moments beside them.
await model.removeAdapter('default');
const adapter = await model.loadAdapter(checkpoint, { name: 'default', trainable: true });
const optimizer = new AdamW(adapter.parameters(), { weightDecay: 0 });
const { step } = await loadCheckpoint(checkpoint, { optimizer });
const rest = { maxSteps: 20, lr: 2e-3, schedule: 'constant', seed: 1 }; // another seed: another order of the data
const trainer = new Trainer({ model, data, outDir: join(outDir, 'continued'), optimizer, ...rest });
for await (const e of trainer.run())
  if (e.type === 'step' && e.step % 10 === 0) console.log(`step ${step + e.step}  loss ${e.loss.toFixed(3)}`);
optimizer.dispose();

// A generation that takes too long.
const signal = AbortSignal.timeout(200);
let text = '';
try {
  const options = { maxNewTokens: 100_000, ignoreEos: true, temperature: 1, signal };
  for await (const piece of model.generate('On Monday', options)) text += piece.text;
} catch (error) {
  if (error !== signal.reason) throw error;
  console.log(`gave up after 200 ms and ${text.length} characters (${error.name})`);
}
await model.dispose();
