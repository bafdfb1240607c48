/** The command line in this process: as main.ts runs it, with strings in the place of a terminal. */
import { Readable, Writable } from 'node:stream';
import { runCommandLine } from '../../lib/cli/run';

export interface Outcome {
  status: number;
  /** Standard output and standard error. */
  out: string;
  err: string;
}

export interface Surroundings {
  /** What comes on standard input; null for a terminal, where nobody types. */
  stdin?: string | null;
  signal?: AbortSignal;
  /** Standard error is a terminal of so many columns. */
  columns?: number;
  /** Sees what is written to standard error, as it is written. */
  onError?: (text: string) => void;
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

export async function commandLine(
  argv: readonly string[],
  { stdin = '', signal = new AbortController().signal, columns, onError }: Surroundings = {},
): Promise<Outcome> {
  const stdout = new Collector();
  const stderr = new Collector(onError);
  if (columns !== undefined) Object.assign(stderr, { isTTY: true, columns });
  const input = Object.assign(Readable.from(stdin === null ? [] : [stdin]), { isTTY: stdin === null });
  const status = await runCommandLine(argv, { stdout, stderr, stdin: input, signal });
  return { status, out: stdout.text, err: stderr.text };
}

/** The objects of a run with --json: one on each line, and nothing else. */
export function jsonLines({ out }: Outcome): Record<string, unknown>[] {
  if (!out.endsWith('\n')) throw new Error(`expected lines of JSON but received ${JSON.stringify(out)}`);
  return out
    .slice(0, -1)
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}
