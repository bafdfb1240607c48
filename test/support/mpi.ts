/** Runs programs as ranks of an MPI that is installed here. */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

const root = resolve(__dirname, '../..');

export interface Mpi {
  readonly name: string;
  readonly mpirun: string;
  readonly mpicc: string;
  /** The environment of its programs, with the shim that its mpicc has compiled. */
  readonly env: NodeJS.ProcessEnv;
}

const says = (command: string): string =>
  spawnSync(command, ['--version'], { encoding: 'utf8' }).stdout ?? '';

/** The implementations of Debian, which may be installed side by side; elsewhere the one on the PATH. */
export function installedMpis(): Mpi[] {
  const kinds = [
    { name: 'Open MPI', suffix: '.openmpi', sign: /Open MPI/ },
    { name: 'MPICH', suffix: '.mpich', sign: /HYDRA|MPICH/ },
  ];
  return kinds.flatMap(({ name, suffix, sign }) => {
    const found = [suffix, ''].find(
      (own) => sign.test(says(`mpirun${own}`)) && spawnSync(`mpicc${own}`, ['--version']).status === 0,
    );
    if (found === undefined) return [];
    const shim = join(tmpdir(), `lora-mpi-${process.pid}-${name.replace(' ', '-')}.node`);
    const env = {
      ...process.env,
      LORA_MPI_SHIM: shim,
      LORA_THREADS: '1',
      OMPI_ALLOW_RUN_AS_ROOT: '1',
      OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: '1',
    };
    return [{ name, mpirun: `mpirun${found}`, mpicc: `mpicc${found}`, env }];
  });
}

/** Compiles its shim, as `lora-native build --mpi` does. */
export function buildShim({ mpicc, env }: Mpi): void {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [join(root, 'dist/cli.js'), 'build', '--mpi'],
    {
      encoding: 'utf8',
      env: { ...env, MPICC: mpicc },
    },
  );
  if (status !== 0) throw new Error(`build --mpi ended with ${status}\n${stdout}${stderr}`);
}

export const removeShim = ({ env }: Mpi): void => rmSync(env['LORA_MPI_SHIM']!, { force: true });

/** What starts `count` ranks of a program of node. */
const launch = ({ mpirun, name }: Mpi, count: number, args: readonly string[]): [string, string[]] => [
  mpirun,
  [
    ...(name === 'Open MPI' ? ['--oversubscribe', '--bind-to', 'none'] : []),
    '-n',
    String(count),
    process.execPath,
    ...args,
  ],
];

export interface Ended {
  status: number | null;
  stdout: string;
  stderr: string;
}

export class RankedRun {
  readonly #child: ChildProcess;
  readonly ended: Promise<Ended>;
  #output = '';

  constructor(mpi: Mpi, count: number, args: readonly string[], cwd?: string) {
    const [command, words] = launch(mpi, count, args);
    const child = spawn(command, words, { env: mpi.env, cwd });
    this.#child = child;
    let stderr = '';
    child.stdout.on('data', (text: Buffer) => (this.#output += text.toString()));
    child.stderr.on('data', (text: Buffer) => (stderr += text.toString()));
    this.ended = new Promise((done) =>
      child.on('close', (status) => done({ status, stdout: this.#output, stderr })),
    );
  }

  /** The process of a rank. */
  processOf(rank: number): number {
    const marks = [`OMPI_COMM_WORLD_RANK=${rank}`, `PMI_RANK=${rank}`];
    for (const pid of descendants(this.#child.pid!)) {
      const environment = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0');
      const program = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')[0]!;
      if (program === process.execPath && marks.some((mark) => environment.includes(mark))) return pid;
    }
    throw new Error(`no process of rank ${rank}`);
  }

  /** Resolves when rank 0 has printed what matches. */
  async until(pattern: RegExp): Promise<void> {
    while (!pattern.test(this.#output)) {
      if (this.#child.exitCode !== null)
        throw new Error(`it ended before ${pattern}: ${JSON.stringify(await this.ended)}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}

function descendants(pid: number): number[] {
  try {
    const own = readdirSync(`/proc/${pid}/task`).flatMap((thread) =>
      readFileSync(`/proc/${pid}/task/${thread}/children`, 'utf8').split(' ').filter(Boolean).map(Number),
    );
    return own.flatMap((child) => [child, ...descendants(child)]);
  } catch {
    return []; // it has ended
  }
}

export const temporaryRun = (): string => join(mkdtempSync(join(tmpdir(), 'mpi-')), 'run');
