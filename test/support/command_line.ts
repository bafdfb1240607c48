/** The command line in this process: as main.ts runs it, with strings in the place of a terminal. */
import { Readable, Writable } from 'node:stream';
import type { Console } from '../../lib/cli/command';
import { runCommandLine } from '../../lib/cli/run';

export interface Outcome {
  status: number;
  /** Standard output and standard error. */
  out: string;
  err: string;
}

export interface Surroundings {
  /** What comes on standard input; null for a terminal, where nobody types. */
  stdin?: string | Readable | null;
  signal?: AbortSignal;
  /** Standard error is a terminal of so many columns. */
  columns?: number;
  /** A terminal gives standard input, key by key. */
  keys?: boolean;
  /** See all of standard error, and of standard output, whenever something is written to it. */
  onError?: (text: string) => void;
  onOutput?: (text: string) => void;
}

class Collector extends Writable {
  text = '';
  isTTY = false;
  columns = 0;

  constructor(readonly seen?: (text: string) => void) {
    super();
  }

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.text += chunk.toString();
    this.seen?.(this.text);
    done();
  }
}

/** A console whose output can be asked for. */
export function fakeConsole({
  stdin = '',
  signal = new AbortController().signal,
  columns,
  keys = false,
  onError,
  onOutput,
}: Surroundings = {}): { console: Console; out: () => string; err: () => string } {
  const stdout = new Collector(onOutput);
  const stderr = new Collector(onError);
  if (columns !== undefined) Object.assign(stderr, { isTTY: true, columns });
  const source = stdin instanceof Readable ? stdin : Readable.from(stdin === null ? [] : [stdin]);
  const input = Object.assign(source, { isTTY: stdin === null || keys });
  return {
    console: { stdout, stderr, stdin: input, signal },
    out: () => stdout.text,
    err: () => stderr.text,
  };
}

export async function commandLine(
  argv: readonly string[],
  surroundings: Surroundings = {},
): Promise<Outcome> {
  const { console, out, err } = fakeConsole(surroundings);
  const status = await runCommandLine(argv, console);
  return { status, out: out(), err: err() };
}

/** The objects of a run with --json: one on each line, and nothing else. */
export function jsonLines({ out }: Pick<Outcome, 'out'>): Record<string, unknown>[] {
  if (!out.endsWith('\n')) throw new Error(`expected lines of JSON but received ${JSON.stringify(out)}`);
  return out
    .slice(0, -1)
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}
