// A model inside an Express application: OpenAI's API at /v1, and a route of the application's own that streams an answer as plain text.
//
//   npm install express
//   node examples/express.mjs [MODEL] [NAME=ADAPTER_DIR …]          PORT=8080
//   curl -N localhost:8080/chat -H 'content-type: application/json' \
//     -d '{"adapter":"sql","messages":[{"role":"user","content":"How many users are there?"}]}'
import { once } from 'node:events';
import express from 'express';
import { CausalLM, createOpenAIHandler } from 'lora-native';

const [dir = 'HuggingFaceTB/SmolLM2-135M-Instruct', ...pairs] = process.argv.slice(2);
const model = await CausalLM.fromPretrained(dir);
for (const pair of pairs) {
  const [name, path] = pair.split('=');
  await model.loadAdapter(path, { name });
}
model.setAdapter(null); // a request that names no adapter gets the base

const app = express();
const openai = createOpenAIHandler(model, { modelName: 'base' }); // it also serves the model's adapters, by name
app.all(['/v1/*path', '/health', '/metrics'], openai); // before express.json(): it reads and bounds bodies itself

app.use(express.json({ limit: '4mb' }));
app.get('/status', (request, response) => response.json(model.engineStats()));
app.post('/chat', async (request, response) => {
  const { messages, adapter = null, maxNewTokens = 256 } = request.body ?? {};
  const gone = new AbortController();
  response.on('close', () => gone.abort()); // after end() it changes nothing
  const { signal } = gone;
  try {
    for await (const { text } of model.generate(messages, { adapter, maxNewTokens, signal })) {
      if (!response.headersSent) response.type('text/plain');
      if (!response.write(text)) await once(response, 'drain', { signal }); // a slow reader holds back its own text
    }
    response.end();
  } catch (error) {
    if (!signal.aborted) throw error; // to the handler of errors below
  }
});

const statuses = { ERR_ARGUMENT: 400, ERR_DATA: 400, ERR_UNSUPPORTED: 400, ERR_BUSY: 503 };
app.use((error, request, response, next) => {
  if (response.headersSent) return next(error); // Express then cuts the connection
  const status = statuses[error.code] ?? error.status ?? 500;
  if (status === 500) console.error(error);
  response.status(status).json({ error: status === 500 ? 'internal error' : error.message });
});

const server = app.listen(Number(process.env.PORT ?? 8080), () =>
  console.log(`listening on ${server.address().port}`),
);
process.once('SIGTERM', async () => {
  const closed = once(server.close(), 'close'); // no new connections
  await openai.close(); // those that asked get their answers
  await closed;
  await model.dispose();
});
