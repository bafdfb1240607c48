// Training in two processes on MPI against one process with two threads, side by side in one run; the pieces of a step; and what a
// model of the network makes of them for more machines.
//
//   node benchmarks/ranks.mjs MODEL_DIR [ROUNDS]     (after npm run build:js and lora-native build --mpi)
//   node benchmarks/ranks.mjs                        the table of the guide, from pieces that were measured before
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { CausalLM, mpi, Trainer } from 'lora-native';

const self = fileURLToPath(import.meta.url);
const [modelDir, rounds = '3', role] = process.argv.slice(2);
const batchSize = 4;
const length = 128;
const steps = 5;
const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

/** A step of 512 tokens with r = 16 on a machine of two cores with AMX, in bf16: seconds of computing, and bytes of gradients. */
const measuredPieces = [
  // training_step in results/bench-2026-11-28-amx.json.
  ['SmolLM2-135M', 0.564, 4 * 4884480],
  ['Llama-3.2-1B', 2.673, 4 * 11272192],
  // 386 times "square 4096 bf16 m=512" of lora_linear there: the products of its layers. NF4 takes no longer.
  ['Llama-2-7B in NF4', 16.9, 4 * 39976960],
];

/** Seconds of a step on n machines: each sends and receives 2·(n − 1)/n of the gradients, in 2·(n − 1) messages of 30 µs. */
const modelled = (n, gbit, compute, bytes) =>
  compute + (((2 * (n - 1)) / n) * bytes * 8) / (gbit * 1e9) + 2 * (n - 1) * 30e-6;

function printModel() {
  console.log(
    '| model | machines | 1 Gbit/s | 10 Gbit/s | 100 Gbit/s | 1 Gbit/s, bf16 |\n|---|---|---|---|---|---|',
  );
  for (const [name, compute, bytes] of measuredPieces)
    for (let n = 2; n <= 64; n *= 2) {
      const cell = (gbit, sent) => {
        const seconds = modelled(n, gbit, compute, sent);
        return `${seconds.toFixed(2)} s, ${((100 * compute) / seconds).toFixed(0)}%`;
      };
      const cells = [...[1, 10, 100].map((gbit) => cell(gbit, bytes)), cell(1, bytes / 2)];
      console.log(`| ${name} | ${n} | ${cells.join(' | ')} |`);
    }
}

/** Trains a few steps; prints their median time, and of ranks that of each piece. */
async function train(ranks) {
  const group = ranks > 1 ? await mpi() : undefined;
  const model = await CausalLM.fromPretrained(modelDir);
  const adapter = model.addAdapter({ r: 16 }, { seed: 1 });
  const data = Array.from({ length: 4 * batchSize * steps }, (_, row) => {
    const inputIds = Array.from({ length }, (_, i) => (row * 977 + i * 31) % 1000);
    return { inputIds, labels: inputIds };
  });
  const pieces = {};
  for (const name of group ? ['gather', 'sum', 'digest'] : []) {
    const own = group[name].bind(group);
    pieces[name] = [];
    group[name] = async (...args) => {
      const began = performance.now();
      const result = await own(...args);
      pieces[name].push(performance.now() - began);
      return result;
    };
  }
  const times = [];
  let began = performance.now();
  const gradientAccumulationSteps = 2 / ranks;
  const options = { batchSize, gradientAccumulationSteps, maxSteps: steps, distributed: group };
  for await (const { type } of new Trainer({ model, data, ...options }).run()) {
    if (type !== 'step') continue;
    times.push(performance.now() - began);
    began = performance.now();
  }
  const numbers = adapter.parameters().reduce((sum, { numel }) => sum + numel, 0);
  const figures = Object.entries(pieces).map(([name, all]) => [name, median(all.slice(1))]);
  if (!group?.rank)
    console.log(JSON.stringify({ ms: median(times.slice(1)), numbers, ...Object.fromEntries(figures) }));
  await group?.close();
}

/** One measurement in processes of their own. */
function measured(ranks) {
  const args = [self, modelDir, rounds, String(ranks)];
  const env = {
    ...process.env,
    LORA_THREADS: String(2 / ranks),
    OMPI_ALLOW_RUN_AS_ROOT: '1',
    OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: '1',
  };
  const bind = /Open MPI/.test(spawnSync('mpirun', ['--version'], { encoding: 'utf8' }).stdout)
    ? ['--oversubscribe', '--bind-to', 'none']
    : [];
  const [command, words] =
    ranks > 1
      ? ['mpirun', [...bind, '-n', String(ranks), process.execPath, ...args]]
      : [process.execPath, args];
  const { status, stdout, stderr } = spawnSync(command, words, { env, encoding: 'utf8' });
  if (status !== 0) throw new Error(`${command} ended with ${status}\n${stderr}`);
  return JSON.parse(stdout.slice(stdout.indexOf('{'), stdout.lastIndexOf('}') + 1));
}

if (modelDir === undefined) printModel();
else if (role !== undefined) await train(Number(role));
else {
  const pairs = Array.from({ length: Number(rounds) }, () => [measured(1), measured(2)]);
  for (const [one, two] of pairs)
    console.log(
      `1 process × 2 threads ${one.ms.toFixed(0)} ms, 2 ranks × 1 thread ${two.ms.toFixed(0)} ms a step: ${(one.ms / two.ms).toFixed(3)}; ` +
        `gather ${two.gather.toFixed(1)}, sum ${two.sum.toFixed(1)}, digest ${two.digest.toFixed(1)} ms`,
    );
  const { numbers } = pairs[0][0];
  const bytes = 4 * numbers;
  console.log(
    `median ratio ${median(pairs.map(([one, two]) => one.ms / two.ms)).toFixed(3)}; ${bytes} bytes of gradients a step`,
  );
  // Each machine computes for as long as one rank here does without its exchange.
  const compute = median(pairs.map(([, two]) => two.ms - two.sum - two.gather)) / 1000;
  console.log(
    `\nmodel: ${compute.toFixed(2)} s of computing a step\n\n| machines | 1 Gbit/s | 10 Gbit/s | 100 Gbit/s |\n|---|---|---|---|`,
  );
  for (let n = 2; n <= 64; n *= 2) {
    const cells = [1, 10, 100].map((gbit) => {
      const step = modelled(n, gbit, compute, bytes);
      return `${step.toFixed(2)} s, ${((100 * compute) / step).toFixed(0)}%`;
    });
    console.log(`| ${n} | ${cells.join(' | ')} |`);
  }
}
