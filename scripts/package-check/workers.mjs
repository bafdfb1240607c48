// Two workers train while the main thread does.
import { Worker } from 'node:worker_threads';

const train = new URL('./train.mjs', import.meta.url);
const ended = [1, 2].map(
  () =>
    new Promise((resolve, reject) => {
      const worker = new Worker(train);
      worker.on('error', reject);
      worker.on('exit', (code) => (code === 0 ? resolve() : reject(new Error(`exit code ${code}`))));
    }),
);
await import(train);
await Promise.all(ended);
