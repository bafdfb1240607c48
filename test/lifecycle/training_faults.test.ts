/** Training while the disk is full or read-only and files vanish: a clear error, and nothing that was saved is lost. */
import { readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadDataset, Trainer, type LoRAError, type TrainerOptions } from '../../lib/index';
import { smallDisk, type SmallDisk } from '../support/small_disk';
import { temporaryFolder } from '../support/temporary';
import { collect, makeRows, trainingFixture, weights } from '../support/training';

const fixture = trainingFixture();
const scratch = temporaryFolder();
let made = 0;
const fresh = (dir = scratch): string => join(dir, `run-${made++}`);

const rows = makeRows(11);
const options = {
  data: rows,
  maxSteps: 9,
  batchSize: 2,
  lr: 0.02,
  seed: 4,
  saveEvery: 2,
  saveLimit: 9,
  report: true,
} as const;
const trainer = (changes: Partial<TrainerOptions> & { outDir: string }): Trainer =>
  new Trainer({ model: fixture.model, ...options, ...changes });

/** The adapter of a new process. */
async function another() {
  for (const old of [...fixture.model.adapters.keys()]) await fixture.model.removeAdapter(old);
  return fixture.addAdapter('mine');
}

let undisturbed: string;
beforeAll(async () => {
  const adapter = await another();
  await collect(trainer({ outDir: fresh() }));
  undisturbed = weights(adapter);
});

/** Runs, with `deed` after the step, until the run fails; gives its error. */
async function failed(run: Trainer, step: number, deed: () => void): Promise<LoRAError> {
  try {
    for await (const event of run.run()) if (event.type === 'step' && event.step === step) deed();
  } catch (error) {
    return error as LoRAError;
  }
  throw new Error('the run reached its end');
}

/** Every checkpoint of a run loads, and it goes on from the newest to the bits of the undisturbed one. */
async function goesOn(outDir: string, checkpoints: readonly string[], changes: Partial<TrainerOptions> = {}) {
  const names = readdirSync(outDir);
  expect(names.filter((name) => name.startsWith('checkpoint-')).sort()).toEqual(checkpoints);
  expect(names.filter((name) => name.startsWith('.'))).toEqual([]);
  for (const name of checkpoints) {
    await fixture.model.loadAdapter(join(outDir, name), { name });
    await fixture.model.removeAdapter(name);
  }
  const adapter = await another();
  const { events } = await collect(trainer({ ...changes, outDir, resume: true }));
  const last = Number(checkpoints.at(-1)!.replace('checkpoint-', ''));
  expect(events[0]).toMatchObject({ type: 'start', step: last });
  expect(weights(adapter)).toBe(undisturbed);
}

const disk = smallDisk();
const describeDisk = (body: (disk: SmallDisk) => void): void => {
  if (typeof disk !== 'string') describe('on a small disk', () => body(disk));
  else
    describe.skip(`on a small disk (skipped: none can be mounted: ${disk})`, () =>
      test('needs it', () => {}));
};

describeDisk((disk) => {
  // The report cannot be written either, which is told beside the error.
  let warnings: jest.SpyInstance;
  beforeEach(() => {
    warnings = jest.spyOn(process, 'emitWarning').mockImplementation(() => undefined);
  });

  test('full at a checkpoint: the error names it, and the one before stays', async () => {
    const outDir = fresh(disk.dir);
    await another();
    const { code, message } = await failed(trainer({ outDir }), 3, disk.fill);
    expect({ code, message }).toEqual({
      code: 'ERR_FILE',
      message: expect.stringMatching(
        new RegExp(`^cannot write ${join(outDir, 'checkpoint-4')}(/\\S+)?: no space left on the device$`),
      ),
    });
    expect(warnings.mock.calls.map(([text]) => text as string)).toEqual([
      `[Trainer] the report could not be written: cannot write ${join(outDir, 'report.html')}: no space left on the device`,
    ]);
    disk.free();
    await goesOn(outDir, ['checkpoint-2']);
  });

  test('full at the end: the checkpoints stay, and the run ends when there is room', async () => {
    const outDir = fresh(disk.dir);
    await another();
    const { code, message } = await failed(trainer({ outDir }), 9, disk.fill);
    expect({ code, message }).toEqual({
      code: 'ERR_FILE',
      message: expect.stringMatching(
        new RegExp(`^cannot write ${outDir}(/\\S+)?: no space left on the device$`),
      ),
    });
    expect(readdirSync(outDir)).not.toContain('adapter_config.json');
    disk.free();
    await goesOn(outDir, ['checkpoint-2', 'checkpoint-4', 'checkpoint-6', 'checkpoint-8']);
  });

  test('read-only: said before the first step, and at a checkpoint', async () => {
    const outDir = fresh(disk.dir);
    await another();
    const { code, message } = await failed(trainer({ outDir }), 5, () => disk.readOnly(true));
    try {
      expect({ code, message }).toEqual({
        code: 'ERR_FILE',
        message: `cannot write ${join(outDir, 'checkpoint-6')}: the file system is read-only`,
      });
      const other = fresh(disk.dir);
      const refused = await failed(trainer({ outDir: other }), 1, () => {
        throw new Error('it began');
      });
      expect(refused.message).toBe(`[Trainer] cannot write to outDir ${other}: the file system is read-only`);
    } finally {
      disk.readOnly(false);
    }
    await goesOn(outDir, ['checkpoint-2', 'checkpoint-4']);
  });
});

test('a data file that vanishes is named, and the run goes on when it is back', async () => {
  const path = join(scratch, 'data.jsonl');
  writeFileSync(path, rows.map((row) => JSON.stringify(row)).join('\n'));
  const data = await loadDataset(path, { inMemory: false });
  const outDir = fresh();
  await another();
  const { code, message } = await failed(trainer({ outDir, data }), 5, () =>
    renameSync(path, `${path}.away`),
  );
  expect({ code, message }).toEqual({ code: 'ERR_FILE', message: `cannot read ${path}: no such file` });
  expect(readFileSync(join(outDir, 'report.html'), 'utf8')).toContain(`<dt>Ended</dt><dd>${message}</dd>`);
  renameSync(`${path}.away`, path);
  const again = await loadDataset(path, { inMemory: false });
  await goesOn(outDir, ['checkpoint-2', 'checkpoint-4', 'checkpoint-5'], { data: again });
});

test('held-out data that vanishes: the step before the evaluation is saved, and the evaluation is made later', async () => {
  const path = join(scratch, 'held-out.jsonl');
  writeFileSync(
    path,
    makeRows(3, { seed: 8 })
      .map((row) => JSON.stringify(row))
      .join('\n'),
  );
  const load = () => loadDataset(path, { inMemory: false });
  const outDir = fresh();
  await another();
  const evaluations = { evalData: await load(), evalEvery: 3 };
  const { message } = await failed(trainer({ outDir, ...evaluations }), 5, () => rmSync(path));
  expect(message).toBe(`cannot read ${path}: no such file`);
  writeFileSync(
    path,
    makeRows(3, { seed: 8 })
      .map((row) => JSON.stringify(row))
      .join('\n'),
  );
  await goesOn(outDir, ['checkpoint-2', 'checkpoint-4', 'checkpoint-6'], {
    ...evaluations,
    evalData: await load(),
  });
  const html = readFileSync(join(outDir, 'report.html'), 'utf8');
  const rows = html
    .slice(html.indexOf('<caption>The last evaluations'))
    .matchAll(/^(?:<tbody>)?<tr><td>(\d+)/gm);
  expect([...rows].map(([, step]) => step)).toEqual(['6', '9']);
});

test('the folder of the run, or a checkpoint in it, that vanishes does not end the run', async () => {
  for (const gone of ['', 'checkpoint-2']) {
    const outDir = fresh();
    const adapter = await another();
    for await (const event of trainer({ outDir, saveLimit: 2 }).run())
      if (event.type === 'step' && event.step === 5) rmSync(join(outDir, gone), { recursive: true });
    expect(weights(adapter)).toBe(undisturbed);
    expect(readdirSync(outDir).sort()).toEqual([
      'README.md',
      'adapter_config.json',
      'adapter_model.safetensors',
      'checkpoint-6',
      'checkpoint-8',
      'report.html',
    ]);
  }
});
