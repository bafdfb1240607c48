/** What the hub, its storage and the cache answer seldom: weak etags, other ranges, shards that are missing, revisions that move. */
import { mkdirSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import fs from 'node:fs/promises';
import { join } from 'node:path';
import { listCache } from '../../lib/hub/cache';
import type { LoadProgress } from '../../lib/hub/progress';
import { sourceFolder, type SourceOptions } from '../../lib/hub/source';
import type { Purpose } from '../../lib/hub/wanted';
import { expectReject } from '../support/errors';
import { hubHome } from '../support/hub_home';
import { answer, HubServer, sha256, type FakeRepository } from '../support/hub_server';

const at = hubHome();
const commit = 'c0ffee'.padEnd(40, '0');
const weights = Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * 7919) % 251));
const files = { 'config.json': '{}', 'model.safetensors': weights };

let hub: HubServer;
let home: string;
beforeEach(() => {
  ({ hub, home } = at);
  jest.spyOn(Math, 'random').mockReturnValue(0); // the shortest waits
});
afterEach(() => jest.restoreAllMocks());

const serve = (more: Partial<FakeRepository> = {}): void =>
  void hub.repositories.set('org/name', { files, ...more });
let events: LoadProgress[] = [];
function get(
  source = 'hf:org/name',
  options: SourceOptions = {},
  purpose: Purpose = 'model',
): Promise<string> {
  events = [];
  return sourceFolder(source, 'test', purpose, { onProgress: (event) => events.push(event), ...options });
}
const inCache = (...names: string[]): string => join(home, 'hub', 'models--org--name', ...names);
const notices = (): string[] => events.flatMap((event) => (event.type === 'notice' ? [event.message] : []));
const stored = () => hub.seen.filter((one) => one.at === 'store');
const saved = (): string => sha256(readFileSync(inCache('snapshots', commit, 'model.safetensors')));
/** What an earlier process left of the weights. */
function leave(bytes: Uint8Array): void {
  mkdirSync(inCache('blobs'), { recursive: true });
  writeFileSync(inCache('blobs', `${sha256(weights)}.incomplete`), bytes);
}

describe('storage', () => {
  test('that is out of reach once is asked again, since the hub has answered', async () => {
    serve();
    const nobody = await HubServer.start();
    await nobody.stop(); // nothing listens there any more
    hub.fail(/hub GET .*model\.safetensors/, answer(302, { location: `${nobody.store}/x` }));
    await get();
    expect(notices()).toEqual([expect.stringMatching(/^nothing answers there; trying again in /)]);
    expect(saved()).toBe(sha256(weights));
  });

  test('whose etag is weak is asked for the rest without If-Range', async () => {
    serve();
    hub.fail(/store GET/, (request, response) => {
      response.writeHead(200, { etag: 'W/"weak"', 'content-length': weights.length });
      response.write(weights.subarray(0, 100_000), () => request.socket.destroy());
    });
    await get();
    expect(stored().map(({ headers }) => headers['if-range'])).toEqual([undefined, undefined]);
    expect(stored()[1]!.headers.range).toMatch(/^bytes=\d+-$/);
    expect(saved()).toBe(sha256(weights));
  });

  test('that goes on with the range of a file of another size begins again', async () => {
    serve();
    leave(weights.subarray(0, 100_000));
    hub.fail(/store GET/, (_request, response) => {
      const rest = weights.subarray(100_000);
      response.writeHead(206, {
        'content-range': `bytes 100000-299999/999999`,
        'content-length': rest.length,
      });
      response.end(rest);
    });
    await get();
    expect(notices()).toEqual([
      expect.stringMatching(/^the server does not go on where the file was cut; trying again/),
    ]);
    expect(stored().map(({ headers }) => headers.range)).toEqual(['bytes=100000-', undefined]);
  });

  test('with another file, behind a part of an earlier download: it is asked twice, and then an error', async () => {
    serve();
    leave(weights.subarray(0, 100_000));
    const other = Buffer.alloc(weights.length, 1);
    hub.fail(/store GET/, (_request, response) => void response.writeHead(200).end(other), 3);
    await expectReject(get(), 'ERR_HUB', new RegExp(`its hash is ${sha256(other)}, and the hub says`));
    expect(stored()).toHaveLength(2);
  });
});

test('where there are no links, two calls at once download each file once', async () => {
  serve();
  const error = Object.assign(new Error('EPERM'), { code: 'EPERM', syscall: 'symlink' });
  jest.spyOn(fs, 'symlink').mockRejectedValue(error);
  await Promise.all([get(), get()]);
  expect(stored()).toHaveLength(1);
});

describe('shards', () => {
  const [one, two] = ['model-1-of-2.safetensors', 'model-2-of-2.safetensors'] as const;
  const sharded = {
    'config.json': '{}',
    'model.safetensors.index.json': JSON.stringify({ weight_map: { a: one, b: two } }),
    [one]: 'one',
  };

  test('of which the cache lacks one are no model without the hub', async () => {
    serve({ files: { ...sharded, [two]: 'two' } });
    const folder = await get();
    expect(await get('hf:org/name', { offline: true })).toBe(folder);
    rmSync(join(folder, two));
    await expectReject(
      get('hf:org/name', { offline: true }),
      'ERR_HUB',
      /^\[test\] the cache lacks model-2-of-2\.safetensors of org\/name at main, and nothing is asked/,
    );
  });

  test('that the repository does not list are an error before any is asked for', async () => {
    serve({ files: sharded });
    await expectReject(
      get(),
      'ERR_HUB',
      '[test] org/name has no model-2-of-2.safetensors, which its model.safetensors.index.json names',
    );
    expect(stored()).toEqual([]);
  });
});

test('a repository that is an adapter and a model comes with the files of both', async () => {
  serve({ files: { ...files, 'adapter_config.json': '{}', 'adapter_model.safetensors': 'x', 'a.md': 'x' } });
  expect(readdirSync(await get('hf:org/name', {}, 'any')).sort()).toEqual([
    'adapter_config.json',
    'adapter_model.safetensors',
    'config.json',
    'model.safetensors',
  ]);
});

test('a revision that moves on the hub moves in the cache', async () => {
  const next = 'beef'.padEnd(40, '0');
  serve();
  await get();
  serve({ refs: { main: next } });
  expect(await get()).toBe(inCache('snapshots', next));
  expect(readFileSync(inCache('refs', 'main'), 'utf8')).toBe(next);
  expect(await get('hf:org/name', { offline: true })).toBe(inCache('snapshots', next));
});

test('the cache is listed with the whole names of its revisions, and with the time of its newest file', async () => {
  serve({ refs: { main: commit, 'refs/pr/3': commit } });
  await get();
  await get('hf:org/name@refs/pr/3');
  const blobs = readdirSync(inCache('blobs')).map((name) => inCache('blobs', name));
  const newest = new Date('2040-01-02T03:04:05Z');
  for (const name of blobs) {
    for (const other of blobs) utimesSync(other, 0, 0);
    utimesSync(name, newest, newest);
    const [entry] = await listCache(join(home, 'hub'));
    expect(entry!.revisions).toEqual([{ commit, refs: expect.any(Array) as string[], files: 2 }]);
    expect(entry!.revisions[0]!.refs.sort()).toEqual(['main', 'refs/pr/3']);
    expect(entry!.modified).toEqual(newest);
  }
});

describe('settings', () => {
  test('{ offline: false } asks the hub, whatever the environment says', async () => {
    process.env['HF_HUB_OFFLINE'] = '1';
    serve();
    await expectReject(get(), 'ERR_HUB', /nothing is asked of the hub/);
    expect(await get('hf:org/name', { offline: false })).toBe(inCache('snapshots', commit));
  });

  test('HF_HUB_ETAG_TIMEOUT is the time for an answer', async () => {
    process.env['HF_HUB_ETAG_TIMEOUT'] = '0.2';
    serve();
    hub.fail(/api\/models/, () => undefined);
    await get();
    expect(notices()).toEqual([expect.stringMatching(/^nothing came for 0\.2 s; trying again/)]);
  });

  test.each(['0', '-1', '86401', 'soon'])('a time-out of %s is refused', async (value) => {
    for (const name of ['HF_HUB_ETAG_TIMEOUT', 'HF_HUB_DOWNLOAD_TIMEOUT']) {
      process.env[name] = value;
      await expectReject(get(), 'ERR_ARGUMENT', `[test] expected ${name} to be a number of seconds above 0`);
      delete process.env[name];
    }
  });
});

test('what a server says at length is not kept whole', async () => {
  serve({ license: 'x'.repeat(1000) });
  await get();
  expect(events[0]).toMatchObject({ type: 'repository', license: 'x'.repeat(100) });
  hub.fail(/api\/models/, answer(200, {}, ' '.repeat(17 * 2 ** 20)));
  await expectReject(get(), 'ERR_HUB', '[test] an answer has more than 16777216 bytes');
});
