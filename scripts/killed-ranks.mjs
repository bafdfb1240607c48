// A rank that is killed at a random moment of a run on MPI ends the others: a table of how.
//
//   node scripts/killed-ranks.mjs [--kills 50] [--seed 1] [--mpirun mpirun]     (after npm run build:js and lora-native build --mpi)
//
// Three ranks train the bundled model and save after every third step. Between their start and a few seconds after their first step one of
// them, or rank 0, gets SIGKILL. A run must end within 30 s, without a final adapter, and every checkpoint must load.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { readAdapter } from 'lora-native';

const { values } = parseArgs({
  options: {
    kills: { type: 'string', default: '50' },
    seed: { type: 'string', default: '1' },
    mpirun: { type: 'string', default: 'mpirun' },
  },
});
const root = fileURLToPath(new URL('..', import.meta.url));
const ranks = 3;
let state = Number(values.seed);
const random = () => (state = (state * 48271) % 2147483647) / 2147483647;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function descendants(pid) {
  try {
    const own = readdirSync(`/proc/${pid}/task`).flatMap((thread) =>
      readFileSync(`/proc/${pid}/task/${thread}/children`, 'utf8').split(' ').filter(Boolean).map(Number),
    );
    return own.flatMap((child) => [child, ...descendants(child)]);
  } catch {
    return []; // it has ended
  }
}

/** The process of a rank, once there is one. */
function processOf(launcher, rank) {
  const marks = [`OMPI_COMM_WORLD_RANK=${rank}`, `PMI_RANK=${rank}`];
  return descendants(launcher).find((pid) => {
    try {
      const environment = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0');
      const [program] = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
      return program === process.execPath && marks.some((mark) => environment.includes(mark));
    } catch {
      return false;
    }
  });
}

async function killOnce(isOpenMpi) {
  const outDir = join(mkdtempSync(join(tmpdir(), 'killed-ranks-')), 'run');
  const model = join(root, 'examples/base-model');
  const data = join(root, 'examples/data/train.jsonl');
  const args = [
    ...(isOpenMpi ? ['--oversubscribe', '--bind-to', 'none'] : []),
    ...['-n', String(ranks), process.execPath, join(root, 'dist/cli.js'), 'train', '--model', model],
    ...[
      '--data',
      data,
      '--batch-size',
      '2',
      '--max-length',
      '48',
      '--no-report',
      '--json',
      '--out-dir',
      outDir,
    ],
    ...['--max-steps', '5000', '--save-every', '3', '--distributed', 'mpi'],
  ];
  const env = {
    ...{ ...process.env, LORA_THREADS: '1' },
    ...{ OMPI_ALLOW_RUN_AS_ROOT: '1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: '1' },
  };
  const child = spawn(values.mpirun, args, { env });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (said += text));
  const ended = new Promise((resolve) => child.on('close', resolve));
  const [early, rank] = [random() < 0.4, Math.floor(random() * ranks)];
  while (
    child.exitCode === null &&
    (early ? processOf(child.pid, rank) === undefined : !said.includes('"type":"step"'))
  )
    await sleep(10);
  await sleep(random() * (early ? 1500 : 4000));
  const victim = processOf(child.pid, rank);
  if (victim === undefined) throw new Error(`no rank ${rank}: ${said}`);
  process.kill(victim, 'SIGKILL');
  const began = performance.now();
  const status = await Promise.race([ended, sleep(60_000).then(() => 'none after 60 s')]);
  const seconds = (performance.now() - began) / 1000;
  if (typeof status === 'string')
    for (const pid of [...descendants(child.pid), child.pid]) process.kill(pid, 'SIGKILL');
  const checkpoints = existsSync(outDir)
    ? readdirSync(outDir).filter((name) => name.startsWith('checkpoint-'))
    : [];
  for (const name of checkpoints) await readAdapter(join(outDir, name));
  const named = /PID \d+ RUNNING AT|with PID \d+/.test(said);
  const finished = existsSync(join(outDir, 'adapter_model.safetensors')) || said.includes('"type":"end"');
  if (finished || seconds > 30) console.error(`NOT AS IT SHOULD BE after ${seconds} s: ${said}`);
  rmSync(outDir, { recursive: true, force: true });
  const phase = said.includes('"type":"step"')
    ? checkpoints.length > 0
      ? 'behind a checkpoint'
      : 'in the first steps'
    : 'before the first step';
  return {
    seconds,
    what: `${phase} | ${rank === 0 ? 'rank 0' : 'another'} | ${status} | ${named ? 'yes' : 'no'}`,
  };
}

const version = spawn(values.mpirun, ['--version']);
let words = '';
version.stdout.on('data', (text) => (words += text));
await new Promise((resolve) => version.on('close', resolve));
const isOpenMpi = /Open MPI/.test(words);
const table = new Map();
for (let i = 0; i < Number(values.kills); i++) {
  const { seconds, what } = await killOnce(isOpenMpi);
  table.set(what, [...(table.get(what) ?? []), seconds]);
}
console.log('| killed | which | status | named | runs | most seconds |\n|---|---|---|---|---|---|');
for (const [what, all] of [...table].sort())
  console.log(`| ${what} | ${all.length} | ${Math.max(...all).toFixed(1)} |`);
