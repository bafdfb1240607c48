// Stopping: one AbortSignal ends a training run (after writing a checkpoint) or a generation. The run then goes on from
// there, as if it had not stopped.
//
//   node examples/abort.mjs [MODEL_DIR] [OUT_DIR]          Ctrl-C stops it, too
import { CausalLM, Trainer, loadDataset } from 'lora-native';

const [dir = new URL('base-model', import.meta.url), outDir = 'abort-run'] = process.argv.slice(2);
const model = await CausalLM.fromPretrained(dir);
const file = new URL('data/train.jsonl', import.meta.url);
const data = await loadDataset(file, { tokenizer: model.tokenizer, maxLength: 256 });
const lora = { r: 8, loraAlpha: 16, targetModules: 'all-linear' };
model.addAdapter(lora);

const options = { model, data, outDir, maxSteps: 50, lr: 2e-3, saveEvery: 20 };
const stop = new AbortController();
process.once('SIGINT', () => stop.abort(new Error('Ctrl-C')));
try {
  for await (const e of new Trainer(options).run({ signal: stop.signal })) {
    if (e.type === 'step' && e.step === 30) stop.abort(new Error('30 steps are enough'));
    if (e.type === 'step' && e.step % 10 === 0) console.log(`step ${e.step}  loss ${e.loss.toFixed(3)}`);
    if (e.type === 'checkpoint') console.log(`saved ${e.dir}`);
  }
} catch (error) {
  if (error !== stop.signal.reason) throw error; // something else went wrong
  console.log(`stopped: ${error.message}`);
}

// Later, in this process or another one: the same run goes on from its newest checkpoint.
await model.removeAdapter('default');
model.addAdapter(lora);
for await (const e of new Trainer({ ...options, resume: true }).run()) {
  if (e.type === 'start') console.log(`goes on after step ${e.step}`);
  if (e.type === 'step' && e.step % 10 === 0) console.log(`step ${e.step}  loss ${e.loss.toFixed(3)}`);
}

// A generation that takes too long.
const signal = AbortSignal.timeout(50);
let text = '';
try {
  const long = { maxNewTokens: 500, ignoreEos: true, temperature: 1, signal };
  for await (const piece of model.generate('On Monday', long)) text += piece.text;
} catch (error) {
  if (error !== signal.reason) throw error;
  console.log(`gave up after 50 ms and ${text.length} characters (${error.name})`);
}
await model.dispose();
