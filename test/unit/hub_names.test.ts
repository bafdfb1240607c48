/** What is a path, and what is a name of the hub. */
import { join } from 'node:path';
import { CausalLM, readAdapter } from '../../lib/index';
import { inspect } from '../../lib/cli/inspect';
import { parseSource } from '../../lib/hub/names';
import { cacheFolder, endpointOf, findToken, isOffline } from '../../lib/hub/settings';
import { idOf } from '../../lib/hub/cache';
import { expectReject, expectThrow } from '../support/errors';
import { fakeConsole } from '../support/command_line';

const calls: [op: string, call: (source: string) => Promise<unknown>][] = [
  ['from_pretrained', (source) => CausalLM.fromPretrained(source)],
  ['readAdapter', (source) => readAdapter(source)],
  ['inspect', async (source) => inspect.run({}, fakeConsole().console, [source])],
];

describe.each(calls)('%s of', (_op, call) => {
  test.each([
    './org/name',
    '/org/name',
    'org',
    'org/name/deep',
    '../name',
    'org/a--b',
    'org/..',
    'org/name.git',
    'org/name/model.gguf',
    '',
  ])('the path %s asks nothing of the hub', async (source) => {
    const error = (await call(source).catch((thrown: unknown) => thrown)) as { code: string };
    expect(error.code).toBe(source === '' ? 'ERR_ARGUMENT' : 'ERR_FILE');
  });

  test.each([
    ...['hf:', 'hf:org', 'hf:org/name/deep', 'hf:/etc/passwd', 'hf:../name', 'hf:org/a--b'],
    ...['hf:org/name/../x.gguf', 'hf:org/name//x.gguf', 'hf:org/name/.x/y.gguf', 'hf:org/name/x y.gguf'],
  ])('%s is no name', async (source) => {
    await expectReject(
      call(source),
      'ERR_ARGUMENT',
      /expected hf:org\/name or hf:org\/name@revision, or either with \/FILE.gguf, but received/,
    );
  });
});

test.each([
  ['hf:org/name', undefined, { id: 'org/name', revision: 'main', bare: false }],
  ['hf:org/name@v1.0', undefined, { id: 'org/name', revision: 'v1.0', bare: false }],
  [
    'hf:org/name/model.gguf',
    undefined,
    { id: 'org/name', revision: 'main', file: 'model.gguf', bare: false },
  ],
  [
    'hf:org/name@v1/Q4_K_M/a-00001-of-00002.gguf',
    undefined,
    { id: 'org/name', revision: 'v1', file: 'Q4_K_M/a-00001-of-00002.gguf', bare: false },
  ],
  ['hf:org/name/b.gguf', 'refs/pr/3', { id: 'org/name', revision: 'refs/pr/3', file: 'b.gguf', bare: false }],
  ['org/na.me-1@refs/pr/3', undefined, { id: 'org/na.me-1', revision: 'refs/pr/3', bare: true }],
  ['HuggingFaceTB/SmolLM2-135M', 'main', { id: 'HuggingFaceTB/SmolLM2-135M', revision: 'main', bare: true }],
])('%s with the revision %s', (source, revision, expected) => {
  expect(parseSource(source, 'x', revision)).toEqual({ kind: 'model', ...expected, source });
});

test('a folder that is there is taken', () => {
  expect(parseSource('examples/base-model', 'x')).toBe('examples/base-model');
  expect(parseSource('examples/no-model', 'x')).toMatchObject({ id: 'examples/no-model', bare: true });
});

test.each<[source: string, revision: unknown, message: RegExp]>([
  [
    'hf:org/name@v1',
    'v2',
    /expected one revision but received 'v1' in 'hf:org\/name@v1' and the option revision/,
  ],
  [
    'examples/base-model',
    'v2',
    /expected no revision, which is for a name of the hub, since 'examples\/base-model' is a path/,
  ],
  ['./missing', 'v2', /expected no revision/],
  ...['../x', '', '/x', 'a//b', 'a\\b', 'a/..', '.', 'x y', 'a..b', 5].map(
    (bad): [string, unknown, RegExp] => [
      'hf:org/name',
      bad,
      /expected revision to be a branch, a tag or a commit/,
    ],
  ),
  ['hf:org/name@', undefined, /expected a branch, a tag or a commit after @/],
  ['hf:org/name@../../x', undefined, /expected a branch, a tag or a commit after @/],
])('%s with the revision %s is refused', (source, revision, message) => {
  expectThrow(() => parseSource(source, 'x', revision as string | undefined), 'ERR_ARGUMENT', message);
});

test('a revision is for a name, not for what readAdapter gave', async () => {
  const model = await CausalLM.fromPretrained('examples/base-model');
  await expectReject(
    model.loadAdapter({ config: {}, tensors: new Map() }, { revision: 'v1' }),
    'ERR_ARGUMENT',
    '[loadAdapter] expected no revision, which is for a name of the hub, with { config, tensors }',
  );
  await model.dispose();
});

test.each([
  [{ token: 5 }, 'expected token to be text'],
  [
    { token: 'a b' },
    'expected the option token to be a token of the hub: printable characters without spaces',
  ],
  [{ offline: 'yes' }, "expected offline to be true or false but received 'yes'"],
])('the options %j are refused', async (options, message) => {
  await expectReject(
    CausalLM.fromPretrained('hf:org/name', options as never),
    'ERR_ARGUMENT',
    `[from_pretrained] ${message}`,
  );
});

const home = process.env['HOME'] ?? '';
describe('the variables of Python’s huggingface_hub', () => {
  const onPosix = process.platform === 'win32' ? test.skip.each : test.each;
  onPosix([
    [{}, join(home, '.cache/huggingface/hub')],
    [{ XDG_CACHE_HOME: '/x' }, '/x/huggingface/hub'],
    [{ HF_HOME: '/h', XDG_CACHE_HOME: '/x' }, '/h/hub'],
    [{ HF_HOME: '~/h' }, join(home, 'h/hub')],
    [{ HF_HOME: '$BASE/h', BASE: '/b' }, '/b/h/hub'],
    [{ HF_HOME: '/h', HUGGINGFACE_HUB_CACHE: '/old' }, '/old'],
    [{ HF_HOME: '/h', HF_HUB_CACHE: '/c', HUGGINGFACE_HUB_CACHE: '/old' }, '/c'],
    [{ HF_HOME: '', HF_HUB_CACHE: '' }, join(home, '.cache/huggingface/hub')],
  ])('%j put the cache where it puts it', (env, path) => {
    expect(cacheFolder(env as Record<string, string>)).toBe(path);
  });

  test.each([
    ['1', true],
    ['true', true],
    ['ON', true],
    ['yes', true],
    ['0', false],
    ['', false],
    ['no', false],
  ])('HF_HUB_OFFLINE=%s is %s', (value, offline) => {
    expect(isOffline({ HF_HUB_OFFLINE: value })).toBe(offline);
    expect(isOffline({ TRANSFORMERS_OFFLINE: value })).toBe(offline);
  });

  test('a token comes from the option, then a variable, then the file', async () => {
    const env = { HF_TOKEN: 'two', HUGGING_FACE_HUB_TOKEN: 'three', HF_HOME: '/nowhere' };
    expect(await findToken('x', 'one', env)).toEqual({ value: 'one', from: 'the option token' });
    expect(await findToken('x', undefined, env)).toEqual({ value: 'two', from: 'HF_TOKEN' });
    expect(await findToken('x', undefined, { HUGGING_FACE_HUB_TOKEN: 'three' })).toEqual({
      value: 'three',
      from: 'HUGGING_FACE_HUB_TOKEN',
    });
    expect(await findToken('x', undefined, { HF_HOME: '/nowhere' })).toEqual({
      from: `none (HF_TOKEN, or ${join('/nowhere', 'token')})`,
    });
    const inFile = join(__filename, 'token'); // as where HF_HOME is a file
    expect(await findToken('x', undefined, { HF_TOKEN_PATH: inFile })).toEqual({
      from: `none (HF_TOKEN, or ${inFile})`,
    });
  });

  test.each(['not an address', 'ftp://x', 'https://name:word@x', 'https://x?y'])(
    'HF_ENDPOINT=%s is refused, and not shown',
    (value) => {
      expectThrow(
        () => endpointOf('x', { HF_ENDPOINT: value }),
        'ERR_ARGUMENT',
        '[x] expected HF_ENDPOINT to be an address such as https://huggingface.co, without a name or password',
      );
    },
  );

  test('HF_ENDPOINT may end in slashes', () => {
    expect(endpointOf('x', { HF_ENDPOINT: 'http://mirror/hf//' })).toBe('http://mirror/hf');
    expect(endpointOf('x', {})).toBe('https://huggingface.co');
  });
});

test.each([
  ['models--org--name', 'org/name'],
  ['datasets--org--name', undefined],
  ['models--gpt2', undefined],
  ['models--a--b--c', undefined],
  ['.locks', undefined],
])('the folder %s of the cache is of %s', (folder, id) => {
  expect(idOf(folder)).toBe(id);
});
