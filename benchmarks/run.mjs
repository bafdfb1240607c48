// npm run bench [-- --rounds 7] [--filter f32] [--out FILE]: lora_linear, forward and forward + backward, ours and
// PyTorch interleaved in one run. Each case passes a numerics check before it is timed. Prints a table, writes JSON.
// Where there is a GPU, ours and cuBLAS on it as well: --filter cublas does that alone.
//
// npm run bench -- --profile [--dtype bf16] [--shape 1x512] [--model DIR] [--json]: where a training step spends its time.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, homedir, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { setThreads } from 'lora-native';
import inputsOf from './inputs.cjs';
import { OursProvider } from './providers/ours.mjs';
import { runCublas } from './providers/cublas.mjs';
import { findPython, TorchProvider } from './providers/torch.mjs';
import { profileSteps } from './profile.mjs';

const here = dirname(fileURLToPath(import.meta.url));
const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '7' },
    threads: { type: 'string', default: '2' },
    filter: { type: 'string' },
    profile: { type: 'boolean', default: false },
    model: { type: 'string', default: join(homedir(), '.cache/lora-native-test/smollm2-135m') },
    dtype: { type: 'string', default: 'bf16' },
    shape: { type: 'string', default: '1x512' },
    steps: { type: 'string', default: '3' },
    json: { type: 'boolean', default: false },
    out: { type: 'string', default: join(here, 'results/local-lora_linear.json') },
  },
});
const rounds = Number(options.rounds);
const threads = Number(options.threads);
const gap = 50; // ms between providers, so that spinning threads of one settle before the other is timed
const budget = 0.15; // seconds that a provider is timed for in each round

const median = (values) => {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
};
const title = ({ m, in: k, out: n, r, dtype }) => `${dtype} M=${m} ${k}→${n} r=${r}`;

/** ‖got − want‖₂ / ‖want‖₂; NaN never passes `<= bound`. */
function distance(got, want) {
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < want.length; i++) {
    difference += (got[i] - want[i]) ** 2;
    norm += want[i] ** 2;
  }
  return got.length === want.length ? Math.sqrt(difference / norm) : Infinity;
}

setThreads(threads);
if (options.profile) {
  const [batch, length] = options.shape.split('x').map(Number);
  const { model, dtype, json } = options;
  await profileSteps({ model, dtype, batch, length, json, count: Number(options.steps) });
  process.exit(0);
}
const python = findPython();
const ours = new OursProvider();
const torch = python ? await TorchProvider.start(python, threads) : undefined;
if (torch)
  console.log(
    `rival: PyTorch ${torch.info.torch} (${torch.info.blas}, oneDNN ${torch.info.onednn}), ${threads} threads each`,
  );
else
  console.log(
    'rival: none. No python3 with torch was found (set LORA_PYTHON, or apt-get install python3-torch libopenblas0-pthread); timing ours alone',
  );

const scratch = mkdtempSync(join(tmpdir(), 'lora-bench-'));
const results = [];
const { lora_linear: cases } = JSON.parse(readFileSync(join(here, 'cases.json'), 'utf8'));
console.log(
  `\n${'case'.padEnd(30)} ${'what'.padEnd(8)} ${'ours ms (spread)'.padStart(22)} ${'torch ms (spread)'.padStart(22)}  ours/torch`,
);
for (const testCase of cases.filter((c) => !options.filter || title(c).includes(options.filter))) {
  const inputs = inputsOf.loraLinearInputs(testCase);
  ours.load(testCase, inputs);
  if (torch) {
    for (const name of ['x', 'w', 'a', 'b', 'g']) writeFileSync(join(scratch, `${name}.bin`), inputs[name]);
    await torch.load({ ...testCase, scale: inputs.scale }, scratch);
    await torch.check(scratch);
    const got = await ours.check();
    // Both round to bf16 along the way (PyTorch also its intermediates), so they agree to a few units of it.
    const bound = testCase.dtype === 'f32' ? 1e-5 : 1.5e-2;
    for (const name of ['y', 'dx', 'da', 'db']) {
      const file = readFileSync(join(scratch, `${name}.bin`));
      const error = distance(got[name], new Float32Array(file.buffer, file.byteOffset, file.byteLength / 4));
      if (!(error <= bound))
        throw new Error(
          `${title(testCase)}: ${name} is ${error} away from PyTorch's, expected at most ${bound}`,
        );
    }
  }
  for (const what of ['forward', 'step']) {
    const rivals = torch ? (what === 'forward' ? ['forward', 'forward_addmm'] : ['step']) : [];
    const medians = { ours: [], rivals: Object.fromEntries(rivals.map((name) => [name, []])) };
    // A few untimed calls each tell how many fill the budget: about 20 ms of calls back to back, again and again.
    const plan = (seconds) => {
      const batch = Math.max(1, Math.round(0.02 / median(seconds)));
      return [Math.max(3, Math.round(budget / median(seconds) / batch)), batch];
    };
    const ourPlan = plan(await ours.time(what, 5, 1));
    const plans = {};
    for (const name of rivals) plans[name] = plan(await torch.time(name, 5, 1));
    for (let round = 0; round < rounds; round++) {
      await sleep(gap);
      medians.ours.push(median(await ours.time(what, ...ourPlan)));
      for (const name of rivals) {
        await sleep(gap);
        medians.rivals[name].push(median(await torch.time(name, ...plans[name])));
      }
    }
    const best = rivals.map((name) => medians.rivals[name]).sort((a, b) => median(a) - median(b))[0];
    const show = (values) =>
      values
        ? `${(1000 * median(values)).toFixed(3)} (${(1000 * Math.min(...values)).toFixed(2)}–${(1000 * Math.max(...values)).toFixed(2)})`
        : '–';
    const ratio = best ? median(medians.ours) / median(best) : undefined;
    console.log(
      `${title(testCase).padEnd(30)} ${what.padEnd(8)} ${show(medians.ours).padStart(22)} ${show(best).padStart(22)}  ${ratio?.toFixed(2) ?? '–'}`,
    );
    results.push({ case: testCase, what, ratio, seconds: { ours: medians.ours, ...medians.rivals } });
  }
}
ours.stop();
torch?.stop();
rmSync(scratch, { recursive: true });
const wanted = !options.filter || options.filter === 'cublas';
const cublas = wanted ? runCublas() : { skipped: `--filter ${options.filter}` };
if (cublas.skipped) console.log(`\ncuBLAS on a GPU: skipped: ${cublas.skipped}`);
if (cublas.failed) {
  console.log(`\ncuBLAS on a GPU: FAILED: ${cublas.failed}`);
  process.exitCode = 1;
}
mkdirSync(dirname(options.out), { recursive: true });
writeFileSync(
  options.out,
  `${JSON.stringify({ date: new Date().toISOString(), cpu: cpus()[0]?.model, node: process.version, threads, rounds, torch: torch?.info ?? null, results, cublas }, null, 1)}\n`,
);
console.log(
  `\nmedians over ${rounds} interleaved rounds, spread = smallest–largest round; ours/torch against the faster form of PyTorch (y + s·A(Bx) as PEFT writes it, or addmm_ in place). Written to ${options.out}`,
);
