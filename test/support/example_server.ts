/** A program of examples/ that listens, in a process of its own. */
import { spawn } from 'node:child_process';

export interface ExampleServer {
  /** What it has written so far. */
  readonly said: { readonly output: string; readonly errors: string };
  /** Waits until its output has this. */
  says: (pattern: RegExp) => Promise<RegExpExecArray>;
  /** Sends a signal and gives the status that it ends with. */
  end: (signal: NodeJS.Signals) => Promise<number | null>;
}

/** Starts a program on a port that is free, which it says as `listening on PORT`. */
export function exampleServer(
  program: string,
  args: readonly string[],
  options: { cwd?: string; env: NodeJS.ProcessEnv },
): ExampleServer {
  const child = spawn(process.execPath, [program, ...args], {
    ...options,
    env: { ...options.env, PORT: '0' },
  });
  const said = { output: '', errors: '' };
  child.stdout.setEncoding('utf8').on('data', (piece: string) => (said.output += piece));
  child.stderr.setEncoding('utf8').on('data', (piece: string) => (said.errors += piece));
  const closed = new Promise<number | null>((resolve) => child.on('close', resolve));
  return {
    said,
    async says(pattern) {
      for (;;) {
        const found = pattern.exec(said.output);
        if (found) return found;
        if (child.exitCode !== null) throw new Error(`the server ended: ${said.output}${said.errors}`);
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    },
    async end(signal) {
      child.kill(signal);
      return closed;
    },
  };
}
