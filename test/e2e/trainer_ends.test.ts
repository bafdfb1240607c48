/** Runs that do not reach their end: what is on disk then, and that nothing of them is lost. */
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Trainer, type LoRAError, type TrainerOptions } from '../../lib/index';
import type { TrainerEvent } from '../../lib/train';
import { temporaryFolder } from '../support/temporary';
import { collect, makeRows, trainingFixture, weights } from '../support/training';

const fixture = trainingFixture();
const scratch = temporaryFolder();
let made = 0;
const fresh = (): string => join(scratch, `run-${made++}`);

const rows = makeRows(11);
const options = { data: rows, maxSteps: 10, batchSize: 2, lr: 0.02, seed: 4, report: true } as const;
const trainer = (changes: Partial<TrainerOptions>): Trainer =>
  new Trainer({ model: fixture.model, ...options, ...changes });

/** The adapter of a new process. */
async function another() {
  for (const old of [...fixture.model.adapters.keys()]) await fixture.model.removeAdapter(old);
  return fixture.addAdapter('mine');
}

/** Runs until it rejects. */
async function failed(
  run: Trainer,
  signal?: AbortSignal,
  seen?: (event: TrainerEvent) => void,
): Promise<{ error: LoRAError; events: TrainerEvent[] }> {
  const events: TrainerEvent[] = [];
  try {
    for await (const event of run.run({ signal })) {
      events.push(event);
      seen?.(event);
    }
  } catch (error) {
    return { error: error as LoRAError, events };
  }
  throw new Error('the run reached its end');
}

const report = (outDir: string): string => readFileSync(join(outDir, 'report.html'), 'utf8');
const fact = (html: string, name: string): string | undefined =>
  new RegExp(`<dt>${name}</dt><dd>(.*?)</dd>`).exec(html)?.[1];

/** Rows that end with an error before the ninth while `broken.now`. */
const breaking = (broken: { now: boolean }) =>
  function* () {
    for (const [i, row] of rows.entries()) {
      if (broken.now && i === 8) throw new Error('the database has gone');
      yield row;
    }
  };

test('an aborted run has its report, and the checkpoint its card', async () => {
  const outDir = fresh();
  await another();
  const stop = new AbortController();
  const run = trainer({ outDir });
  const { error, events } = await failed(run, stop.signal, (event) => {
    if (event.type === 'step' && event.step === 4) stop.abort(new Error('enough'));
  });
  expect(error).toBe(stop.signal.reason);
  expect(events.at(-1)).toEqual({ type: 'checkpoint', step: 4, dir: join(outDir, 'checkpoint-4') });
  expect(run.reportPath).toBe(join(outDir, 'report.html'));
  const html = report(outDir);
  expect(fact(html, 'Steps')).toBe('4 of 10');
  expect(fact(html, 'Ended')).toBe('interrupted');
  expect(html).toContain('<p>Some samples are missing: the run did not reach its end.</p>');
  expect(readFileSync(join(outDir, 'checkpoint-4', 'README.md'), 'utf8')).toContain('- Steps: `4 of 10`');

  // It goes on, and the report is then that of its end.
  await another();
  await collect(trainer({ outDir, resume: true }));
  expect(fact(report(outDir), 'Steps')).toMatch(/^10 of 10/);
  expect(fact(report(outDir), 'Ended')).toBeUndefined();
});

test('one that is aborted before its first step has none, and a resumed one keeps that of the run before', async () => {
  const outDir = fresh();
  await another();
  const run = trainer({ outDir });
  const { events } = await failed(run, AbortSignal.abort(new Error('at once')));
  expect(events).toEqual([]);
  expect([existsSync(outDir), run.reportPath]).toEqual([false, undefined]);

  await another();
  const stop = new AbortController();
  await failed(trainer({ outDir }), stop.signal, (event) => {
    if (event.type === 'step' && event.step === 3) stop.abort();
  });
  const before = report(outDir);
  await another();
  const again = new AbortController();
  await failed(trainer({ outDir, resume: true }), again.signal, (event) => {
    if (event.type === 'start') again.abort();
  });
  expect(report(outDir)).toBe(before);
});

test('a run that stops early says so in its report and its card', async () => {
  const outDir = fresh();
  await another();
  const evaluations = { evalData: rows.slice(0, 2), evalEvery: 1, earlyStopping: { patience: 2 } };
  const { events } = await collect(trainer({ outDir, lr: 0, ...evaluations }));
  expect(events.at(-1)).toMatchObject({ type: 'end', step: 3, stopped: 'early' });
  const words = 'early, since 2 evaluations were no better than that of step 1';
  expect(fact(report(outDir), 'Ended')).toBe(words);
  expect(readFileSync(join(outDir, 'README.md'), 'utf8')).toContain(`- Ended: \`${words}\``);
});

test.each([true, false])(
  'a step that is not finite, with a checkpoint before it: %s',
  async (withCheckpoint) => {
    const outDir = fresh();
    await another();
    const changes = { lr: 1e30, schedule: 'constant', ...(withCheckpoint ? { saveEvery: 1 } : {}) } as const;
    const { error, events } = await failed(trainer({ outDir, ...changes }));
    expect(error.code).toBe('ERR_NON_FINITE');
    const last = events.findLast((event) => event.type === 'step')!.step;
    const names = readdirSync(outDir).filter((name) => name.startsWith('checkpoint-'));
    // The step that led there is no good one to keep, unless it was asked for.
    expect(names).toHaveLength(withCheckpoint ? last : 0);
    expect(existsSync(join(outDir, 'report.html'))).toBe(withCheckpoint);
    if (!withCheckpoint) return;
    expect(fact(report(outDir), 'Ended')).toBe(error.message);
    await (await another()).save(join(scratch, 'unused')); // the model is free again
    await fixture.model.loadAdapter(join(outDir, `checkpoint-${last}`), { name: 'saved' });
  },
);

test('data that fails on the way: what was trained is saved, and goes on with the same bits', async () => {
  const outDir = fresh();
  const broken = { now: false };
  const shuffle = { data: breaking(broken), shuffleWindow: 1 };
  const whole = await another();
  await collect(trainer({ ...shuffle, outDir: fresh() }));
  const expected = weights(whole);

  broken.now = true;
  await another();
  const { error, events } = await failed(trainer({ ...shuffle, outDir }));
  expect(error.message).toBe('the database has gone');
  const steps = events.filter(({ type }) => type === 'step').length;
  expect(steps).toBeGreaterThan(0);
  expect(events.at(-1)).toEqual({
    type: 'checkpoint',
    step: steps,
    dir: join(outDir, `checkpoint-${steps}`),
  });
  expect(fact(report(outDir), 'Ended')).toBe('the database has gone');

  broken.now = false;
  const adapter = await another();
  await collect(trainer({ ...shuffle, outDir, resume: true }));
  expect(weights(adapter)).toBe(expected);
});

test('a forward pass that fails in the middle of a step: the dropout masks go on as if it had not been', async () => {
  const outDir = fresh();
  const changes = { gradientAccumulationSteps: 2 };
  const whole = await another();
  await collect(trainer({ ...changes, outDir: fresh() }));
  const expected = weights(whole);
  await another();
  const { model } = fixture;
  const forward = model.forwardInSlices.bind(model);
  let calls = 0;
  jest.spyOn(model, 'forwardInSlices').mockImplementation((ids, given) => {
    if (++calls === 6) throw new Error('no memory');
    return forward(ids, given);
  });
  const { error } = await failed(trainer({ ...changes, outDir }));
  expect(error.message).toBe('no memory');
  jest.restoreAllMocks();
  const adapter = await another();
  await collect(trainer({ ...changes, outDir, resume: true }));
  expect(weights(adapter)).toBe(expected);
});

test('data that fails before the first step leaves no checkpoint', async () => {
  const outDir = fresh();
  await another();
  const { error } = await failed(trainer({ outDir, data: [{ inputIds: [1, 'a'] as number[] }] }));
  expect(error.code).toBe('ERR_DATA');
  expect(readdirSync(outDir)).toEqual([]);
});

test('an error stays the error of the run where nothing can be written any more, which is told', async () => {
  const outDir = fresh();
  const warned = jest.spyOn(process, 'emitWarning').mockImplementation(() => undefined);
  await another();
  const run = trainer({ outDir, data: breaking({ now: true }), shuffleWindow: 1, saveEvery: 2 });
  const { error, events } = await failed(run, undefined, (event) => {
    if (event.type !== 'step' || event.step !== 3) return;
    renameSync(outDir, `${outDir}-moved`);
    writeFileSync(outDir, 'a file');
  });
  expect(error.message).toBe('the database has gone');
  expect(events.at(-1)).toMatchObject({ type: 'step' });
  const step = (events.at(-1) as { step: number }).step;
  expect(warned.mock.calls.map(([text]) => text)).toEqual([
    `[Trainer] the weights of step ${step} could not be saved: cannot write ${join(outDir, `checkpoint-${step}`)}: ${outDir} is not a directory`,
    `[Trainer] the report could not be written: cannot write ${join(outDir, 'report.html')}: a part of the path is not a directory`,
  ]);
  expect(readdirSync(`${outDir}-moved`)).toContain('checkpoint-2');
});

test('a final adapter that cannot be written leaves a checkpoint of the last step', async () => {
  const outDir = fresh();
  await another();
  const { error } = await failed(trainer({ outDir }), undefined, (event) => {
    // A folder in the place of the file.
    if (event.type === 'step' && event.step === 10)
      mkdirSync(join(outDir, 'adapter_config.json', 'full'), { recursive: true });
  });
  expect(error).toMatchObject({ code: 'ERR_FILE' });
  expect(existsSync(join(outDir, 'checkpoint-10', 'adapter_model.safetensors'))).toBe(true);
});

test('a run that had ended keeps its report when it is resumed', async () => {
  const outDir = fresh();
  await another();
  await collect(trainer({ outDir, saveEvery: 5 }));
  const before = report(outDir);
  expect(before).toMatch(/<dt>Steps<\/dt><dd>10 of 10/);
  await another();
  const { steps } = await collect(trainer({ outDir, saveEvery: 5, resume: true }));
  expect(steps).toEqual([]);
  expect(report(outDir)).toBe(before);
});
