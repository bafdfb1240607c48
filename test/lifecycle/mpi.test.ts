// Training in several processes on the MPIs that are installed here: results, launchers, and how runs end.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { readAdapter } from '../../lib/index';
import {
  buildShim,
  installedMpis,
  RankedRun,
  removeShim,
  temporaryRun,
  type Ended,
  type Mpi,
} from '../support/mpi';

const root = resolve(__dirname, '../..');
const cli = join(root, 'dist/cli.js');
const base = join(root, 'examples/base-model');
const data = join(root, 'examples/data/train.jsonl');
const heldout = join(root, 'examples/data/heldout.jsonl');
const mpis = installedMpis();
jest.setTimeout(120_000);

const train = (outDir: string, ...flags: string[]): string[] => [
  ...[cli, 'train', '--model', base, '--data', data, '--batch-size', '2', '--max-length', '48'],
  ...['--no-report', '--json', '--out-dir', outDir, ...flags],
];

interface Step {
  type: string;
  step: number;
  loss: number;
}
const eventsOf = ({ stdout }: Pick<Ended, 'stdout'>, type: string): Step[] =>
  stdout
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as Step)
    .filter((event) => event.type === type);

const weightsOf = (dir: string): string =>
  readFileSync(join(dir, 'adapter_model.safetensors')).toString('base64');

if (mpis.length < 2)
  describe.skip(`${mpis.length === 0 ? 'an' : 'a second'} MPI (skipped: ${mpis.length} of Open MPI and MPICH are installed)`, () => {
    test('is tested', () => undefined);
  });

for (const mpi of mpis)
  describe(mpi.name, () => {
    const { name } = mpi;
    beforeAll(() => buildShim(mpi));
    afterAll(() => removeShim(mpi));
    const start = (ranks: number, args: string[]): RankedRun => new RankedRun(mpi, ranks, args);

    test('the shim: sums, digests, progress and errors of 3 ranks', async () => {
      const { stdout, stderr } = await start(3, [join(root, 'test/support/mpi_shim_program.cjs')]).ended;
      const lines = (stdout.match(/^rank .*$/gm) ?? []).sort();
      expect([lines, stderr]).toEqual([[0, 1, 2].map((rank) => `rank ${rank} is done`), expect.anything()]);
    });

    test('doctor names the MPI of the shim', () => {
      const { stdout } = spawnSync(process.execPath, [cli, 'doctor'], { encoding: 'utf8', env: mpi.env });
      expect(stdout).toMatch(new RegExp(`^mpi +${name}.*\\(${mpi.env['LORA_MPI_SHIM']!}\\)$`, 'm'));
    });

    test('2 and 4 ranks train what one process does, and repeat bit for bit', async () => {
      const flags = [
        '--max-steps',
        '4',
        '--lora-dropout',
        '0.1',
        '--eval-data',
        heldout,
        '--eval-every',
        '2',
      ];
      const whole = spawnSync(
        process.execPath,
        train(temporaryRun(), ...flags, '--gradient-accumulation-steps', '4'),
        {
          encoding: 'utf8',
          env: mpi.env,
        },
      );
      const digests: string[] = [];
      for (const [ranks, share] of [
        [2, 2],
        [2, 2],
        [4, 1],
      ] as const) {
        const outDir = temporaryRun();
        const more = ['--gradient-accumulation-steps', String(share), '--distributed', 'mpi'];
        const ended = await start(ranks, train(outDir, ...flags, ...more)).ended;
        expect([ended.status, ended.stderr.includes('ERR_')]).toEqual([0, false]);
        for (const type of ['step', 'eval']) {
          const [own, one] = [eventsOf(ended, type), eventsOf(whole, type)];
          expect(own.map(({ step }) => step)).toEqual(one.map(({ step }) => step));
          for (const [i, { loss }] of own.entries()) expect(loss).toBeCloseTo(one[i]!.loss, 3);
        }
        digests.push(weightsOf(outDir));
      }
      expect(digests[1]).toBe(digests[0]);
    });

    /** Starts a long run, and does something to a rank after its first checkpoint. */
    async function struck(
      rank: number,
      signal: NodeJS.Signals,
      ...more: string[]
    ): Promise<Ended & { outDir: string; seconds: number }> {
      const outDir = temporaryRun();
      const flags = ['--max-steps', '5000', '--save-every', '3', '--distributed', 'mpi', ...more];
      const run = start(2, train(outDir, ...flags));
      await run.until(/"type":"checkpoint"/);
      const began = performance.now();
      process.kill(run.processOf(rank), signal);
      const ended = await run.ended;
      return { ...ended, outDir, seconds: (performance.now() - began) / 1000 };
    }

    test.each([0, 1])(
      'SIGTERM on rank %i: rank 0 saves the last step, and all exit with 143',
      async (rank) => {
        const { status, stdout, outDir, seconds } = await struck(rank, 'SIGTERM');
        expect(status).toBe(143);
        expect(seconds).toBeLessThan(20);
        const last = eventsOf({ stdout }, 'step').at(-1)!.step;
        expect(readdirSync(outDir)).toContain(`checkpoint-${last}`);
      },
    );

    test('a killed rank ends the others, is named, and the last checkpoint is whole', async () => {
      const { status, stdout, stderr, outDir, seconds } = await struck(1, 'SIGKILL');
      expect(seconds).toBeLessThan(30);
      // The launcher of MPICH may end with 0 and say nothing.
      if (name !== 'MPICH') expect(status).not.toBe(0);
      if (status !== 0)
        expect(stdout + stderr).toMatch(
          name === 'MPICH' ? /PID \d+ RUNNING AT/ : /process rank 1 with PID \d+/,
        );
      expect(eventsOf({ stdout }, 'end')).toEqual([]);
      expect(readdirSync(outDir)).not.toContain('adapter_model.safetensors');
      const checkpoints = readdirSync(outDir).filter((file) => file.startsWith('checkpoint-'));
      expect(checkpoints.length).toBeGreaterThan(0);
      for (const checkpoint of checkpoints) await readAdapter(join(outDir, checkpoint));
    });

    test('a rank that hangs is named after --distributed-timeout', async () => {
      const { status, stderr, seconds } = await struck(1, 'SIGSTOP', '--distributed-timeout', '3');
      expect(status).not.toBe(0);
      expect(stderr).toMatch(
        /rank 1 \(process \d+ on \S+\) made no progress for 3 s, while this rank waited/,
      );
      expect(seconds).toBeLessThan(30);
    });

    test('a rank with other data or settings is refused, and no file is written', async () => {
      const outDir = temporaryRun();
      const program = `process.argv.push('--seed', process.env.OMPI_COMM_WORLD_RANK ?? process.env.PMI_RANK); require(${JSON.stringify(cli)})`;
      const args = ['-e', program, ...train(outDir, '--max-steps', '2', '--distributed', 'mpi').slice(0)];
      const { status, stderr } = await start(2, args).ended;
      expect(status).not.toBe(0);
      expect(stderr).toMatch(
        /rank 1 \(process \d+ on \S+\) is to train something else than rank 0 .*: seed was 0 and is 1/,
      );
      expect(existsSync(join(outDir, 'adapter_model.safetensors'))).toBe(false);
    });

    test('ranks that nobody has asked for are refused', async () => {
      const { status, stderr } = await start(2, train(temporaryRun(), '--max-steps', '2')).ended;
      expect(status).not.toBe(0);
      expect(stderr).toMatch(
        /train runs in one process but a launcher has started 2 \(\w+\): give --distributed mpi/,
      );
    });

    test('the program of the guide', async () => {
      const { status, stdout, stderr } = await new RankedRun(
        mpi,
        2,
        [join(root, 'examples/distributed.mjs'), base, data, temporaryRun()],
        root,
      ).ended;
      expect([status, stderr.includes('ERR_')]).toEqual([0, false]);
      expect(stdout.match(/of 2 ranks/g)).toHaveLength(6);
    });
  });

if (mpis.length === 2)
  test('the mpirun of another MPI is refused, since every process would be alone', async () => {
    const [one, other] = mpis as [Mpi, Mpi];
    buildShim(one);
    const mixed = { ...other, env: one.env };
    const { status, stderr } = await new RankedRun(
      mixed,
      2,
      train(temporaryRun(), '--max-steps', '2', '--distributed', 'mpi'),
    ).ended;
    removeShim(one);
    expect(status).not.toBe(0);
    expect(stderr).toMatch(/expected 2 ranks, since \w+ says so, but the MPI of the shim \(.*\) has 1/);
  });
