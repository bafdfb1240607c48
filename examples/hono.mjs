// A model inside a Hono application: OpenAI's API at /v1, and a route of the application's own that streams an answer as plain text.
// Everything but the last lines also runs in Bun (export default app) and Deno (Deno.serve(app.fetch)).
//
//   npm install hono @hono/node-server
//   node examples/hono.mjs [MODEL] [NAME=ADAPTER_DIR …]          PORT=8080
//   curl -N localhost:8080/chat -H 'content-type: application/json' \
//     -d '{"adapter":"sql","messages":[{"role":"user","content":"How many users are there?"}]}'
import { once } from 'node:events';
import { serve } from '@hono/node-server';
import { Hono } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import { HTTPException } from 'hono/http-exception';
import { streamText } from 'hono/streaming';
import { CausalLM, createOpenAIFetchHandler } from 'lora-native';

const [dir = 'HuggingFaceTB/SmolLM2-135M-Instruct', ...pairs] = process.argv.slice(2);
const model = await CausalLM.fromPretrained(dir);
for (const pair of pairs) {
  const [name, path] = pair.split('=');
  await model.loadAdapter(path, { name });
}
model.setAdapter(null); // a request that names no adapter gets the base

const app = new Hono();
const openai = createOpenAIFetchHandler(model, { modelName: 'base' }); // it also serves the model's adapters, by name
for (const path of ['/v1/*', '/health', '/metrics']) app.all(path, (c) => openai(c.req.raw));

app.get('/status', (c) => c.json(model.engineStats()));
app.post('/chat', bodyLimit({ maxSize: 4 * 2 ** 20 }), async (c) => {
  const { messages, adapter = null, maxNewTokens = 256 } = Object(await c.req.json());
  const { signal } = c.req.raw; // aborted when the client leaves
  const tokens = model.generate(messages, { adapter, maxNewTokens, signal })[Symbol.asyncIterator]();
  const first = await tokens.next(); // a wrong request fails here, before the status is sent
  return streamText(c, async (stream) => {
    try {
      for (let token = first; !token.done; token = await tokens.next()) await stream.write(token.value.text);
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  });
});

const statuses = { ERR_ARGUMENT: 400, ERR_DATA: 400, ERR_UNSUPPORTED: 400, ERR_BUSY: 503 };
app.onError((error, c) => {
  if (error instanceof HTTPException) return error.getResponse();
  const status = error instanceof SyntaxError ? 400 : (statuses[error.code] ?? 500); // that of c.req.json()
  if (status === 500 && !c.req.raw.signal.aborted) console.error(error);
  return c.json({ error: status === 500 ? 'internal error' : error.message }, status);
});

const server = serve({ fetch: app.fetch, port: Number(process.env.PORT ?? 8080) }, ({ port }) =>
  console.log(`listening on ${port}`),
);
process.once('SIGTERM', async () => {
  const closed = once(server.close(), 'close'); // no new connections
  await openai.close(); // those that asked get their answers
  await closed;
  await model.dispose();
});
