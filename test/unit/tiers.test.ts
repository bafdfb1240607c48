/** The tiers of tests: none is lost between them, and no list names what is gone. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';

type Tier = 'everyday' | 'standard' | 'deep';
interface Block {
  type?: string;
  name: string;
  children?: Block[];
}
const Tiers = jest.requireActual<{
  programs: string[];
  slow: string[];
  deep: Record<string, RegExp | null>;
  deepNative: string[];
  configOf(tier: Tier): { testRegex?: string[]; testPathIgnorePatterns?: string[] };
  ctestOf(tier: Tier | undefined): string[];
}>('../support/tiers.cjs');

const Environment = jest.requireActual<
  new (
    config: object,
    context: { testPath: string },
  ) => {
    handleTestEvent(event: { name: string }, state: { rootDescribeBlock: Block }): void;
  }
>('../support/tier_environment.cjs');

const root = join(__dirname, '../..');
const listed = (folder: string): string[] => readdirSync(join(root, folder), { recursive: true }) as string[];
const files = listed('test')
  .map((path) => `/test/${path.replaceAll('\\', '/')}`)
  .filter((path) => path.endsWith('.test.ts'));
const matching = (patterns: readonly string[]): string[] =>
  files.filter((path) => patterns.some((pattern) => new RegExp(pattern).test(path)));

/** The files that Jest finds with the configuration of a tier. */
function filesOf(tier: Tier): string[] {
  const { testRegex, testPathIgnorePatterns = [] } = Tiers.configOf(tier);
  const left = matching(testPathIgnorePatterns);
  return (testRegex ? matching(testRegex) : files).filter((path) => !left.includes(path));
}

test('every test file is standard or deep; both where its cases are', () => {
  const [standard, deep] = [filesOf('standard'), filesOf('deep')];
  expect([...new Set([...standard, ...deep])].sort()).toEqual([...files].sort());
  const shared = Object.keys(Tiers.deep).filter((name) => Tiers.deep[name] !== null);
  expect(standard.filter((path) => deep.includes(path)).sort()).toEqual(
    shared.map((name) => `/test/${name}.test.ts`).sort(),
  );
  expect(deep).toHaveLength(Object.keys(Tiers.deep).length);
  const everyday = filesOf('everyday');
  expect(everyday.filter((path) => !standard.includes(path))).toEqual([]);
  expect(matching([...Tiers.programs, ...Tiers.slow]).filter((path) => everyday.includes(path))).toEqual([]);
});

test('every pattern of a list is that of a test file, and no slow one is deep', () => {
  for (const list of [Tiers.programs, Tiers.slow])
    for (const pattern of list) {
      const names = /^(.*\/)\((.*)\)(\\.test\\.ts)$/.exec(pattern);
      const each = names
        ? names[2]!.split(/\|(?![^(]*\))/).map((name) => names[1]! + name + names[3]!)
        : [pattern];
      for (const one of each) expect({ one, files: matching([one]).length }).not.toEqual({ one, files: 0 });
    }
  expect(matching(Tiers.slow).filter((path) => !filesOf('standard').includes(path))).toEqual([]);
});

test('every deep native test is that of a file, but for those of compiled kernels and of other numbers', () => {
  const sources = listed('native/test').filter((path) => path.endsWith('_test.cc'));
  const names = sources.flatMap((path) => {
    const [layer, file] = path.replaceAll('\\', '/').slice(0, -3).split('/');
    return layer === 'ops' ? [`cpu_${file}`, `cuda_${file}`] : [`${layer}_${file}`];
  });
  const unknown = Tiers.deepNative.filter((name) => !names.includes(name));
  expect(unknown).toEqual(['cuda_(contracted|f32|hopper)_.*', 'driver_launch_tests_sm_[0-9]+']);
  expect(Tiers.ctestOf(undefined)).toEqual([]);
  const [, left] = Tiers.ctestOf('standard');
  expect(names.filter((name) => new RegExp(left!).test(name))).toHaveLength(
    Tiers.deepNative.length - unknown.length,
  );
  const [, run] = Tiers.ctestOf('deep');
  for (const name of names)
    expect([name, new RegExp(run!).test(name)]).toEqual([
      name,
      name.startsWith('cpu_') || Tiers.deepNative.includes(name),
    ]);
});

test('of a file with cases in two tiers, each tier runs its own, and says what is skipped', () => {
  const kept = 'there is none unless it is asked for';
  const absent = 'data (skipped: it is absent)';
  const run = (tier: Tier, path: string): string[] => {
    const block = (name: string, ...cases: string[]): Block => ({
      type: 'describeBlock',
      name,
      children: cases.map((title) => ({ type: 'test', name: title })),
    });
    const file: Block = block('ROOT', kept, 'another');
    const skipped = block(absent, 'needs the data');
    file.children!.push(block('a block', 'of others'), block('there is none', 'in a block'), skipped);
    const testEnvironmentOptions = { tier };
    new Environment(
      { projectConfig: { globals: {}, testEnvironmentOptions } },
      { testPath: path },
    ).handleTestEvent({ name: 'run_start' }, { rootDescribeBlock: file });
    return file.children!.map((child) => child.name);
  };
  const path = join(root, 'test/e2e/serve_page.test.ts');
  expect(run('everyday', path)).toEqual([kept, 'there is none', absent]);
  expect(run('standard', path)).toEqual([kept, 'there is none', absent]);
  expect(run('deep', path)).toEqual(['another', 'a block', absent]);
  expect(run('standard', __filename)).toEqual([kept, 'another', 'a block', 'there is none', absent]);
});
