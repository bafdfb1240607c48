// Streaming over HTTP with server-sent events. A client that goes away ends its generation.
//
//   node examples/server.mjs [MODEL_DIR] [NAME=ADAPTER_DIR …]          PORT=8080
//   curl -N localhost:8080/generate -d '{"prompt":"On Monday","maxNewTokens":40}'
import { once } from 'node:events';
import { createServer } from 'node:http';
import { CausalLM, LoRAError } from 'lora-native';

const [dir = new URL('base-model', import.meta.url), ...adapters] = process.argv.slice(2);
const model = await CausalLM.fromPretrained(dir);
for (const pair of adapters) {
  const [name, path] = pair.split('=');
  await model.loadAdapter(path, { name });
}
model.setAdapter(null); // a request that names no adapter gets the base

async function body(request, limit = 1_000_000) {
  let text = '';
  for await (const piece of request.setEncoding('utf8'))
    if ((text += piece).length > limit) throw new SyntaxError('the request is too long');
  return Object(JSON.parse(text)); // also null has properties then
}

async function generate(request, response) {
  const { prompt, adapter, maxNewTokens = 128, temperature, stop, ignoreEos } = await body(request);
  const gone = new AbortController();
  response.on('close', () => gone.abort()); // after end() it changes nothing
  const options = { adapter, maxNewTokens, temperature, stop, ignoreEos, signal: gone.signal };
  const send = async (event) => {
    // A slow client holds the model back instead of filling memory.
    if (!response.write(`data: ${JSON.stringify(event)}\n\n`))
      await once(response, 'drain', { signal: gone.signal });
  };
  let tokens = 0;
  try {
    for await (const { text } of model.generate(prompt, options)) {
      if (!response.headersSent) response.writeHead(200, { 'content-type': 'text/event-stream' });
      tokens++;
      await send({ text });
    }
    await send({ done: true, tokens });
    response.end();
  } catch (error) {
    if (gone.signal.aborted) console.log(`client left after ${tokens} tokens`);
    else throw error;
  }
}

const server = createServer((request, response) => {
  if (request.method !== 'POST' || request.url !== '/generate') return response.writeHead(404).end();
  return generate(request, response).catch((error) => {
    const mistake =
      error instanceof SyntaxError || (error instanceof LoRAError && error.code === 'ERR_ARGUMENT');
    if (!mistake) console.error(error);
    if (!response.headersSent) response.writeHead(mistake ? 400 : 500);
    response.end(JSON.stringify({ error: mistake ? error.message : 'internal error' }));
  });
});
server.listen(Number(process.env.PORT ?? 8080), () => console.log(`listening on ${server.address().port}`));

process.once('SIGTERM', async () => {
  server.close();
  server.closeAllConnections(); // ends what is still being generated
  await model.dispose();
});
