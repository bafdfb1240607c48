// The Vercel AI SDK on a model of this process: a stream, an object under a schema, a call of a tool, and vectors. No server, no HTTP.
//   npm install ai @mlc-ai/web-xgrammar
//   node examples/ai-sdk.mjs MODEL_DIR [ADAPTER_DIR]
import { cosineSimilarity, embedMany, generateObject, generateText, jsonSchema, streamText, tool } from 'ai';
import { CausalLM } from 'lora-native';
import { createLoraNative } from 'lora-native/ai-sdk';

const [dir, adapter] = process.argv.slice(2);
if (!dir) throw new Error('usage: node examples/ai-sdk.mjs MODEL_DIR [ADAPTER_DIR]');
const model = await CausalLM.fromPretrained(dir);
if (adapter) await model.loadAdapter(adapter, { name: 'mine' });
const lora = createLoraNative({ model });
const ask = { model: lora(adapter ? 'mine' : 'base'), prompt: 'Hello', maxOutputTokens: 200, seed: 1 };

const { textStream } = streamText({ ...ask, temperature: 0 });
let text = '';
for await (const piece of textStream) text += piece;
console.log(`text: ${JSON.stringify(text)}`);

const schema = jsonSchema({
  type: 'object',
  properties: { count: { type: 'integer', minimum: 1, maximum: 9 } },
  required: ['count'],
  additionalProperties: false,
});
const { object } = await generateObject({ ...ask, model: lora('base'), schema, temperature: 1 });
console.log(`object: ${JSON.stringify(object)}`);

const double = tool({
  description: 'twice a number',
  inputSchema: schema,
  execute: ({ count }) => 2 * count,
});
try {
  const options = { tools: { double }, toolChoice: 'required', temperature: 1 };
  const { toolResults } = await generateText({ ...ask, model: lora('base'), ...options });
  for (const { toolName, input, output } of toolResults)
    console.log(`tool: ${toolName}(${JSON.stringify(input)}) is ${output}`);
} catch (error) {
  if (error.code !== 'ERR_UNSUPPORTED') throw error;
  console.log(`tool: ${error.message}`); // of a chat template without tools
}

const values = ['a cat', 'a kitten', 'a bill'];
const { embeddings } = await embedMany({ model: lora.embeddingModel('base'), values });
const near = embeddings.slice(1).map((row) => cosineSimilarity(embeddings[0], row));
console.log(`near: ${near.map((cosine) => cosine.toFixed(3)).join(' ')}`);
await model.dispose();
