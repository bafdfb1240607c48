// OpenAI's API over one model and its adapters: any client of OpenAI talks to it.
//
//   node examples/openai-server.mjs [MODEL_DIR] [NAME=ADAPTER_DIR …]          PORT=8080, API_KEY=…
//   curl localhost:8080/v1/completions -H 'content-type: application/json' -d '{"prompt":"On Monday","max_tokens":20}'
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';
import { CausalLM, createOpenAIHandler } from 'lora-native';

const [dir = fileURLToPath(new URL('base-model', import.meta.url)), ...pairs] = process.argv.slice(2);
const { PORT = 8080, API_KEY } = process.env;

const model = await CausalLM.fromPretrained(dir);
model.configureEngine({ maxBatchSize: 16, kvCacheBytes: 2 ** 28 });
const handler = createOpenAIHandler(model, {
  modelName: 'base',
  adapters: Object.fromEntries(pairs.map((pair) => pair.split('='))), // loaded when they are first asked for
  apiKeys: API_KEY === undefined ? [] : [API_KEY],
  maxRunning: 16,
  logger: { info: (fields) => console.log(JSON.stringify(fields)), error: (fields) => console.error(fields) },
});
const server = createServer({ headersTimeout: 10_000, requestTimeout: 60_000 }, handler);
server.listen(Number(PORT), () => console.log(`listening on ${server.address().port}`));

process.once('SIGTERM', async () => {
  server.close(); // no new connections
  await handler.close(); // those that asked get their answers
  server.closeAllConnections();
  await model.dispose();
});
