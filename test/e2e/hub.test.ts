/** Models and adapters by name, from a server on this machine that speaks the hub's protocol, and what goes wrong on the way. */
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import fs from 'node:fs/promises';
import { join } from 'node:path';
import { sourceFolder, type SourceOptions } from '../../lib/hub/source';
import type { Purpose } from '../../lib/hub/wanted';
import type { LoadProgress } from '../../lib/hub/progress';
import { expectReject } from '../support/errors';
import { answer, cutAfter, gitHash, HubServer, sha256, type FakeRepository } from '../support/hub_server';
import { hubHome } from '../support/hub_home';
import { temporaryFolder } from '../support/temporary';

const root = temporaryFolder();
const at = hubHome();
const commit = 'c0ffee'.padEnd(40, '0');
const weights = Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * 7919) % 251));
const config = '{"model_type":"llama"}';
const id = 'org/name';
const folderName = 'models--org--name';

let hub: HubServer;
let home: string;
beforeEach(() => {
  ({ hub, home } = at);
});

const model = (more: Partial<FakeRepository> = {}): FakeRepository => ({
  files: { 'config.json': config, 'tokenizer.json': '{}', 'README.md': '# x', 'model.safetensors': weights },
  license: 'apache-2.0',
  ...more,
});
const serve = (more?: Partial<FakeRepository>): void => void hub.repositories.set(id, model(more));

let events: LoadProgress[] = [];
function get(
  source = 'hf:org/name',
  options: SourceOptions = {},
  purpose: Purpose = 'model',
): Promise<string> {
  events = [];
  return sourceFolder(source, 'test', purpose, { onProgress: (event) => events.push(event), ...options });
}
const inCache = (...names: string[]): string => join(home, 'hub', folderName, ...names);
const blobs = (): string[] => readdirSync(inCache('blobs')).sort();
const notices = (): string[] => events.flatMap((event) => (event.type === 'notice' ? [event.message] : []));

describe('the cache', () => {
  test('is laid out as Python has it', async () => {
    serve();
    const folder = await get();
    expect(folder).toBe(inCache('snapshots', commit));
    expect(readdirSync(folder).sort()).toEqual(['config.json', 'model.safetensors', 'tokenizer.json']);
    expect(sha256(readFileSync(join(folder, 'model.safetensors')))).toBe(sha256(weights));
    const small = gitHash(Buffer.from(config));
    expect(blobs()).toEqual([small, sha256(weights), gitHash(Buffer.from('{}'))].sort());
    expect(lstatSync(join(folder, 'config.json')).isSymbolicLink()).toBe(true);
    expect(readlinkSync(join(folder, 'config.json'))).toBe(join('..', '..', 'blobs', small));
    expect(readFileSync(inCache('refs', 'main'), 'utf8')).toBe(commit);
    expect(readdirSync(join(home, 'hub', '.locks', folderName))).toContain(`${sha256(weights)}.lock`);
  });

  test('that Python has filled is used: nothing but the listing is asked for', async () => {
    serve();
    const digest = sha256(weights);
    mkdirSync(inCache('blobs'), { recursive: true });
    mkdirSync(inCache('snapshots', commit), { recursive: true });
    for (const [name, blob, content] of [
      ['config.json', gitHash(Buffer.from(config)), config],
      ['tokenizer.json', gitHash(Buffer.from('{}')), '{}'],
      ['model.safetensors', digest, weights],
    ] as const) {
      writeFileSync(inCache('blobs', blob), content);
      symlinkSync(join('..', '..', 'blobs', blob), inCache('snapshots', commit, name));
    }
    await get();
    expect(hub.lines).toEqual(['hub GET /api/models/org/name/revision/main']);
    expect(events).toEqual([]);
  });

  test('keeps one blob for two commits that share a file', async () => {
    const next = 'beef'.padEnd(40, '0');
    serve({ refs: { main: commit, next } });
    await get();
    hub.seen.length = 0;
    await get('hf:org/name@next');
    expect(hub.lines.filter((line) => line.startsWith('store'))).toEqual([]);
    expect(blobs()).toHaveLength(3);
    expect(readFileSync(inCache('refs', 'next'), 'utf8')).toBe(next);
  });
});

describe('GGUF files', () => {
  const bytes = (text: string): Buffer => Buffer.from(`GGUF of ${text}`);
  const some = {
    'a.Q8_0.gguf': bytes('eight bits'),
    'few/a-00001-of-00002.gguf': bytes('four bits'),
    'few/a-00002-of-00002.gguf': weights,
    'README.md': '# x',
  };
  const stored = (): string[] => hub.lines.filter((line) => line.startsWith('store GET'));

  test('one that is named comes alone', async () => {
    serve({ files: { ...some, 'model.safetensors': weights, 'config.json': config } });
    const path = await get('hf:org/name@main/a.Q8_0.gguf');
    expect(path).toBe(inCache('snapshots', commit, 'a.Q8_0.gguf'));
    expect(readFileSync(path)).toEqual(some['a.Q8_0.gguf']);
    expect(readdirSync(inCache('snapshots', commit))).toEqual(['a.Q8_0.gguf']);
    hub.reset();
    expect(await get('hf:org/name/a.Q8_0.gguf', { offline: true })).toBe(path);
    await expectReject(
      get('hf:org/name/few/a-00001-of-00002.gguf', { offline: true }),
      'ERR_HUB',
      /has no few\/a-00001-of-00002\.gguf, .*\(lora-native download org\/name\/few\/a-00001-of-00002\.gguf\)/,
    );
  });

  test.each([1, 2])('part %i brings the others, and what is cut goes on', async (part) => {
    serve({ files: some });
    if (part === 1) hub.fail(/^store GET .*a-00002/, cutAfter(100_000));
    const path = await get(`hf:org/name/few/a-0000${part}-of-00002.gguf`);
    expect(path).toBe(inCache('snapshots', commit, 'few', `a-0000${part}-of-00002.gguf`));
    expect(readdirSync(inCache('snapshots', commit, 'few'))).toEqual([
      'a-00001-of-00002.gguf',
      'a-00002-of-00002.gguf',
    ]);
    expect(readFileSync(inCache('snapshots', commit, 'few', 'a-00002-of-00002.gguf'))).toEqual(
      some['few/a-00002-of-00002.gguf'],
    );
    const resumed = hub.seen.filter(({ at, headers }) => at === 'store' && headers.range);
    expect([stored().length, resumed.length]).toEqual(part === 1 ? [3, 1] : [2, 0]);
    expect(await get(`hf:org/name/few/a-0000${part}-of-00002.gguf`, { offline: true })).toBe(path);
  });

  test('a repository with one model and no safetensors is that model', async () => {
    const files = { ...some, 'config.json': config };
    const { 'a.Q8_0.gguf': _, ...one } = files;
    serve({ files: one });
    for (const purpose of ['model', 'any', 'tokenizer'] as const)
      expect(await get('hf:org/name', {}, purpose)).toBe(
        inCache('snapshots', commit, 'few', 'a-00001-of-00002.gguf'),
      );
    expect(await get('hf:org/name', { offline: true })).toMatch(/a-00001-of-00002\.gguf$/);
    // Its configuration stands in a file of its own.
    expect(await get('hf:org/name', {}, 'config')).toBe(inCache('snapshots', commit));
    serve({ files });
    await expectReject(
      get(),
      'ERR_HUB',
      '[test] org/name holds 2 GGUF models and no safetensors: name one, as hf:org/name/a.Q8_0.gguf (a.Q8_0.gguf, few/a-00001-of-00002.gguf)',
    );
    serve({ files: { ...files, 'model.safetensors': weights } });
    expect(await get()).toBe(inCache('snapshots', commit));
  });

  test('one that is not there, and a part of what is not whole', async () => {
    const { 'few/a-00002-of-00002.gguf': _, ...less } = some;
    serve({ files: less });
    await expectReject(get('hf:org/name/b.gguf'), 'ERR_HUB', '[test] org/name has no b.gguf');
    await expectReject(
      get('hf:org/name/few/a-00001-of-00002.gguf'),
      'ERR_HUB',
      '[test] org/name has no few/a-00002-of-00002.gguf, which few/a-00001-of-00002.gguf is a part of',
    );
    // Names that lead elsewhere are none.
    serve({ files: { '../x.gguf': bytes('x'), '/y.gguf': bytes('y'), 'config.json': config } });
    await expectReject(get(), 'ERR_HUB', /has neither model\.safetensors nor/);
    expect(stored()).toEqual([]);
  });
});

describe('where there are no links', () => {
  const refuse = (): void => {
    const error = Object.assign(new Error('EPERM'), { code: 'EPERM', syscall: 'symlink' });
    jest.spyOn(fs, 'symlink').mockRejectedValue(error);
  };
  afterEach(() => jest.restoreAllMocks());

  test('a new blob is moved, as Python does, and the next call asks for nothing', async () => {
    serve();
    refuse();
    const folder = await get();
    expect(lstatSync(join(folder, 'model.safetensors')).isFile()).toBe(true);
    expect(sha256(readFileSync(join(folder, 'model.safetensors')))).toBe(sha256(weights));
    expect(blobs()).toEqual([]);
    hub.seen.length = 0;
    await get();
    expect(hub.seen).toHaveLength(1);
    expect(await get('hf:org/name', { offline: true })).toBe(folder);
  });

  test('a blob that is there is copied', async () => {
    serve();
    refuse();
    mkdirSync(inCache('blobs'), { recursive: true });
    writeFileSync(inCache('blobs', sha256(weights)), weights);
    const folder = await get();
    expect(lstatSync(join(folder, 'model.safetensors')).isFile()).toBe(true);
    expect(blobs()).toEqual([sha256(weights)]);
    expect(readdirSync(folder).filter((name) => name.endsWith('.tmp'))).toEqual([]);
  });
});

describe('a disk', () => {
  afterEach(() => jest.restoreAllMocks());

  test('without room is an error before the first byte', async () => {
    serve();
    jest.spyOn(fs, 'statfs').mockResolvedValue({ bavail: 299, bsize: 1000 } as never);
    await expectReject(
      get(),
      'ERR_FILE',
      `model.safetensors needs 300000 bytes in ${inCache('blobs')}, where 299000 are free: ` +
        'make room, or set HF_HUB_CACHE to a folder on another disk',
    );
    expect(hub.lines.filter((line) => line.startsWith('store GET'))).toEqual([]);
  });

  test('that may not be written, or has a file in the place of the cache, is an error with the reason', async () => {
    serve();
    writeFileSync(join(home, 'hub'), '');
    await expectReject(get(), 'ERR_FILE', new RegExp(`^\\[test\\] cannot write to ${inCache()}: `));
  });
});

test('the license and the terms come before the first byte, and then the bytes', async () => {
  serve({ gated: 'auto' });
  await get('org/name');
  expect(events[0]).toEqual({
    type: 'repository',
    repository: id,
    source: 'org/name',
    revision: 'main',
    commit,
    license: 'apache-2.0',
    gated: true,
    url: `${hub.hub}/org/name`,
    folder: inCache(),
    loaded: 0,
    total: 0,
  });
  const all = weights.length + config.length + 2;
  expect(events.at(-1)).toMatchObject({ type: 'download', loaded: all, total: all });
});

test('the license of a repository whose card names none is that of its tags', async () => {
  const { license: _, ...plain } = model();
  hub.repositories.set(id, { ...plain, tags: ['safetensors', 'license:gpl-3.0', 'region:eu'] });
  await get();
  expect(events[0]).toMatchObject({ type: 'repository', license: 'gpl-3.0' });
});

test('a license that is no usual one is told by its name', async () => {
  serve({ license: 'other', card: { license_name: 'llama3', license_link: 'LICENSE' } });
  await get();
  expect(events[0]).toMatchObject({ type: 'repository', license: 'llama3' });
  hub.repositories.set('org/other', model({ license: 'x'.repeat(5000) }));
  await get('hf:org/other');
  expect(events[0]).toMatchObject({ type: 'repository', license: 'x'.repeat(100) });
});

test('hash and size are those that the hub says first, not what it leads to', async () => {
  serve();
  hub.fail(/hub HEAD .*model\.safetensors/, (_request, response) => {
    const said = { 'x-linked-etag': `"${sha256(weights)}"`, 'x-linked-size': String(weights.length) };
    response.writeHead(307, { location: `${hub.hub}/elsewhere`, ...said }).end();
  });
  const other = { 'x-linked-etag': `"${sha256(Buffer.from('x'))}"`, 'x-linked-size': '1' };
  hub.fail(/hub HEAD \/elsewhere/, answer(200, other));
  const folder = await get();
  expect(sha256(readFileSync(join(folder, 'model.safetensors')))).toBe(sha256(weights));
});

test('shards come with their index, and nothing else', async () => {
  const index = { weight_map: { a: 'model-1-of-2.safetensors', b: 'model-2-of-2.safetensors' } };
  const files = {
    'config.json': config,
    'model.safetensors.index.json': JSON.stringify(index),
    'model-1-of-2.safetensors': 'one',
    'model-2-of-2.safetensors': 'two',
    'pytorch_model.bin': 'pickle',
    'model-9.safetensors': 'other',
  };
  serve({ files });
  const folder = await get();
  expect(readdirSync(folder).sort()).toEqual([
    'config.json',
    'model-1-of-2.safetensors',
    'model-2-of-2.safetensors',
    'model.safetensors.index.json',
  ]);
  expect(hub.lines.filter((line) => line.includes('pytorch'))).toEqual([]);
  expect(events.filter(({ type }) => type === 'repository')).toHaveLength(1);
});

describe('names of files that would lead elsewhere', () => {
  test('of a listing are not asked for', async () => {
    const files = { ...model().files, '../../evil.json': 'x', '/etc/evil': 'x', 'a/../config.json': 'x' };
    serve({ files });
    await get();
    expect(hub.lines.filter((line) => /evil|%2F|\.\./.test(line))).toEqual([]);
    expect(existsSync(join(home, 'evil.json'))).toBe(false);
  });

  test.each([
    '../../../evil.safetensors',
    '/tmp/evil.safetensors',
    'a/b.safetensors',
    'evil.bin',
    '.hidden.safetensors',
  ])('of an index are refused: %s', async (shard) => {
    serve({
      files: {
        'config.json': config,
        'model.safetensors.index.json': JSON.stringify({ weight_map: { a: shard } }),
        [shard]: 'x',
      },
    });
    await expectReject(
      get(),
      'ERR_HUB',
      '[test] model.safetensors.index.json of org/name names no list of shards',
    );
  });

  test('of a hash or a commit are refused', async () => {
    serve();
    hub.fail(/HEAD .*config/, answer(200, { etag: '"../../../evil"', 'content-length': '5' }));
    await expectReject(
      get(),
      'ERR_HUB',
      /gives no hash and size for config\.json of org\/name: it could not be checked/,
    );
    hub.fail(/api\/models/, answer(200, {}, JSON.stringify({ sha: '../..', siblings: [] })));
    await expectReject(get(), 'ERR_HUB', /does not answer as a hub/);
    expect(existsSync(join(home, 'hub', 'evil'))).toBe(false);
    expect(existsSync(inCache('snapshots'))).toBe(false);
  });

  test('a link in the place of the part of a file is not followed', async () => {
    serve();
    const outside = join(root, 'outside');
    writeFileSync(outside, 'mine');
    mkdirSync(inCache('blobs'), { recursive: true });
    symlinkSync(outside, inCache('blobs', `${sha256(weights)}.incomplete`));
    await get();
    expect(readFileSync(outside, 'utf8')).toBe('mine');
    expect(sha256(readFileSync(inCache('snapshots', commit, 'model.safetensors')))).toBe(sha256(weights));
  });
});

describe('a download that is cut', () => {
  test('goes on where it was cut, with If-Range', async () => {
    serve();
    hub.fail(/store GET/, cutAfter(100_000));
    await get();
    const asked = hub.seen
      .filter(({ at }) => at === 'store')
      .map(({ headers }) => [headers.range, headers['if-range']]);
    expect(asked[0]).toEqual([undefined, undefined]);
    expect(asked[1]![0]).toMatch(/^bytes=\d+-$/);
    expect(asked[1]![1]).toBe('"of-the-store"');
    expect(notices()[0]).toMatch(/^the connection was cut; trying again in 0\.\d s$/);
    expect(sha256(readFileSync(inCache('snapshots', commit, 'model.safetensors')))).toBe(sha256(weights));
  });

  test('goes on from what an earlier process left', async () => {
    serve();
    mkdirSync(inCache('blobs'), { recursive: true });
    writeFileSync(inCache('blobs', `${sha256(weights)}.incomplete`), weights.subarray(0, 123_456));
    const folder = await get();
    const ranges = hub.seen.filter(({ at }) => at === 'store').map(({ headers }) => headers.range);
    expect(ranges).toEqual(['bytes=123456-']);
    expect(sha256(readFileSync(join(folder, 'model.safetensors')))).toBe(sha256(weights));
    expect(blobs().filter((name) => name.includes('incomplete'))).toEqual([]);
  });

  test('starts again where what was left is of another content', async () => {
    serve();
    mkdirSync(inCache('blobs'), { recursive: true });
    writeFileSync(inCache('blobs', `${sha256(weights)}.incomplete`), Buffer.alloc(5000, 1));
    const folder = await get();
    expect(sha256(readFileSync(join(folder, 'model.safetensors')))).toBe(sha256(weights));
    expect(events.at(-1)).toMatchObject({ loaded: weights.length + config.length + 2 });
  });

  test('starts again where the server knows no ranges', async () => {
    serve();
    hub.fail(/store GET/, cutAfter(100_000));
    hub.fail(/store GET/, (request, _response, go) => {
      delete request.headers.range;
      go();
    });
    const folder = await get();
    expect(sha256(readFileSync(join(folder, 'model.safetensors')))).toBe(sha256(weights));
  });

  test('goes on as long as each attempt brings more', async () => {
    jest.spyOn(Math, 'random').mockReturnValue(0);
    serve();
    hub.fail(/store GET/, cutAfter(20_000, 50), 6); // as often as one that brings nothing is made
    const folder = await get();
    jest.restoreAllMocks();
    expect(notices()).toHaveLength(6);
    expect(sha256(readFileSync(join(folder, 'model.safetensors')))).toBe(sha256(weights));
  });

  test('fails when it is cut at the same place each time, and its part stays', async () => {
    jest.spyOn(Math, 'random').mockReturnValue(0);
    serve();
    hub.fail(/store GET/, cutAfter(0), 99);
    await expectReject(get(), 'ERR_HUB', new RegExp(`^\\[test\\] ${hub.hub} gives no org/name: `));
    jest.restoreAllMocks();
    expect(hub.lines.filter((line) => line.startsWith('store'))).toHaveLength(6);
    expect(existsSync(inCache('blobs', `${sha256(weights)}.incomplete`))).toBe(true);
    expect(existsSync(inCache('refs', 'main'))).toBe(false);
  });

  test('is given up when nothing comes any more, and made again', async () => {
    serve();
    process.env['HF_HUB_DOWNLOAD_TIMEOUT'] = '0.5';
    hub.fail(/store GET/, (_request, response) => {
      response.writeHead(200, { 'content-length': weights.length });
      response.write(weights.subarray(0, 10));
    });
    await get();
    expect(notices()[0]).toMatch(/^nothing came for 0\.5 s; trying again in \d\.\d s$/);
  });
});

describe('content that is not what it should be', () => {
  const other = Buffer.from(weights);
  other[5]! ^= 1;
  test('by its hash is an error, and nothing of it stays', async () => {
    serve();
    hub.fail(/store GET/, (_request, response) => void response.writeHead(200).end(other));
    await expectReject(
      get(),
      'ERR_HUB',
      `[test] model.safetensors of org/name is not what it should be: its hash is ${sha256(other)}, ` +
        `and the hub says ${sha256(weights)}: nothing of it was kept`,
    );
    const part = inCache('blobs', `${sha256(weights)}.incomplete`);
    expect(existsSync(inCache('blobs', sha256(weights)))).toBe(false);
    expect(lstatSync(part).size).toBe(0);
    await get(); // and the next one is right
  });

  test('of a small file is found by the hash of git', async () => {
    serve();
    hub.fail(
      /hub GET .*resolve-cache.*config/,
      (_request, response) => void response.end(config.replace('llama', 'lamma')),
    );
    await expectReject(
      get(),
      'ERR_HUB',
      /^\[test\] config\.json of org\/name is not what it should be: its hash/,
    );
  });

  test('stops the other downloads, also where Node.js loses the abort of one', async () => {
    for (let i = 0; i < 12; i++) {
      serve();
      hub.fail(/hub GET .*resolve-cache.*config/, (_request, response) => void response.end('{}'));
      process.env['HF_HOME'] = join(home, String(i));
      await expectReject(get(), 'ERR_HUB', /config\.json of org\/name is not what it should be/);
    }
  });

  test.each([
    ['shorter', weights.subarray(1), /the server has 299999 bytes of it, and the hub says 300000/],
    [
      'longer',
      Buffer.concat([weights, weights]),
      /the server has 600000 bytes of it, and the hub says 300000/,
    ],
  ])('by its size (%s) is an error', async (_what, body, message) => {
    serve();
    hub.fail(/store GET/, (_request, response) => {
      response.writeHead(200, { 'content-length': body.length }).end(body);
    });
    await expectReject(get(), 'ERR_HUB', message);
  });

  test('longer than it says, without a length', async () => {
    serve();
    hub.fail(
      /store GET/,
      (_request, response) => void response.writeHead(200).end(Buffer.concat([weights, weights])),
    );
    await expectReject(get(), 'ERR_HUB', /the server has more than the 300000 bytes that the hub says/);
  });
});

describe('a server that is busy', () => {
  test.each([408, 429, 500, 502, 503, 504])(
    '(%i) is asked again, after as long as it says',
    async (status) => {
      serve();
      hub.fail(/api\/models/, answer(status, { 'retry-after': '0' }), 2);
      hub.fail(/store GET/, answer(status, { 'retry-after': '0' }));
      await get();
      expect(notices()).toHaveLength(3);
      expect(notices()[0]).toMatch(
        status === 429
          ? /^the hub gets too many requests \(429\); trying again in 0\.0 s$/
          : /^the server has a problem \(\d+\); trying again/,
      );
    },
  );

  test.each([
    ['seconds', () => '301'],
    ['a date', () => new Date(Date.now() + 310_000).toUTCString()],
  ])('for longer than five minutes, in %s, is an error at once', async (_, wait) => {
    serve();
    hub.fail(/api\/models/, answer(429, { 'retry-after': wait() }), 9);
    await expectReject(get(), 'ERR_HUB', /gives no org\/name: the hub gets too many requests \(429\)/);
    expect(hub.seen).toHaveLength(1);
  });
});

describe('what the hub refuses', () => {
  test.each<[string, string, () => void, SourceOptions, string]>([
    [
      'a name that is not there',
      'hf:org/none',
      () => undefined,
      {},
      'the hub has no model org/none, or it is private: check the name, or give a token: `hf auth login`, HF_TOKEN, or { token }',
    ],
    [
      'a path that was meant',
      'org/none',
      () => undefined,
      {},
      'there is no folder org/none, and the hub has no model org/none, or it is private: check the name, or give a token: `hf auth login`, HF_TOKEN, or { token }',
    ],
    [
      'a name, with a token',
      'hf:org/none',
      () => undefined,
      { token: 'secret' },
      'the hub has no model org/none, or it is private: check the name; the token from the option token may not read it',
    ],
    ['a revision', 'hf:org/name@v9', () => serve(), {}, 'org/name has no revision v9'],
    [
      'a gated model',
      'hf:org/name',
      () => serve({ gated: 'manual', token: 'right' }),
      {},
      'org/name is gated: accept its terms on HUB/org/name, then give a token: `hf auth login`, HF_TOKEN, or { token }',
    ],
    [
      'a gated model to a token',
      'hf:org/name',
      () => serve({ gated: 'manual', token: 'right' }),
      { token: 'secret' },
      'org/name is gated: accept its terms on HUB/org/name, then try again; the token from the option token may not read it yet',
    ],
    [
      'a model without weights',
      'hf:org/name',
      () => serve({ files: { 'config.json': config } }),
      {},
      'org/name has neither model.safetensors nor model.safetensors.index.json',
    ],
    [
      'a pickle',
      'hf:org/name',
      () => serve({ files: { 'config.json': config, 'pytorch_model.bin': 'x' } }),
      {},
      'org/name has neither model.safetensors nor model.safetensors.index.json (but pytorch_model.bin, which is not read)',
    ],
    [
      'an adapter',
      'hf:org/name',
      () => serve({ files: { 'adapter_config.json': '{}' } }),
      {},
      'org/name is an adapter: load its base model, and then the adapter',
    ],
  ])('%s', async (_what, source, prepare, options, sentence) => {
    prepare();
    const error = await expectReject(
      get(source, options),
      'ERR_HUB',
      `[test] ${sentence.replace('HUB', hub.hub)}`,
    );
    expect(error.message).not.toContain('secret');
    expect(hub.lines.filter((line) => line.includes('pytorch'))).toEqual([]);
  });

  test('an adapter that is a pickle, and a model in its place', async () => {
    serve({ files: { 'adapter_config.json': '{}', 'adapter_model.bin': 'x' } });
    await expectReject(
      get('hf:org/name', {}, 'adapter'),
      'ERR_HUB',
      /only in adapter_model\.bin, a Python pickle/,
    );
    serve();
    await expectReject(
      get('hf:org/name', {}, 'adapter'),
      'ERR_HUB',
      '[test] org/name is a model, and not an adapter',
    );
  });
});

describe('the token', () => {
  test.each<[string, () => void, SourceOptions]>([
    ['the option', () => undefined, { token: 'right' }],
    ['HF_TOKEN', () => void (process.env['HF_TOKEN'] = ' right\n'), {}],
    ['HF_HOME/token', () => writeFileSync(join(home, 'token'), 'right\n'), {}],
    [
      'HF_TOKEN_PATH',
      () => {
        process.env['HF_TOKEN_PATH'] = join(home, 'elsewhere');
        writeFileSync(join(home, 'elsewhere'), 'right');
      },
      {},
    ],
  ])('of %s opens a gated model, and goes to the hub alone', async (_from, prepare, options) => {
    serve({ gated: 'auto', token: 'right' });
    prepare();
    await get('hf:org/name', options);
    for (const { at, headers } of hub.seen)
      expect([at, headers.authorization]).toEqual([at, at === 'hub' ? 'Bearer right' : undefined]);
    expect(hub.seen.some(({ at }) => at === 'store')).toBe(true);
  });

  test('does not come back when another host redirects to the hub', async () => {
    serve({ token: 'right' });
    hub.fail(/store GET/, (_request, response) => {
      response.writeHead(302, { location: `${hub.hub}/trap` }).end();
    });
    hub.fail(/hub GET \/trap/, (_request, response) => void response.end(weights));
    await get('hf:org/name', { token: 'right' });
    expect(hub.seen.find(({ url }) => url === '/trap')!.headers.authorization).toBeUndefined();
  });

  test('that is none is refused without being shown', async () => {
    process.env['HF_TOKEN'] = 'a b';
    const error = await expectReject(get(), 'ERR_ARGUMENT', /expected HF_TOKEN to be a token of the hub/);
    expect(error.message).not.toContain('a b');
    expect(hub.seen).toEqual([]);
  });
});

describe('redirects', () => {
  test('of a repository that was renamed are followed', async () => {
    serve();
    hub.rename('old/name', id);
    const folder = await get('hf:old/name');
    expect(folder).toBe(join(home, 'hub', 'models--old--name', 'snapshots', commit));
    expect(readFileSync(join(folder, 'config.json'), 'utf8')).toBe(config);
  });

  test('that name no host are those of the answer, not of the first address', async () => {
    serve();
    hub.fail(/hub GET \/\S*config\.json/, answer(302, { location: `${hub.store}/first` }));
    hub.fail(/store GET \/first/, answer(302, { location: 'second' }));
    hub.fail(/store GET \/second/, (_request, response) => void response.end(config));
    const folder = await get('hf:org/name');
    expect(readFileSync(join(folder, 'config.json'), 'utf8')).toBe(config);
  });

  test.each([
    ['in a circle', '/loop', /redirects more than 10 times/],
    ['to nowhere', '', /redirects to nowhere/],
    ['to what is no address', 'http://[', /redirects to no address/],
    ['to what is no address of the web', 'file:///etc/passwd', /redirects to null/],
  ])('%s are an error', async (_what, location, message) => {
    serve();
    hub.fail(/hub GET \/(api|loop)/, answer(302, location === '' ? {} : { location }), 99);
    await expectReject(get(), 'ERR_HUB', message);
  });

  test('from https to http are an error, and nothing is asked for in the clear', async () => {
    process.env['HF_ENDPOINT'] = 'https://hub.invalid';
    const asked: string[] = [];
    const fetching = jest.spyOn(globalThis, 'fetch').mockImplementation((url) => {
      asked.push(new URL(url).origin);
      return Promise.resolve(
        new Response(null, { status: 302, headers: { location: 'http://store.invalid/' } }),
      );
    });
    await expectReject(get(), 'ERR_HUB', /https:\/\/hub\.invalid redirects to http:\/\/store\.invalid/);
    fetching.mockRestore();
    expect(asked).toEqual(['https://hub.invalid']);
  });
});

describe('without the hub', () => {
  test.each<[string, () => void, SourceOptions]>([
    ['HF_HUB_OFFLINE', () => void (process.env['HF_HUB_OFFLINE'] = '1'), {}],
    ['{ offline }', () => undefined, { offline: true }],
  ])('%s takes what the cache has, and asks nothing', async (_what, prepare, options) => {
    serve();
    const folder = await get();
    hub.seen.length = 0;
    prepare();
    expect(await get('org/name', options)).toBe(folder);
    expect(await get(`hf:org/name@${commit}`, options)).toBe(folder);
    await expectReject(
      get('hf:org/name@v2', options),
      'ERR_HUB',
      /the cache has no org\/name at v2, and nothing is asked of the hub/,
    );
    await expectReject(get('hf:org/other', options), 'ERR_HUB', /\(lora-native download org\/other\), into /);
    expect(hub.seen).toEqual([]);
  });

  test('a snapshot that lacks a file is no model', async () => {
    serve();
    mkdirSync(inCache('refs'), { recursive: true });
    mkdirSync(inCache('snapshots', commit), { recursive: true });
    writeFileSync(inCache('snapshots', commit, 'config.json'), config);
    writeFileSync(inCache('refs', 'main'), commit);
    await expectReject(
      get('org/name', { offline: true }),
      'ERR_HUB',
      /what the cache has of org\/name at main has neither/,
    );
  });

  test('a hub that is out of reach is no matter where the cache has the files', async () => {
    serve();
    const folder = await get();
    const nobody = await HubServer.start();
    await nobody.stop(); // nothing listens there any more
    process.env['HF_ENDPOINT'] = nobody.hub;
    expect(await get()).toBe(folder);
    expect(notices()).toEqual(['nothing answers there; the cache has the files']);
    await expectReject(
      get('hf:org/other'),
      'ERR_HUB',
      `[test] ${nobody.hub} gives no org/other: nothing answers there`,
    );
  });
});

test('an abort in the middle rejects with its reason, keeps the part, and the next call goes on', async () => {
  serve();
  hub.fail(/store GET/, (_request, response) => {
    response.writeHead(200, { 'content-length': weights.length });
    response.write(weights.subarray(0, 50_000));
  });
  const stop = new AbortController();
  const reason = new Error('enough');
  const part = inCache('blobs', `${sha256(weights)}.incomplete`);
  const running = get('hf:org/name', { signal: stop.signal });
  while (!existsSync(part) || lstatSync(part).size < 50_000)
    await new Promise((resolve) => setTimeout(resolve, 5));
  stop.abort(reason);
  await expect(running).rejects.toBe(reason);
  expect(lstatSync(part).size).toBe(50_000);
  hub.seen.length = 0;
  await get();
  expect(hub.seen.filter(({ at }) => at === 'store').map(({ headers }) => headers.range)).toEqual([
    'bytes=50000-',
  ]);
});

test('two calls at once download each file once', async () => {
  serve();
  const all = await Promise.all([get(), get(), get()]);
  expect(new Set(all).size).toBe(1);
  expect(hub.lines.filter((line) => line.startsWith('store GET'))).toHaveLength(1);
});
