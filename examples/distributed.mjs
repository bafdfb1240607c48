// Trains one adapter in several processes, on one machine or on many. Two commands before, on each of them:
//
//   apt-get install libopenmpi-dev openmpi-bin
//   npx lora-native build --mpi
//
//   mpirun -n 2 node examples/distributed.mjs
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CausalLM, loadDataset, mpi, Trainer } from 'lora-native';

const here = dirname(fileURLToPath(import.meta.url));
const [
  modelDir = join(here, 'base-model'),
  file = join(here, 'data/train.jsonl'),
  outDir = 'distributed-run',
] = process.argv.slice(2);

const group = await mpi(); // before the model: it sets this process's share of threads and memory
const model = await CausalLM.fromPretrained(modelDir);
model.addAdapter({ r: 8 }, { seed: 1 }); // the same on every rank
const data = await loadDataset(file, { tokenizer: model.tokenizer, maxLength: 128 });

// A step takes batchSize examples on each rank.
const trainer = new Trainer({ model, data, distributed: group, outDir, maxSteps: 6, batchSize: 2 });
for await (const event of trainer.run())
  if (event.type === 'step' && group.rank === 0)
    console.log(`step ${event.step}: loss ${event.loss.toFixed(4)} of ${group.size} ranks`);

await model.dispose();
await group.close();
