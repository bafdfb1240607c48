/**
 * Saves that stop after the n-th write, fsync, rename or removal, or of which that step fails, for every n: what is there afterwards
 * loads as the old or as the new state, never as a third, and the next save makes it the new one and leaves nothing of the stopped one.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  AdamW,
  CausalLM,
  loadCheckpoint,
  quantizeModel,
  saveCheckpoint,
  setThreads,
  type Adapter,
} from '../../lib/index';
import { SavedFolder } from '../../lib/formats/file_group';
import { readText } from '../../lib/formats/json';
import { ModelFolder } from '../../lib/formats/model_folder';
import { cardFile, sideFiles } from '../../lib/formats/model_files';
import { openModelTensors } from '../../lib/formats/sharded';
import { readAdapter, writeAdapter } from '../../lib/peft/adapter_files';
import { AdapterSubject } from '../../lib/train/adapter_subject';
import { signed } from '../../lib/formats/card';
import { OutputDirectory } from '../../lib/train/output';
import { checkpointsOf } from '../../lib/train/resume';
import { crashingDisk } from '../support/crashing_disk';
import { fillAdapter } from '../support/fill_adapter';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

const root = temporaryFolder();
const disk = crashingDisk();
const deadPid = spawnSync('true').pid;
let model: CausalLM;
let withoutTemplate: CausalLM;
let adapter: Adapter;
let smallAdapter: Adapter;

beforeAll(async () => {
  setThreads(1);
  const config = { num_hidden_layers: 1 };
  const dir = await tinyModel({ config, generation: { eos_token_id: 9 } });
  writeFileSync(join(dir, 'chat_template.jinja'), 'a template');
  model = await CausalLM.fromPretrained(dir);
  adapter = model.addAdapter({ r: 2, targetModules: ['q_proj', 'down_proj'] });
  fillAdapter(adapter);
  smallAdapter = model.addAdapter({ r: 1, targetModules: ['q_proj'] }, { name: 'small' });
  const other = await tinyModel({ config: { ...config, rope_theta: 500 }, seed: 2 });
  withoutTemplate = await CausalLM.fromPretrained(other);
});
afterAll(async () => {
  for (const used of [model, withoutTemplate]) {
    await used.dispose();
    rmSync(used.directory, { recursive: true, force: true });
  }
});

const hash = (value: unknown): string =>
  createHash('sha256')
    .update(typeof value === 'string' ? value : Buffer.from(value as Uint8Array))
    .digest('hex')
    .slice(0, 12);

const absent = 'nothing';

/** Everything that a load of the model sees. */
async function modelState(dir: string): Promise<string> {
  const folder = await ModelFolder.open(dir, {});
  const texts: string[] = [];
  for (const name of ['config.json', ...sideFiles])
    texts.push(`${name} ${hash(String(await folder.text(name)))}`);
  const stored = await openModelTensors(dir);
  try {
    for (const name of stored.names) texts.push(`${name} ${hash(await stored.get(name).read())}`);
  } finally {
    await stored.close();
  }
  await folder.checkUnchanged();
  return texts.join('\n');
}
async function adapterState(dir: string): Promise<string> {
  const { config, tensors } = await readAdapter(dir);
  return `${JSON.stringify(config)} ${[...tensors].map(([name, { bytes }]) => `${name} ${hash(bytes)}`).join()}`;
}

/** An adapter and the card that describes it: neither is ever seen beside the other's. */
async function cardState(dir: string): Promise<string> {
  const card = await readText((await SavedFolder.open(dir)).file(cardFile));
  return `${card} ${await adapterState(dir)}`;
}

interface Scenario {
  /** Makes the old state in an empty folder. */
  before?: (dir: string) => Promise<unknown>;
  save: (dir: string) => Promise<unknown>;
  /** Where in the folder it goes. */
  path: string;
  load: (path: string) => Promise<string>;
  /** What lies beside, and stays. */
  beside?: string[];
}

const adapterOf = (alpha: number) => ({
  config: { peft_type: 'LORA', r: 1, lora_alpha: alpha },
  tensors: new Map([['w', { dtype: 'U8' as const, shape: [3], bytes: Uint8Array.of(alpha, alpha, alpha) }]]),
});
const cardOf = (version: number): string => signed(`---\nlibrary_name: peft\n---\n\nversion ${version}\n`);
const checkpointOf = (step: number) => ({ step, values: new Float32Array(100).fill(step) });
const stateOf = async (path: string): Promise<string> =>
  JSON.stringify(await loadCheckpoint<{ step: number; values: Float32Array }>(path));
const runState = async (path: string): Promise<string> =>
  `${await adapterState(path)} ${(await loadCheckpoint<{ step: number }>(path)).step}`;
const checkpoint = (dir: string, step = 3, limit?: number): Promise<unknown> =>
  new OutputDirectory(dir).saveCheckpoint(
    { step, settings: {}, data: '', evaluations: { best: null, waited: 0, at: 0 } },
    new AdapterSubject(model, adapter),
    new AdamW(adapter.parameters(), { lr: 1 }),
    { limit },
  );
const saveFinal = (dir: string, adapter: Adapter, card: string): Promise<unknown> =>
  new OutputDirectory(dir).saveFinal(new AdapterSubject(model, adapter), card);
/** What resume: true would go on from. */
const newestState = async (dir: string): Promise<string> => {
  const newest = (await checkpointsOf(dir)).at(-1);
  return newest === undefined ? absent : runState(newest.path);
};

const scenarios: Record<string, Scenario> = {
  'an adapter over another': {
    before: (dir) => writeAdapter(join(dir, 'run'), adapterOf(1)),
    save: (dir) => writeAdapter(join(dir, 'run'), adapterOf(100)),
    path: 'run',
    load: adapterState,
  },
  'an adapter into a new folder': {
    save: (dir) => writeAdapter(join(dir, 'deep', 'run'), adapterOf(100)),
    path: join('deep', 'run'),
    load: adapterState,
  },
  'an adapter of a model over another': {
    before: (dir) => writeAdapter(join(dir, 'run'), adapterOf(1)),
    save: (dir) => adapter.save(join(dir, 'run')),
    path: 'run',
    load: adapterState,
  },
  'the adapter of a run with its model card over another': {
    before: (dir) => saveFinal(join(dir, 'run'), smallAdapter, cardOf(1)),
    save: (dir) => saveFinal(join(dir, 'run'), adapter, cardOf(2)),
    path: 'run',
    load: cardState,
  },
  'a state over another': {
    before: (dir) => saveCheckpoint(dir, checkpointOf(1)),
    save: (dir) => saveCheckpoint(dir, checkpointOf(2)),
    path: '.',
    load: stateOf,
  },
  'a checkpoint of a run': { save: checkpoint, path: 'checkpoint-3', load: runState },
  'a checkpoint over one of that name': {
    before: async (dir) => {
      await writeAdapter(join(dir, 'checkpoint-3'), adapterOf(1));
      await saveCheckpoint(join(dir, 'checkpoint-3'), { step: 1 });
    },
    save: checkpoint,
    path: 'checkpoint-3',
    load: runState,
  },
  'a checkpoint that takes the place of an older one': {
    before: (dir) => checkpoint(dir, 1),
    save: (dir) => checkpoint(dir, 3, 1),
    path: '.',
    load: newestState,
  },
  'a model into a new folder': {
    save: (dir) => model.save(join(dir, 'm'), { merge: 'default' }),
    path: 'm',
    load: modelState,
  },
  'a quantized model into a new folder': {
    save: (dir) => {
      rmSync(join(dir, 'm'), { recursive: true, force: true }); // it replaces nothing
      return quantizeModel(model.directory, join(dir, 'm'), { format: 'nf4', doubleQuant: true });
    },
    path: 'm',
    load: modelState,
  },
  'a merged model, quantized, over another': {
    before: (dir) => withoutTemplate.save(join(dir, 'm')),
    save: (dir) => model.save(join(dir, 'm'), { merge: 'default', quantize: 'int8' }),
    path: 'm',
    load: modelState,
  },
  'a model over another, which has fewer files': {
    before: (dir) => withoutTemplate.save(join(dir, 'm')),
    save: (dir) => model.save(join(dir, 'm'), { merge: 'default' }),
    path: 'm',
    load: modelState,
  },
  'a model over another, which has more files': {
    before: (dir) => model.save(join(dir, 'm'), { merge: 'default' }),
    save: (dir) => withoutTemplate.save(join(dir, 'm')),
    path: 'm',
    load: modelState,
  },
};

const table: string[] = [];
afterAll(() => {
  if (process.env['LORA_CRASH_COUNTS']) process.stdout.write(`${table.join('\n')}\n`);
});

test.each(Object.entries(scenarios))('%s', async (name, { before, save, path, load }) => {
  const warned = jest.spyOn(process, 'emitWarning');
  const old = mkdtempSync(join(root, 'old-'));
  disk.reset();
  await before?.(old);
  const fresh = (): string => {
    const dir = mkdtempSync(join(root, 'run-'));
    cpSync(old, dir, { recursive: true });
    return dir;
  };
  const state = async (dir: string): Promise<string> =>
    existsSync(join(dir, path)) ? load(join(dir, path)) : absent;
  const was = await state(old);

  const whole = fresh();
  disk.reset();
  await save(whole);
  const counts = { ...disk.counts };
  const { steps } = disk;
  const now = await state(whole);
  expect(now).not.toBe(was);
  const entries = readdirSync(join(whole, path)).sort();

  const seen = { old: 0, new: 0 };
  for (const failsOnce of [false, true])
    for (let n = 0; n < steps; n++) {
      const dir = fresh();
      disk.reset(n, failsOnce);
      const error: unknown = await save(dir).then(
        () => undefined,
        (thrown: unknown) => thrown,
      );
      expect(disk.stopped || failsOnce).toBe(true);
      if (failsOnce && error !== undefined)
        expect(error).toMatchObject({
          code: 'ERR_FILE',
          message: expect.stringContaining('the device reports an input or output error') as string,
        });
      // Only what takes away leftovers may fail in silence.
      else if (failsOnce) expect(disk.failed).toMatch(/^(rm|rmdir)$/);
      const done = error === undefined;
      disk.end(dir, deadPid);
      disk.stopAfter = Infinity;
      const found = await state(dir);
      if (found === was && !done) seen.old++;
      else if (found === now) seen.new++;
      else throw new Error(`${name}: stopped after ${n} of ${steps} steps, a third state:\n${found}`);
      // Before the moment of the save the steps are alike: some of them tell.
      if (n % 4 === 0 || (found === now && !failsOnce)) {
        await save(dir);
        expect(await state(dir)).toBe(now);
        expect(readdirSync(join(dir, path)).sort()).toEqual(entries);
        expect(readdirSync(join(dir, path, '..')).filter((entry) => entry.endsWith('.tmp'))).toEqual([]);
      }
      rmSync(dir, { recursive: true });
    }
  table.push(
    `${name}: ${steps} steps (${JSON.stringify(counts)}), old ${seen.old}, new ${seen.new}, third 0`,
  );
  expect(seen.old).toBeGreaterThan(0);
  expect(warned).not.toHaveBeenCalled();
  warned.mockRestore();
});
