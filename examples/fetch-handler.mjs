// OpenAI's API as a function from a Request to a Response: what Next.js, Hono, Bun and Deno mount. Here the program asks it itself, as a
// client would that takes a `fetch` of its own, and no server is needed.
//
//   node examples/fetch-handler.mjs [MODEL_DIR] [PROMPT]
import { fileURLToPath } from 'node:url';
import { CausalLM, createOpenAIFetchHandler } from 'lora-native';

const [dir = fileURLToPath(new URL('base-model', import.meta.url)), prompt = 'On Monday'] =
  process.argv.slice(2);

const model = await CausalLM.fromPretrained(dir);
const respond = createOpenAIFetchHandler(model, { modelName: 'base' });
const ask = (path, init) => respond(new Request(`http://model.local${path}`, init));

const { data } = await (await ask('/v1/models')).json();
console.log(`models: ${data.map(({ id }) => id).join(', ')}`);

const response = await ask('/v1/completions', {
  method: 'POST',
  headers: { 'content-type': 'application/json' },
  body: JSON.stringify({ model: 'base', prompt, max_tokens: 40, temperature: 0, stream: true }),
});
const decoder = new TextDecoder();
let text = '';
for await (const bytes of response.body) text += decoder.decode(bytes, { stream: true });
const pieces = [...text.matchAll(/^data: (\{.*\})$/gm)].map(([, json]) => JSON.parse(json).choices[0].text);
console.log(`text: ${JSON.stringify(pieces.join(''))}`);

await respond.close();
await model.dispose();
