// What launchers say, shares of a machine, and who is odd or slow among ranks.
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { memoryShare, promisedRanks, threadShare, type Introduction } from '../../lib/distributed/launch';
import { mpiFacts } from '../../lib/distributed/mpi';
import { PeerEnded } from '../../lib/distributed/process_group';
import { odd, slowRank } from '../../lib/train/group_reducer';
import { ranksInMemory } from '../support/ranks';

test.each([
  [{}, undefined],
  [{ OMPI_COMM_WORLD_SIZE: '1' }, undefined],
  [{ OMPI_COMM_WORLD_SIZE: '4' }, { ranks: 4, variable: 'OMPI_COMM_WORLD_SIZE' }],
  [{ PMI_SIZE: '2' }, { ranks: 2, variable: 'PMI_SIZE' }],
  [{ SLURM_STEP_NUM_TASKS: '8' }, { ranks: 8, variable: 'SLURM_STEP_NUM_TASKS' }],
  // A script of sbatch runs once, whatever the job may start later.
  [{ SLURM_NTASKS: '8' }, undefined],
  [{ PMI_SIZE: 'many' }, undefined],
])('a launcher that sets %j promises %j', (env, expected) => expect(promisedRanks(env)).toEqual(expected));

describe('threads of a rank', () => {
  const rank = (host: string, processors: string): Introduction => ({
    version: '1',
    pid: 1,
    host,
    processors,
  });

  test('ranks with the same processors share them', () => {
    const all = [rank('a', '0-7'), rank('a', '0-7'), rank('b', '0-7')];
    expect([0, 1, 2].map((own) => threadShare(all, own, 8))).toEqual([4, 4, 8]);
  });

  test('a rank that its launcher bound has its own', () => {
    expect(threadShare([rank('a', '0-3'), rank('a', '4-7')], 1, 4)).toBe(4);
  });

  test('more ranks than processors have one thread each', () => {
    expect(threadShare([rank('a', '0'), rank('a', '0'), rank('a', '0')], 0, 1)).toBe(1);
  });
});

test('ranks of a host divide its memory', () => expect(memoryShare(2, 32 * 2 ** 30)).toBe('15360MiB'));

test.each([
  [[1, 1, 1], undefined],
  [[1, 2], 1],
  [[2, 1, 1], 0],
  [[1, 1, 2], 2],
  [[1, 2, 3], 1],
  [[undefined, undefined], undefined],
])('of %j, %j is odd', (values, expected) => expect(odd(values)).toBe(expected));

test.each([
  ['all wait a little', [0.1, 0.08, 0.12], undefined],
  ['all wait for one', [0.5, 0.02, 0.4], { rank: 1, share: 0.4 }],
  ['one waits, another does not', [0.5, 0.02, 0.05], undefined],
  ['the slow one waits, too', [0.5, 0.2, 0.4], undefined],
])('slow: %s', (_, shares, expected) => expect(slowRank(shares)).toEqual(expected));

describe('the shim', () => {
  const use = (form: number): void => {
    const path = join(mkdtempSync(join(tmpdir(), 'shim-')), 'shim.cjs');
    writeFileSync(path, `module.exports = { form: ${form}, version: () => process.env.UCX_MEM_EVENTS };`);
    process.env['LORA_MPI_SHIM'] = path;
  };
  beforeEach(() => {
    delete process.env['UCX_MEM_EVENTS'];
    delete process.env['UCX_ERROR_SIGNALS'];
  });
  afterAll(() => {
    delete process.env['LORA_MPI_SHIM'];
  });

  test('one of another version is refused', () => {
    use(1);
    expect(mpiFacts()).toMatch(/shim.cjs is of another version of lora-native. Compile it again/);
  });

  test('UCX is kept from the process, unless the environment says otherwise', () => {
    use(2);
    expect(mpiFacts()).toMatch(/^no \(/);
    expect(process.env['UCX_ERROR_SIGNALS']).toBe('');
    process.env['UCX_MEM_EVENTS'] = 'yes';
    expect(mpiFacts()).toMatch(/^yes \(/);
  });
});

describe('a group', () => {
  test('a long message takes a second exchange, whose bytes all ranks agree on', async () => {
    const { groups, calls } = ranksInMemory(3);
    const values = ['x'.repeat(5000), 'short', Number.NaN];
    const all = await Promise.all(groups.map((group, rank) => group.gather(values[rank])));
    for (const own of all) expect(own).toEqual(values);
    for (const own of calls) expect(own).toEqual(['exchange', 'exchange']);
  });

  test('ranks that all leave for the same reason end, and the group can be used again', async () => {
    const { groups } = ranksInMemory(2);
    const errors = groups.map((_, rank) => new Error(`rank ${rank}`));
    await Promise.all(groups.map((group, rank) => group.leave(errors[rank], false)));
    // A second time with the same reason, as where a command leaves after its Trainer has.
    await Promise.all(groups.map((group, rank) => group.leave(errors[rank], false)));
    expect(await Promise.all(groups.map((group) => group.gather(group.rank)))).toEqual([
      [0, 1],
      [0, 1],
    ]);
  });

  test('one that leaves is named to those that wait, with its reason', async () => {
    const { groups } = ranksInMemory(2);
    const waiting = groups[0]!.gather(1).catch((error: unknown) => error);
    const left = groups[1]!.leave(new Error('no memory'), false);
    const error = await waiting;
    expect(error).toBeInstanceOf(PeerEnded);
    expect(error).toMatchObject({ message: '[distributed] rank 1 failed: no memory', stopped: undefined });
    await Promise.all([left, groups[0]!.leave(error, false)]);
  });

  test('an abort rejects at once, and what it left goes on for the others', async () => {
    const { groups, calls } = ranksInMemory(2);
    const controller = new AbortController();
    const step = async (rank: number, value: string): Promise<unknown> => {
      const all = await groups[rank]!.gather(value);
      await groups[rank]!.sum(new Float32Array([1]), 'f32');
      return all;
    };
    const mine = groups[0]!.together(() => step(0, 'a'), controller.signal);
    controller.abort(new Error('stop'));
    await expect(mine).rejects.toThrow('stop');
    const left = groups[0]!.leave(controller.signal.reason, true);
    expect(await step(1, 'b')).toEqual(['a', 'b']);
    const next = await groups[1]!.gather('c').catch((error: unknown) => error);
    expect(next).toMatchObject({ message: '[distributed] rank 0 was stopped: stop', stopped: 'stop' });
    await Promise.all([left, groups[1]!.leave(next, false)]);
    expect(calls[0]).toEqual(calls[1]);
  });
});
