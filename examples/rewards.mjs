// Train on rewards (GRPO): the model answers in JSON, and no answer is shown to it. It has learned documents of several kinds, of which
// few are JSON, and after one document it writes any other. Here each prompt is a whole document, a sentence, and a reward says
// whether what follows parses.
//
//   node examples/rewards.mjs [MODEL_DIR] [STEPS]
import { readFile } from 'node:fs/promises';
import { CausalLM, Trainer } from 'lora-native';

const [dir = new URL('base-model', import.meta.url), steps = '40'] = process.argv.slice(2);
const model = await CausalLM.fromPretrained(dir);

/** 1 for a text that is a JSON object, else 0. */
function json({ completion }) {
  try {
    return Number(typeof JSON.parse(completion) === 'object');
  } catch {
    return 0;
  }
}

async function prompts(name, count) {
  const text = await readFile(new URL(`data/${name}.jsonl`, import.meta.url), 'utf8');
  const sentences = text.split('\n', count).map((line) => JSON.parse(line).text.split(' -> ')[0]);
  return sentences.map((prompt) => ({ prompt: `${prompt}<|end|>` }));
}
const data = await prompts('train', 500);
const evalData = await prompts('heldout', 16);

model.addAdapter({ r: 8, loraAlpha: 16, targetModules: 'all-linear' });
const run = { maxSteps: Number(steps), batchSize: 4, lr: 4e-3, schedule: 'constant' };
const completions = { numGenerations: 16, maxCompletionLength: 64 };
const evalEvery = Math.ceil(Number(steps) / 4);
const options = { model, data, evalData, ...run, ...completions, evalEvery };
const trainer = new Trainer({ ...options, objective: 'grpo', rewards: [json] });

const valid = ({ metrics }) => `${(100 * metrics.reward).toFixed(0)} % valid`;
for await (const e of trainer.run()) {
  if (e.type === 'step' && e.step === 1) console.log(`the base: ${valid(e)}`);
  if (e.type === 'eval') console.log(`step ${e.step}: ${valid(e)}, held out`);
}
for (const { prompt } of evalData.slice(0, 3)) {
  const { text } = await model.generate(prompt, { maxNewTokens: 64, temperature: 0 });
  console.log(`${prompt.replace('<|end|>', '')}\n  ${text}`);
}
await model.dispose();
