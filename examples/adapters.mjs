// Several adapters on one base: the weights of the base are in memory once, and every call says which adapter it wants.
//
//   node examples/adapters.mjs [MODEL_DIR] [STEPS]
import { readFile } from 'node:fs/promises';
import { CausalLM, noGrad, Trainer } from 'lora-native';

const [dir = new URL('base-model', import.meta.url), steps = '150'] = process.argv.slice(2);
const model = await CausalLM.fromPretrained(dir);
const { tokenizer } = model;
const lines = (await readFile(new URL('data/train.jsonl', import.meta.url), 'utf8')).trim().split('\n');

/** Two tasks on the same sentences: all of it as JSON, and the item alone. */
const tasks = {
  json: ({ sentence, record }) => `${sentence}-> ${JSON.stringify(record)}`,
  item: ({ sentence, record }) => `${sentence}-> ${record.item}`,
};
for (const [name, write] of Object.entries(tasks)) {
  const data = lines.map((line) => {
    const [sentence, answer] = JSON.parse(line).text.split('-> ');
    return {
      inputIds: [...tokenizer.encode(write({ sentence, record: JSON.parse(answer) })), tokenizer.eosTokenId],
    };
  });
  model.addAdapter({ r: 8, loraAlpha: 16, targetModules: 'all-linear' }, { name, activate: true });
  await new Trainer({ model, data, maxSteps: Number(steps), lr: 5e-3 }).run(); // trains the active one
}

const prompt = 'At the park Danor sells three black eggs on Sunday. ->';
const ask = async (adapter) => {
  const { text } = await model.generate(prompt, { maxNewTokens: 64, temperature: 0, stop: ['\n'], adapter });
  return text.trim();
};
// Overlapping calls run together, each with its own adapter.
const [base, json, item] = await Promise.all([ask(null), ask('json'), ask('item')]);
console.log(`base  ${base}`);
console.log(`json  ${json}`);
console.log(`item  ${item}`);

// One call whose rows have adapters of their own: what each would write first.
const ids = [...tokenizer.encode(prompt)];
const { logits } = noGrad(() => model.forward([ids, ids, ids], { adapter: [null, 'json', 'item'] }));
const scores = await logits.data(); // [3, length, vocab]
const [, length, vocab] = logits.shape;
const next = [0, 1, 2].map((row) => {
  const last = scores.subarray((row * length + length - 1) * vocab, (row + 1) * length * vocab);
  return tokenizer.decode([last.indexOf(Math.max(...last))]);
});
console.log(`first ${JSON.stringify(next)}`);

model.setAdapter('item'); // for calls that name none
console.log(`${[...model.adapters.keys()]}; active is ${model.activeAdapter.name}`);
model.adapters.get('json').scale = 0; // a factor on its α/r: 0 turns it off, 0.5 is half of it
console.log(
  `json at scale 0 ${(await ask('json')) === base ? 'writes what the base writes' : 'STILL CHANGES THE BASE'}`,
);
await model.removeAdapter('json');
await model.dispose();
