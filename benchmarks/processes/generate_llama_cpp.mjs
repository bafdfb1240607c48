// Generation by node-llama-cpp, one run for each line as generate.mjs has them:
//   generate_llama_cpp.mjs '{"library": PATH, "model": FILE.gguf, "threads": 2, "contextSize": 1024}'
import { openLlamaCpp } from './llama_cpp.mjs';
import { serve } from './serve.mjs';

const settings = JSON.parse(process.argv[2]);
const { contextSize } = settings;
const { context, version } = await openLlamaCpp(settings, { sequences: 1, contextSize });
const sequence = context.getSequence();

await serve({ version }, async ({ ids, tokens }) => {
  await sequence.clearHistory();
  const [cpu, began] = [process.cpuUsage(), performance.now()];
  const written = [];
  let first;
  for await (const token of sequence.evaluate(ids, { temperature: 0, yieldEogToken: true })) {
    first ??= performance.now();
    written.push(token);
    if (written.length === tokens) break;
  }
  const ended = performance.now();
  const userMs = process.cpuUsage(cpu).user / 1000;
  return { prefillMs: first - began, decodeMs: ended - first, userMs, ids: written };
});
