#!/usr/bin/env node
import { Interrupted } from './command';
import { runCommandLine } from './run';

const { stdout, stderr, stdin } = process;
const interruption = new AbortController();
const interrupt = (): void => {
  // On a terminal the line of the progress, or ^C, may stand there.
  stderr.write(`${stderr.isTTY ? '\n' : ''}stopping; Ctrl-C again ends at once\n`);
  interruption.abort(new Interrupted());
};
// Once: with no listener left, a second Ctrl-C ends the process, as it does where nobody listens.
process.once('SIGINT', interrupt);

void runCommandLine(process.argv.slice(2), { stdout, stderr, stdin, signal: interruption.signal }).then(
  (code) => {
    process.off('SIGINT', interrupt);
    process.exitCode = code;
  },
);
