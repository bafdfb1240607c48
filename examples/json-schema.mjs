// Text that is JSON under a schema, whatever the model would rather say.
//   node examples/json-schema.mjs MODEL_DIR [PROMPT]
import { CausalLM, LoRAError } from 'lora-native';

const [dir, prompt = 'On Monday, Anna bought 3 red apples.'] = process.argv.slice(2);
if (!dir) throw new Error('usage: node examples/json-schema.mjs MODEL_DIR [PROMPT]');
const model = await CausalLM.fromPretrained(dir);

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
  for (const seed of [1, 2, 3]) {
    const options = { jsonSchema, maxNewTokens: 100, temperature: 1, seed };
    const { text, finishReason } = await model.generate(prompt, options);
    if (finishReason === 'stop') console.log(JSON.stringify(JSON.parse(text)));
    else console.log(`not finished: ${text}`);
  }
} catch (error) {
  const absent = error instanceof LoRAError && error.message.includes('npm install @mlc-ai/web-xgrammar');
  if (!absent) throw error;
  console.log(`skipped: ${error.message}`);
}
await model.dispose();
