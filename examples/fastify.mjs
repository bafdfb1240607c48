// A model inside a Fastify application: OpenAI's API at /v1, and a route of the application's own that streams an answer as plain text.
//
//   npm install fastify
//   node examples/fastify.mjs [MODEL] [NAME=ADAPTER_DIR …]          PORT=8080
//   curl -N localhost:8080/chat -H 'content-type: application/json' \
//     -d '{"adapter":"sql","messages":[{"role":"user","content":"How many users are there?"}]}'
import { Readable } from 'node:stream';
import Fastify from 'fastify';
import { CausalLM, createOpenAIHandler } from 'lora-native';

const [dir = 'HuggingFaceTB/SmolLM2-135M-Instruct', ...pairs] = process.argv.slice(2);
const model = await CausalLM.fromPretrained(dir);
for (const pair of pairs) {
  const [name, path] = pair.split('=');
  await model.loadAdapter(path, { name });
}
model.setAdapter(null); // a request that names no adapter gets the base

const app = Fastify({ bodyLimit: 4 * 2 ** 20, keepAliveTimeout: 5000 });
const openai = createOpenAIHandler(model, { modelName: 'base' }); // it also serves the model's adapters, by name
app.register(async (scope) => {
  scope.removeAllContentTypeParsers();
  scope.addContentTypeParser('*', (request, body, done) => done(null)); // the handler reads and bounds bodies itself
  for (const path of ['/v1/*', '/health', '/metrics'])
    scope.all(path, (request, reply) => {
      reply.hijack();
      openai(request.raw, reply.raw);
    });
});

app.get('/status', () => model.engineStats());
app.post('/chat', async (request, reply) => {
  const { messages, adapter = null, maxNewTokens = 256 } = request.body ?? {};
  const gone = new AbortController();
  reply.raw.on('close', () => gone.abort()); // after its end it changes nothing
  const tokens = model
    .generate(messages, { adapter, maxNewTokens, signal: gone.signal })
    [Symbol.asyncIterator]();
  const first = await tokens.next(); // a wrong request fails here, before the status is sent
  async function* texts() {
    for (let token = first; !token.done; token = await tokens.next()) yield token.value.text;
  }
  return reply.type('text/plain; charset=utf-8').send(Readable.from(texts())); // read no faster than the client reads
});

const statuses = { ERR_ARGUMENT: 400, ERR_DATA: 400, ERR_UNSUPPORTED: 400, ERR_BUSY: 503 };
app.setErrorHandler((error, request, reply) => {
  if (reply.raw.destroyed) return; // the client left before there was an answer
  const status = statuses[error.code] ?? error.statusCode ?? 500;
  if (status === 500) console.error(error);
  reply.status(status).send({ error: status === 500 ? 'internal error' : error.message });
});

app.addHook('preClose', () => openai.close()); // those that asked get their answers
app.addHook('onClose', () => model.dispose()); // after all other answers
await app.listen({ port: Number(process.env.PORT ?? 8080) });
console.log(`listening on ${app.server.address().port}`);
process.once('SIGTERM', () => app.close());
