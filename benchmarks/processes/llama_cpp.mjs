// A context of node-llama-cpp on the CPU, for the processes that run it.
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';

/** { context, version } for settings { library, model, threads } and the options of a context. */
export async function openLlamaCpp({ library, model: modelPath, threads }, options) {
  const { getLlama } = await import(pathToFileURL(library).href);
  const quiet = { logLevel: 'error', progressLogs: false };
  const llama = await getLlama({ gpu: false, build: 'never', maxThreads: threads, ...quiet });
  const model = await llama.loadModel({ modelPath });
  const context = await model.createContext({
    ...{ batchSize: 512, threads: { ideal: threads, min: threads } },
    ...options,
  });
  const { version } = JSON.parse(readFileSync(join(dirname(library), '../package.json'), 'utf8'));
  return { context, version };
}
