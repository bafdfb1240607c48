/** The documentation's site: complete, without dead links, and usable in a browser. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { describeBrowser } from './browser_checks';
import { root } from './markdown';
import { temporaryFolder } from '../support/temporary';
import { describeReference } from './reference_checks';

/** Builds a site out of a folder of Markdown. */
function build(out: string, ...options: string[]): { status: number | null; stderr: string } {
  return spawnSync(process.execPath, ['scripts/docs/build.mjs', '--out', out, ...options], {
    cwd: root,
    encoding: 'utf8',
  });
}

const folder = temporaryFolder();
const site = join(folder, 'site');
jest.setTimeout(120_000); // a browser on a busy machine
beforeAll(() => {
  const { status, stderr } = build(site);
  if (status !== 0) throw new Error(`npm run docs failed:\n${stderr}`);
}, 240_000);

test('mistakes in the documentation fail its build', () => {
  const out = join(folder, 'broken');
  const { status, stderr } = build(out, '--docs', 'test/docs/broken', '--without-api');
  expect(status).toBe(1);
  expect(stderr.trim().split('\n').sort()).toEqual([
    '5 problems',
    'guide: no anchor for index.html#none',
    'index.md: the link missing.md leads to test/docs/broken/missing.md, which does not exist',
    'site.json lists nowhere, but there is no nowhere.md',
    'stray.md stands in no section of site.json',
    'stray: no way leads there from the start page',
  ]);
});

describe('the reference', () => describeReference(site));
describeBrowser(site);
