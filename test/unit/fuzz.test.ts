/** The inputs that found something, and a few new ones, for every reader of files (scripts/fuzz.mjs reads millions). */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { buildSync } from 'esbuild';
import { LoRAError } from '../../lib/errors';
import { checkRun } from '../fuzz/check';
import { native } from '../../lib/native/binding';
import { builders } from '../fuzz/binding/calls';
import { runPlan } from '../fuzz/binding/plan';
import { binding, planOf } from '../fuzz/binding/target';
import { Kinds } from '../fuzz/kinds';
import { Dice } from '../fuzz/random';
import { bytes } from '../fuzz/seeds';
import { freshFolder, targets } from '../fuzz/targets';
import { temporaryFolder } from '../support/temporary';

const dir = temporaryFolder();
const corpus = join(__dirname, '../fuzz/corpus');

/** The fault of an input, if it is one. */
async function fault(name: string, input: Uint8Array): Promise<string | undefined> {
  const found = await checkRun(() => targets[name]!.run(input, freshFolder(join(dir, name))), 0);
  return found instanceof LoRAError ? undefined : found;
}

describe.each(readdirSync(corpus))('what was found in %s', (name) => {
  test.each(readdirSync(join(corpus, name)))('%s', async (file) => {
    expect(await fault(name, readFileSync(join(corpus, name, file)))).toBeUndefined();
  });
});

// CI runs scripts/fuzz.mjs for a minute as well, with other inputs each day.
// Those that read data sets write files for it, which is most of the time.
const slow = ['folder', 'gzip', 'json', 'jsonl', 'csv'];
test.each(Object.keys(targets))('some inputs of %s', async (name) => {
  for (let index = 0; index < (slow.includes(name) ? 40 : 100); index++) {
    const input = targets[name]!.make(new Dice(7, index, name));
    expect([index, await fault(name, input)]).toEqual([index, undefined]);
  }
});

describe('calls of the native binding', () => {
  test('there are some of every function', () => {
    expect(Object.keys(builders).toSorted()).toEqual(Object.keys(native()).toSorted());
  });

  // A fuzzer whose calls are refused for another reason than its damage tests the checks alone.
  test.each(Object.keys(builders))('%s accepts those that are not damaged', async (fn) => {
    const refusals = [];
    const count = 12;
    for (let index = 0; index < count; index++) {
      const refusal = await checkRun(() => runPlan(planOf(new Dice(11, index, fn), fn, 0)), 0);
      if (refusal !== undefined) refusals.push(refusal);
    }
    expect(refusals.filter((refusal) => !(refusal instanceof LoRAError))).toEqual([]);
    const most = binding.neverAccepted!.includes(fn) ? count : count / 2;
    expect(refusals.length).toBeLessThanOrEqual(most);
  });

  test.each(['adamw', 'adamw8bit', 'sgd', 'lion'])('%s accepts parameters of bf16 too', async (fn) => {
    const kinds = new Kinds();
    for (let index = 0; index < 24; index++) {
      const plan = planOf(new Dice(13, index, fn), fn, 0);
      const refusal = await checkRun(() => runPlan(plan), 0);
      kinds.count(binding.kindOf!(bytes(JSON.stringify(plan))), refusal !== undefined);
    }
    const counts = kinds.counts();
    expect(Object.keys(counts)).toEqual([fn, `${fn} of bf16`]);
    for (const { inputs, refused } of Object.values(counts)) expect(inputs - refused).toBeGreaterThan(3);
  });
});

describe('the check itself finds', () => {
  const check = (run: () => unknown): Promise<unknown> => checkRun(run, 0);

  test('errors that are not ours, and nothing else', async () => {
    expect(await check(() => undefined)).toBeUndefined();
    expect(await check(() => Promise.reject(new LoRAError('ERR_FILE', 'x')))).toBeInstanceOf(LoRAError);
    expect(await check(() => (undefined as unknown as { a: number }).a)).toMatch(/^threw TypeError: /);
    expect(await check(() => Promise.reject(new RangeError('deep')))).toMatch(/^threw RangeError: deep/);
    // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors
    expect(await check(() => Promise.reject(undefined))).toBe("threw 'nothing'");
  });

  test('what takes more than a second of CPU time in each of three runs', async () => {
    let now = 0;
    const clock = jest.spyOn(process, 'cpuUsage').mockImplementation((before = { user: 0, system: 0 }) => ({
      user: now * 900 - before.user,
      system: now * 100 - before.system,
    }));
    let runs = 0;
    let thrown: Error = new LoRAError('ERR_FILE', 'x');
    const taking = (...milliseconds: readonly number[]): Promise<unknown> => {
      runs = 0;
      return check(() => {
        now += milliseconds[runs++]!;
        if (runs === 1) throw thrown;
      });
    };
    try {
      expect(await taking(1001, 1003, 1002)).toBe('took 1002 ms');
      expect(await taking(1001, 1001, 1000)).toBeUndefined();
      expect(await taking(1001, 1000)).toBeUndefined();
      expect(runs).toBe(2);
      expect(await taking(1000)).toBe(thrown);
      thrown = new TypeError('x');
      expect(await taking(1001, 1)).toMatch(/^threw TypeError: x/);
    } finally {
      clock.mockRestore();
    }
  });

  // The peak is that of a process. Earlier tests of a jest worker have raised its peak, which hides what comes later.
  test('memory without end', () => {
    const outfile = join(dir, 'check.cjs');
    const source = resolve(__dirname, '../fuzz/check.ts');
    buildSync({ entryPoints: [source], outfile, bundle: true, platform: 'node', format: 'cjs' });
    const program = `
      const { checkRun, peakKibibytes } = require(${JSON.stringify(outfile)});
      const take = (mebibytes) => checkRun(() => Buffer.alloc(mebibytes * 2 ** 20, 1).length, peakKibibytes());
      take(50).then(async (little) => console.log(little, await take(300)));`;
    // A child of a parent that is larger than all that the child takes.
    const parent = `
      const large = Buffer.alloc(450 * 2 ** 20, 1);
      const { stdout, stderr } = require('node:child_process').spawnSync(process.execPath, ['-e', ${JSON.stringify(program)}]);
      process.stdout.write(stdout);
      process.stderr.write(stderr);
      large.fill(2);`;
    const { stdout, stderr } = spawnSync(process.execPath, ['-e', parent], { encoding: 'utf8' });
    expect({ stdout, stderr }).toEqual({
      stdout: expect.stringMatching(/^undefined took \d+ KiB\n$/),
      stderr: '',
    });
  });

  test('no fault where an error is as long as a file: it shortens its message', async () => {
    const error = await check(() => Promise.reject(new LoRAError('ERR_FILE', 'x'.repeat(30_000))));
    expect((error as LoRAError).message).toMatch(/^x{6000}… \(30000 characters\) …x{1900}$/);
  });

  test('kinds of which hardly an input is accepted', () => {
    const kinds = new Kinds(['never']);
    for (let i = 0; i < 100; i++) {
      kinds.count('often', i % 2 === 0);
      kinds.count('seldom', i % 20 > 0);
      kinds.count('never', true);
      if (i < 40) kinds.count('few', true);
      if (i < 50) kinds.count('chance', i % 20 > 0);
    }
    expect(kinds.blind()).toBe('accepts too few inputs of seldom (5 of 100)');
    expect(kinds.counts()['often']).toEqual({ inputs: 100, refused: 50 });
  });

  test('the same input for the same seed and index', () => {
    for (const [name, target] of Object.entries(targets))
      expect(target.make(new Dice(3, 5, name))).toEqual(target.make(new Dice(3, 5, name)));
  });
});
