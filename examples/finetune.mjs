// The main job: LoRA-fine-tunes a base model, shows text and held-out loss before and after, then loads the saved
// adapter into a fresh model and generates again. Without arguments it takes the bundled base and data, for about a
// minute; any Hugging Face directory and JSONL of { text } works:
//
//   node examples/finetune.mjs --model DIR --data train.jsonl --eval-data valid.jsonl --prompt-until 'A: ' --max-steps 60
import { createReadStream, existsSync, rmSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { CausalLM, Trainer, loadDataset } from 'lora-native';

const here = dirname(fileURLToPath(import.meta.url));
const { values: options } = parseArgs({
  options: {
    model: { type: 'string', default: join(here, 'base-model') },
    data: { type: 'string', default: join(here, 'data/train.jsonl') },
    'eval-data': { type: 'string' },
    // What comes after this text in an example is what the model is asked to write.
    'prompt-until': { type: 'string' },
    'out-dir': { type: 'string', default: 'lora-run' },
    'max-steps': { type: 'string' },
    'batch-size': { type: 'string', default: '8' },
    'max-length': { type: 'string', default: '256' },
    'max-new-tokens': { type: 'string', default: '96' },
    lr: { type: 'string' },
    r: { type: 'string', default: '8' },
    dtype: { type: 'string', default: 'auto' },
    samples: { type: 'string' },
  },
});
const bundled = options.data === join(here, 'data/train.jsonl');
const evalPath = options['eval-data'] ?? (bundled ? join(here, 'data/heldout.jsonl') : options.data);
const marker = options['prompt-until'] ?? (bundled ? '-> ' : undefined);
const maxSteps = Number(options['max-steps'] ?? (bundled ? 1000 : 60));
const lr = Number(options.lr ?? (bundled ? 2e-3 : 2e-4));
const r = Number(options.r);
const outDir = options['out-dir'];

/** { prompt, expected } of held-out examples. */
async function questions(path, limit) {
  const found = [];
  for await (const line of createInterface({ input: createReadStream(path, 'utf8') })) {
    if (found.length === limit) break;
    const { text } = JSON.parse(line);
    const at = marker === undefined ? Math.floor(text.length / 2) : text.lastIndexOf(marker) + marker.length;
    // The blank before an answer belongs to the answer's first token.
    const prompt = text.slice(0, at).trimEnd();
    found.push({ prompt, expected: text.slice(prompt.length).trim() });
  }
  return found;
}

/** Greedy answers, and how many are exactly the expected ones. */
async function ask(model, list) {
  let right = 0;
  const answers = [];
  for (const { prompt, expected } of list) {
    const generation = { maxNewTokens: Number(options['max-new-tokens']), temperature: 0, stop: ['\n'] };
    const { text } = await model.generate(prompt, generation);
    answers.push(text.trim());
    if (text.trim() === expected) right++;
  }
  return { answers, right };
}

const short = (text, width) => {
  const line = text.replaceAll('\n', '⏎');
  return line.length > width ? `${line.slice(0, width - 1)}…` : line;
};

if (bundled) rmSync(outDir, { recursive: true, force: true });
else if (existsSync(outDir)) throw new Error(`${outDir} exists: choose another --out-dir`);

const started = performance.now();
const model = await CausalLM.fromPretrained(options.model, { dtype: options.dtype });
const load = (path) =>
  loadDataset(path, { tokenizer: model.tokenizer, maxLength: Number(options['max-length']) });
const data = await load(options.data);
const evalData = await load(evalPath);
const list = await questions(evalPath, Number(options.samples ?? (bundled ? 40 : 3)));
const lossBefore = await model.evaluate(evalData);
const before = await ask(model, list);

const adapter = model.addAdapter({ r, loraAlpha: 2 * r, targetModules: 'all-linear' }, { seed: 0 });
const trained = adapter.parameters().reduce((sum, p) => sum + p.numel, 0);
console.log(
  `base     ${options.model} (${model.config.modelType}, ${(model.parameterCount / 1e6).toFixed(2)}M parameters, ${model.dtype})`,
);
console.log(`data     ${data.length} examples; ${evalData.length} held out`);
console.log(
  `adapter  rank ${r} on all linear layers: ${trained} parameters, ${((100 * trained) / model.parameterCount).toFixed(1)}% of the base\n`,
);

const trainer = new Trainer({
  model,
  data,
  outDir,
  maxSteps,
  lr,
  batchSize: Number(options['batch-size']),
  warmupSteps: Math.ceil(maxSteps / 20),
});
const losses = [];
const every = Math.max(1, Math.round(maxSteps / 10));
for await (const event of trainer.run()) {
  if (event.type !== 'step') continue;
  losses.push(event.loss);
  if (event.step === 1 || event.step % every === 0) {
    const mean = losses.slice(-every).reduce((a, b) => a + b) / Math.min(every, losses.length);
    const bar = '█'.repeat(Math.max(1, Math.round((30 * mean) / losses[0])));
    console.log(
      `step ${String(event.step).padStart(4)}/${maxSteps}  loss ${mean.toFixed(3)}  ${Math.round(event.tokensPerSecond)} tokens/s  ${bar}`,
    );
  }
}

const lossAfter = await model.evaluate(evalData);
const after = await ask(model, list);
await model.dispose();

console.log('\nheld-out examples, greedy:');
for (const [i, { prompt, expected }] of list.slice(0, 3).entries()) {
  console.log(`\n  prompt    ${short(prompt, 150)}`);
  console.log(`  before    ${short(before.answers[i], 150)}`);
  console.log(`  after     ${short(after.answers[i], 150)}`);
  console.log(`  expected  ${short(expected, 150)}`);
}
console.log(`\nexactly right    before ${before.right}/${list.length}   after ${after.right}/${list.length}`);
console.log(`held-out loss    before ${lossBefore.loss.toFixed(3)}   after ${lossAfter.loss.toFixed(3)}`);

const fresh = await CausalLM.fromPretrained(options.model, { dtype: options.dtype });
await fresh.loadAdapter(outDir, { name: 'again' });
const again = await ask(fresh, list.slice(0, 3));
await fresh.dispose();
const same = again.answers.every((text, i) => text === after.answers[i]);
console.log(
  `\nadapter in ${outDir} (PEFT format); loaded into a fresh base it gives ${same ? 'the same text' : 'OTHER TEXT'}`,
);
console.log(`${((performance.now() - started) / 1000).toFixed(0)} s in all`);
if (!same) process.exitCode = 1;
