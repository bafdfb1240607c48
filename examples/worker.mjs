// Training in a worker thread. It is not needed to keep the event loop free (the work runs off it anyway), but it keeps
// tokenization and the preparation of data off it, too, and what fails there does not take the server down.
//
//   node examples/worker.mjs [MODEL_DIR] [OUT_DIR]
import { fileURLToPath } from 'node:url';
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';
import { CausalLM, Trainer, loadDataset, setThreads } from 'lora-native';

const options = { maxNewTokens: 24, temperature: 0 };
if (isMainThread) {
  const [dir = fileURLToPath(new URL('base-model', import.meta.url)), outDir = 'worker-run'] =
    process.argv.slice(2);
  const model = await CausalLM.fromPretrained(dir); // the main thread goes on serving
  const worker = new Worker(new URL(import.meta.url), { workerData: { dir, outDir } });
  const trained = new Promise((resolve, reject) => {
    worker.on('message', (e) => {
      if (e.type === 'step' && e.step % 20 === 0)
        console.log(`worker: step ${e.step}  loss ${e.loss.toFixed(3)}`);
      if (e.type === 'end') resolve(e.dir);
    });
    worker.on('error', reject);
  });

  let answers = 0;
  let done = false;
  trained.finally(() => (done = true)).catch(() => {}); // the failure is reported where it is awaited
  for (; !done; answers++) await model.generate('On Monday', options);
  const adapter = await trained; // tensors stay in their thread; files and messages are what crosses
  console.log(`main: ${answers > 0 ? 'answered' : 'DID NOT ANSWER'} while the worker trained`);
  await model.loadAdapter(adapter, { name: 'trained' });
  console.log(`main: ${(await model.generate('On Monday', options)).text}`);
  await model.dispose();
} else {
  setThreads(1); // of this worker; the main thread keeps its own
  const { dir, outDir } = workerData;
  const model = await CausalLM.fromPretrained(dir);
  const file = new URL('data/train.jsonl', import.meta.url);
  const data = await loadDataset(file, { tokenizer: model.tokenizer, maxLength: 256 });
  model.addAdapter({ r: 8, loraAlpha: 16, targetModules: 'all-linear' });
  for await (const e of new Trainer({ model, data, outDir, maxSteps: 40, lr: 5e-3 }).run())
    parentPort.postMessage(e);
  await model.dispose();
}
