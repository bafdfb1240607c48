/**
 * The acceptance programs of ../shared, which others wrote, run against the built package. LORA_TEST_DEVICE=cuda replays
 * on a GPU (scripts/gpu-check).
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { goldenFolders, otherTasks, supportedFamilies } from '../support/golden';

const root = join(__dirname, '../..');
const shared = join(root, '../shared');
const program = (name: string): string => join(shared, 'acceptance', name);
const smollm = join(
  process.env['LORA_TEST_CACHE'] ?? join(homedir(), '.cache/lora-native-test'),
  'smollm2-135m',
);

const missing = !existsSync(program('replay.mjs'))
  ? '../shared is absent'
  : !existsSync(join(root, 'dist/index.mjs'))
    ? 'dist is absent: run npm run build:js'
    : undefined;

function run(name: string, args: string[], env: Record<string, string>): { ok: boolean; output: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [program(name), ...args], {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, LORA_THREADS: '1', ...env }, // others may be using the machine
    timeout: 580_000,
  });
  return { ok: status === 0, output: stdout + stderr };
}

/** A test, or a skipped one whose name says why. */
function acceptance(
  title: string,
  reason: string | undefined,
  name: string,
  args: string[],
  ms = 120_000,
  env: Record<string, string> = {},
): void {
  const body = (): void => {
    const { ok, output } = run(name, args, env);
    if (!ok) throw new Error(`${name} ${args.join(' ')}\n${output}`);
    expect(output).toMatch(/^[1-9]\d* passed, 0 failed$/m);
  };
  if (reason) test.skip(`${title} (skipped: ${reason})`, body);
  else test(title, body, ms);
}

const device = ['--device', process.env['LORA_TEST_DEVICE'] ?? 'cpu'];
for (const { name, dir, hasSteps, modelRefusal, adapterRefusal } of goldenFolders())
  if (hasSteps)
    acceptance(`replay ${name}`, missing ?? modelRefusal ?? adapterRefusal, 'replay.mjs', [dir, ...device]);
for (const name of supportedFamilies)
  acceptance(
    `replay ${name}`,
    existsSync(join(shared, 'data/golden-families', name)) ? missing : `${name} is absent`,
    'replay.mjs',
    [join(shared, 'data/golden-families', name), ...device],
  );
for (const name of otherTasks)
  acceptance(
    `heads ${name}`,
    existsSync(join(shared, 'data/golden-families', name)) ? missing : `${name} is absent`,
    'heads.mjs',
    [join(shared, 'data/golden-families', name), ...device],
  );
acceptance('replay in bf16', missing, 'replay.mjs', [
  join(shared, 'data/golden/tiny-qwen3'),
  ...device,
  '--dtype',
  'bf16',
]);
// On the emulated GPU cuda_methods.test.ts takes a smaller model: these would take minutes each.
for (const name of ['full', 'ia3', 'houlsby', 'pfeiffer', 'prompt'])
  acceptance(`method ${name}`, missing, 'methods.mjs', [
    join(shared, 'data/golden-methods', name),
    ...device,
  ]);
// The log-probabilities and policies beside them have tests of their own.
for (const name of ['dpo', 'dpo-ipo', 'dpo-robust', 'dpo-smooth', 'dpo-sft', 'orpo', 'kto', 'cpo', 'simpo'])
  acceptance(`objective ${name}`, missing, 'objectives.mjs', [
    join(shared, 'data/golden-objectives', name),
    ...device,
  ]);
for (const name of ['tiny-llama-seqcls', 'tiny-qwen3-seqcls'])
  acceptance(`head ${name}`, missing, 'heads.mjs', [join(shared, 'data/golden-families', name), ...device]);
// What has a device of its own does not run a second time for LORA_TEST_DEVICE.
const elsewhere =
  missing ?? (process.env['LORA_TEST_DEVICE'] ? 'it does not run on LORA_TEST_DEVICE' : undefined);
// The CUDA kernels on the emulated GPU.
const noEmulator = existsSync(join(root, 'build/emulated/lora_native_emulated.node'))
  ? undefined
  : 'the emulated add-on is absent: run node scripts/ctest.mjs';
for (const [dtype, order] of [
  ['f32', 'late'],
  ['bf16', 'eager'],
] as const)
  acceptance(
    `replay tiny-qwen2 in ${dtype} on the emulated GPU, work running ${order}`,
    elsewhere ?? noEmulator,
    'replay.mjs',
    [join(shared, 'data/golden/tiny-qwen2'), '--device', 'cuda-emulated', '--dtype', dtype],
    300_000,
    { LORA_SIMT: order },
  );
// It names no device, so it gets one before it starts.
const deviceOf = (name: string): Record<string, string> => ({
  NODE_OPTIONS: `--require "${join(root, 'test/support/default_device.cjs')}"`,
  LORA_TEST_DEVICE: name,
});
const chosen = process.env['LORA_TEST_DEVICE'];
acceptance('company', missing, 'company.mjs', [], 120_000, chosen ? deviceOf(chosen) : {});
acceptance(
  'company on the emulated GPU',
  elsewhere ?? noEmulator,
  'company.mjs',
  [],
  600_000,
  deviceOf('cuda-emulated'),
);
acceptance('stories', elsewhere, 'stories.mjs', []);
// Chat masks need SmolLM2's tokenizer, packing and resume do not.
acceptance('training', elsewhere, 'training.mjs', existsSync(smollm) ? [smollm] : []);
acceptance('files', elsewhere, 'files.mjs', []);

const noModel = existsSync(join(smollm, 'model.safetensors'))
  ? undefined
  : `${smollm} is absent: run python3 ../shared/data/models/smollm2-135m/make.py`;
for (const dtype of ['f32', 'bf16'])
  acceptance(
    `SmolLM2-135M in ${dtype}`,
    elsewhere ?? noModel,
    'model-golden.mjs',
    [smollm, join(shared, 'data/models/smollm2-135m/golden.json'), '--dtype', dtype],
    600_000,
  );
