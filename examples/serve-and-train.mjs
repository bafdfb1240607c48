// A chat endpoint for many clients at once, each with the adapter that it names, which trains a further adapter in a worker while it
// answers and offers it as soon as it is trained.
//
//   node examples/serve-and-train.mjs [MODEL_DIR] [NAME=ADAPTER_DIR …]          PORT=8080, TRAIN=data.jsonl, OUT_DIR=serve-run
//   curl localhost:8080/chat -d '{"adapter":"trained","messages":[{"role":"user","content":"On Monday Tom buys two red cups."}]}'
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';
import { CausalLM, LoRAError, Trainer, loadDataset, setThreads } from 'lora-native';

const here = (name) => fileURLToPath(new URL(name, import.meta.url));

async function serve([dir = here('base-model'), ...adapters]) {
  const { PORT = 8080, TRAIN = here('data/train.jsonl'), OUT_DIR = 'serve-run' } = process.env;
  const model = await CausalLM.fromPretrained(dir);
  model.configureEngine({ maxBatchSize: 16, maxQueued: 64, kvCacheBytes: 2 ** 28 });
  for (const pair of adapters) {
    const [name, path] = pair.split('=');
    await model.loadAdapter(path, { name });
  }
  model.setAdapter(null); // a request that names no adapter gets the base

  async function chat(request, response) {
    let text = '';
    for await (const piece of request.setEncoding('utf8'))
      if ((text += piece).length > 1_000_000) throw new SyntaxError('the request is too long');
    const { messages, prompt, adapter = null, maxNewTokens = 64, temperature = 0 } = Object(JSON.parse(text));
    const gone = new AbortController();
    response.on('close', () => gone.abort());
    const answer = await model.generate(messages ?? prompt, {
      adapter,
      maxNewTokens,
      temperature,
      signal: gone.signal,
    });
    const { finishReason, usage, timings } = answer;
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ text: answer.text, finishReason, usage, timings }));
  }

  const server = createServer((request, response) => {
    const json = (status, value) => response.writeHead(status).end(JSON.stringify(value));
    if (request.url === '/health')
      return json(200, { adapters: [...model.adapters.keys()], ...model.engineStats() });
    if (request.method !== 'POST' || request.url !== '/chat')
      return json(404, { error: 'POST /chat or GET /health' });
    return chat(request, response).catch((error) => {
      if (response.destroyed) return; // the client left, and its generation with it
      if (error instanceof LoRAError && error.code === 'ERR_BUSY') return json(503, { error: error.message });
      const mistake =
        error instanceof SyntaxError || (error instanceof LoRAError && error.code === 'ERR_ARGUMENT');
      if (!mistake) console.error(error);
      json(mistake ? 400 : 500, { error: mistake ? error.message : 'internal error' });
    });
  });
  server.listen(Number(PORT), () => console.log(`listening on ${server.address().port}`));

  // Its tensors are its own: what comes back is the path of the files.
  const worker = new Worker(new URL(import.meta.url), { workerData: { dir, file: TRAIN, outDir: OUT_DIR } });
  worker.on('error', (error) => console.error(`training failed, serving goes on: ${error.message}`));
  worker.on('message', (trained) =>
    model.loadAdapter(trained, { name: 'trained' }).then(
      () => console.log('trained: the new adapter is served'),
      (error) => console.error(`the trained adapter is not served: ${error.message}`),
    ),
  );

  process.once('SIGTERM', async () => {
    server.close();
    server.closeAllConnections();
    await worker.terminate();
    await model.dispose();
  });
}

async function train({ dir, file, outDir }) {
  setThreads(1); // of this worker; the server keeps its own
  const model = await CausalLM.fromPretrained(dir);
  const data = await loadDataset(file, { tokenizer: model.tokenizer, maxLength: 256 });
  model.addAdapter({ r: 8, loraAlpha: 16, targetModules: 'all-linear' });
  const run = await new Trainer({ model, data, outDir, maxSteps: 40, lr: 5e-3, report: false }).run();
  await model.dispose();
  parentPort.postMessage(run.dir);
}

await (isMainThread ? serve(process.argv.slice(2)) : train(workerData));
