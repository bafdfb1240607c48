/** Programs that run outside jest's vm realm, against the built bundle. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';

const root = resolve(__dirname, '../..');

export interface ChildResult {
  status: number | null;
  signal: string | null;
  stdout: string;
  stderr: string;
  /** What the program gave to report(). */
  report: unknown;
}

/**
 * Runs `body`, statements of an async function with `lora` (the package), `gc` and `report(value)`, in a new
 * process.
 */
export function runChild(
  body: string,
  {
    env = {},
    nodeArgs = [],
    timeout = 50_000,
  }: { env?: Record<string, string>; nodeArgs?: string[]; timeout?: number } = {},
): ChildResult {
  const bundle = join(root, 'dist/index.js');
  if (!existsSync(bundle)) throw new Error(`${bundle} is missing: run npm run build:js first`);
  const marker = '@report ';
  // As text, so that the program stands in the root of the package and can name it.
  const program = `const lora = require(${JSON.stringify(bundle)});
const report = (value) => process.stdout.write(${JSON.stringify(marker)} + JSON.stringify(value) + '\\n');
(async () => {
${body}
})().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
`;
  const { status, signal, stdout, stderr } = spawnSync(
    process.execPath,
    ['--expose-gc', ...nodeArgs, '-e', program],
    { encoding: 'utf8', timeout, cwd: root, env: { ...process.env, ...env } },
  );
  const line = stdout.split('\n').find((l) => l.startsWith(marker));
  const report = line === undefined ? undefined : (JSON.parse(line.slice(marker.length)) as unknown);
  return { status, signal, stdout, stderr, report };
}

/** The same for a program that must end well: gives its report. */
export function childReport(body: string, options: Parameters<typeof runChild>[1] = {}): unknown {
  const result = runChild(body, options);
  if (result.status !== 0) {
    throw new Error(`exit ${result.status ?? result.signal}\n${result.stdout}\n${result.stderr}`);
  }
  return result.report;
}
