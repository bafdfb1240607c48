#!/usr/bin/env node
import { Interrupted } from './command';
import { runCommandLine } from './run';

const { stdout, stderr, stdin } = process;
const interruption = new AbortController();

const signals = ['SIGINT', 'SIGTERM'] as const;
const ignore = (): void => {
  for (const signal of signals) process.off(signal, interrupt);
};
function interrupt(signal: 'SIGINT' | 'SIGTERM'): void {
  ignore(); // with no listener left, a second one ends the process, as it does where nobody listens
  // On a terminal the line of the progress, or ^C, may stand there.
  const again = signal === 'SIGINT' ? 'Ctrl-C' : signal;
  stderr.write(`${stderr.isTTY ? '\n' : ''}stopping; ${again} again ends at once\n`);
  interruption.abort(new Interrupted(signal));
}
for (const signal of signals) process.on(signal, interrupt);

// Every write to a pipe that nobody reads fails, so these stay. What runs is saved, as after Ctrl-C.
for (const stream of [stdout, stderr])
  stream.on('error', (error: NodeJS.ErrnoException) =>
    interruption.abort(error.code === 'EPIPE' ? new Interrupted('SIGPIPE') : error),
  );

void runCommandLine(process.argv.slice(2), { stdout, stderr, stdin, signal: interruption.signal }).then(
  (code) => {
    ignore();
    process.exitCode = code;
  },
);
