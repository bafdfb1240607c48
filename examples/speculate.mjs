// Several tokens in one step where the text can be guessed: the same text, sooner.
//   node examples/speculate.mjs MODEL_DIR
import { CausalLM, LoRAError } from 'lora-native';

const [dir] = process.argv.slice(2);
if (!dir) throw new Error('usage: node examples/speculate.mjs MODEL_DIR');
const model = await CausalLM.fromPretrained(dir);

/** The text without and with speculation, and what each took. */
async function compare(name, prompt, options) {
  const run = async (speculate) => {
    const before = model.engineStats();
    const { ids, text, timings } = await model.generate(prompt, { temperature: 0, ...options, speculate });
    const after = model.engineStats();
    const accepted = after.acceptedTokens - before.acceptedTokens;
    return { ids, text, accepted, steps: after.steps - before.steps, ms: timings.totalMs };
  };
  const plain = await run(false);
  const fast = await run(true);
  console.log(`${name}: ${JSON.stringify(fast.text)}`);
  console.log(
    `  ${fast.ids.length} tokens in ${fast.steps} steps instead of ${plain.steps}, ${fast.accepted} guessed, ${fast.ms.toFixed(0)} ms instead of ${plain.ms.toFixed(0)}`,
  );
  if (fast.ids.join() !== plain.ids.join()) throw new Error('speculation changed the text');
}

// What the text had before is likely to come again.
await compare(
  'repeats',
  'A sign at the market says: red apples, only on Monday. A sign at the market says:',
  {
    maxNewTokens: 32,
  },
);

// A schema leaves no choice of names and punctuation.
const jsonSchema = {
  type: 'object',
  properties: {
    who: { type: 'string', maxLength: 12 },
    count: { type: 'integer', minimum: 0, maximum: 99 },
    colour: { enum: ['red', 'green', 'blue'] },
  },
  required: ['who', 'count', 'colour'],
};
try {
  await compare('schema', 'On Monday, Anna bought 3 red apples.', { maxNewTokens: 100, jsonSchema });
} catch (error) {
  const absent = error instanceof LoRAError && error.message.includes('npm install @mlc-ai/web-xgrammar');
  if (!absent) throw error;
  console.log(`skipped: ${error.message}`);
}
await model.dispose();
