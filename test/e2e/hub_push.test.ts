/** Adapters and models into a repository of the hub: held to what the hub's own client sends, and what goes wrong on the way. */
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CausalLM, readAdapter, type PushOptions, type PushProgress, type PushResult } from '../../lib';
import { signed } from '../../lib/formats/card';
import { Connection } from '../../lib/hub/connection';
import { pushFiles } from '../../lib/hub/push';
import { pushTarget } from '../../lib/hub/push_options';
import { PushedFile } from '../../lib/hub/pushed_file';
import { folderToPush } from '../../lib/hub/pushed_folder';
import { hubSettings } from '../../lib/hub/settings';
import { uploadLarge, type Upload } from '../../lib/hub/upload';
import { commandLine } from '../support/command_line';
import { expectReject } from '../support/errors';
import { fillAdapter } from '../support/fill_adapter';
import { hubHome } from '../support/hub_home';
import { answer, HubServer, sha256 } from '../support/hub_server';
import type { Sent } from '../support/hub_uploads';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

const root = temporaryFolder();
const at = hubHome();
const weights = Buffer.from(Array.from({ length: 250_000 }, (_, i) => (i * 7919) % 251));
const main = '1'.repeat(40);

let hub: HubServer;
let count = 0;
beforeEach(() => {
  ({ hub } = at);
  process.env['HF_TOKEN'] = 'hf_write';
  jest.spyOn(Math, 'random').mockReturnValue(0); // the shortest waits
});
afterEach(() => jest.restoreAllMocks());

/** A folder with these files. */
function folder(files: Record<string, string | Uint8Array>): string {
  const dir = join(root, `run-${count++}`);
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(join(dir, name, '..'), { recursive: true });
    writeFileSync(join(dir, name), content);
  }
  return dir;
}
const adapterFiles = (
  more: Record<string, string | Uint8Array> = {},
): Record<string, string | Uint8Array> => ({
  'adapter_config.json': '{"r":8}',
  'adapter_model.safetensors': weights,
  ...more,
});

let events: PushProgress[] = [];
async function push(dir: string, options: PushOptions = {}, name = 'org/name'): Promise<PushResult> {
  events = [];
  const told = { onProgress: (event: PushProgress) => void events.push(event), ...options };
  const target = pushTarget('push', name, told);
  return pushFiles('push', target, await folderToPush('push', dir), told);
}
const notices = (): string[] => events.flatMap((event) => (event.type === 'notice' ? [event.message] : []));
const lines = (): string[] =>
  hub.uploads.sent.map(({ at: where, method, url }) => `${where} ${method} ${url}`);
const puts = (): string[] => lines().filter((line) => line.includes('PUT'));
const stored = (name: string): string =>
  sha256(Buffer.from(hub.repositories.get('org/name')!.files[name] as Uint8Array));

/** A request as the transcript has it. */
function factsOf({ at: where, method, url, headers, body }: Sent): object {
  const type = headers['content-type'];
  const content: unknown =
    type === undefined
      ? { bytes: body.length, sha256: createHash('sha256').update(body).digest('hex') }
      : type.includes('ndjson')
        ? body
            .toString()
            .split('\n')
            .map((line) => JSON.parse(line) as unknown)
        : (JSON.parse(body.toString()) as unknown);
  return {
    at: where,
    method,
    path: url,
    headers: {
      authorization: headers.authorization ?? null,
      accept: headers.accept,
      'content-type': type ?? null,
      'content-length': headers['content-length'],
    },
    body: content,
  };
}

test('what is sent is what @huggingface/hub sends, request by request', async () => {
  const { requests } = JSON.parse(
    readFileSync(join(__dirname, '../support/hub_client_transcript.json'), 'utf8'),
  ) as { requests: { path: string }[] };
  const options = { private: true, revision: 'feature/2', message: 'A title\n\nAnd more.' };
  const target = pushTarget('push', 'org/name', options);
  const text = (name: string, content: string) => ({ name, content: { text: content } });
  const dir = folder({ 'adapter_model.safetensors': 'weights of an adapter', 'model.safetensors': weights });
  const file = (name: string) => ({ name, content: { from: join(dir, name) } });
  await pushFiles(
    'push',
    target,
    [
      text('README.md', '# A card\n'),
      text('adapter_config.json', '{"r":8}'),
      file('adapter_model.safetensors'),
      file('model.safetensors'),
    ],
    options,
  );
  const inOrder = (list: readonly { path: string }[]): unknown[] => {
    const parts = list
      .filter(({ path }) => path.startsWith('/part/'))
      .sort((a, b) => (a.path < b.path ? -1 : 1));
    return list.map((one) => (one.path.startsWith('/part/') ? parts.shift() : one));
  };
  expect(requests).toHaveLength(10);
  expect(inOrder(hub.uploads.sent.map(factsOf) as { path: string }[])).toEqual(inOrder(requests));
  expect(hub.seen.every(({ headers }) => headers['transfer-encoding'] === undefined)).toBe(true);
});

describe('a folder', () => {
  test('of a run gives its adapter and its card, and nothing else that lies there', async () => {
    const dir = folder(
      adapterFiles({
        'README.md': '# Mine ü',
        'report.html': '<p>',
        'checkpoint-2/checkpoint.safetensors': 'x',
      }),
    );
    const result = await push(dir);
    expect(result).toEqual({
      repository: 'org/name',
      revision: 'main',
      url: `${hub.hub}/org/name`,
      commit: hub.uploads.commits[0]!.id,
      files: ['README.md', 'adapter_config.json', 'adapter_model.safetensors'],
      created: true,
    });
    expect(stored('adapter_model.safetensors')).toBe(sha256(weights));
    expect(stored('README.md')).toBe(sha256(Buffer.from('# Mine ü')));
    expect(Object.keys(hub.repositories.get('org/name')!.files)).not.toContain('report.html');
    expect(hub.uploads.commits[0]!.header).toEqual({
      summary: 'Upload with lora-native',
      parentCommit: main,
    });
  });

  test('of a model gives its shards, and an embedding model its folders', async () => {
    const map = { weight_map: { a: 'model-1.safetensors', b: 'model-2.safetensors' } };
    const sharded = {
      'config.json': '{}',
      'tokenizer.json': '{}',
      'model.safetensors.index.json': JSON.stringify(map),
      'model-1.safetensors': 'one',
    };
    await expectReject(
      push(folder(sharded)),
      'ERR_FILE',
      /has no model-2\.safetensors, which its .*index.* names/,
    );
    const pooled = { 'modules.json': '[]', '1_Pooling/config.json': '{}', 'model-2.safetensors': 'two' };
    const { files } = await push(folder({ ...sharded, ...pooled }));
    expect(files.sort()).toEqual([
      '1_Pooling/config.json',
      'config.json',
      'model-1.safetensors',
      'model-2.safetensors',
      'model.safetensors.index.json',
      'modules.json',
      'tokenizer.json',
    ]);
  });

  test('that holds neither, and a file that is no GGUF file, are refused before anything is sent', async () => {
    await expectReject(push(folder({ 'log.jsonl': '' })), 'ERR_FILE', /run-\d+ has no config\.json/);
    await expectReject(push(join(root, 'nowhere')), 'ERR_FILE', /no such directory/);
    const dir = folder({ 'model.gguf': 'GGUF', 'notes.txt': '' });
    await expectReject(push(join(dir, 'notes.txt')), 'ERR_FILE', /or a GGUF file/);
    expect(lines()).toEqual([]);
    expect((await push(join(dir, 'model.gguf'))).files).toEqual(['model.gguf']);
  });
});

describe('what the hub has', () => {
  test('is not sent again, and where nothing differs there is no commit', async () => {
    const dir = folder(adapterFiles());
    const first = await push(dir);
    hub.uploads.sent.length = 0;
    const again = await push(dir);
    expect(again).toEqual({ ...first, files: [], created: false });
    expect(lines()).toEqual(['hub POST /api/models/org/name/preupload/main']);
    writeFileSync(join(dir, 'adapter_config.json'), '{"r":9}');
    const third = await push(dir, { message: 'Rank 9' });
    expect(third.files).toEqual(['adapter_config.json']);
    expect(puts()).toEqual([]);
    expect(hub.uploads.commits.map(({ names }) => names.length)).toEqual([2, 1]);
  });

  test('of a hub that tells no hashes, large files are still not sent again', async () => {
    hub.uploads.tellsHashes = false;
    const dir = folder(adapterFiles());
    await push(dir);
    hub.uploads.sent.length = 0;
    const { files } = await push(dir);
    expect(files).toEqual(['adapter_config.json', 'adapter_model.safetensors']);
    expect(puts()).toEqual([]);
    expect(events.filter(({ type }) => type === 'upload').at(-1)).toMatchObject({
      loaded: 250_000,
      total: 250_000,
    });
  });

  test('after a push that ended between its files, stays there', async () => {
    const files = {
      'config.json': '{}',
      'model.safetensors': weights,
      'modules.json': '[]',
      '1_Dense/model.safetensors': 'd',
    };
    const dir = folder(files);
    hub.fail(new RegExp(`store PUT /put/${sha256(Buffer.from('d'))}`), answer(400), 1);
    const bigFirst = await folderToPush('push', dir);
    bigFirst.sort((a) => (a.name === 'model.safetensors' ? -1 : 0));
    const target = pushTarget('push', 'org/name', {});
    await expectReject(
      pushFiles('push', target, bigFirst, {}),
      'ERR_HUB',
      /answers 400 where it takes 1_Dense/,
    );
    expect(hub.uploads.commits).toEqual([]);
    hub.uploads.sent.length = 0;
    await push(dir);
    expect(puts()).toHaveLength(1); // the small one
  });

  test('and what it ignores are left out', async () => {
    const modes = [
      { path: 'adapter_config.json', uploadMode: 'regular', shouldIgnore: true },
      { path: 'adapter_model.safetensors', uploadMode: 'lfs', shouldIgnore: false },
    ];
    hub.fail(/preupload/, answer(200, {}, JSON.stringify({ files: modes })));
    expect((await push(folder(adapterFiles()))).files).toEqual(['adapter_model.safetensors']);
  });

  test('with a card that somebody changed, keeps it; a card of a save of ours is brought up to date', async () => {
    const dir = folder(adapterFiles({ 'README.md': signed('# one') }));
    await push(dir);
    writeFileSync(join(dir, 'README.md'), signed('# two'));
    expect((await push(dir)).files).toEqual(['README.md']);
    hub.repositories.get('org/name')!.files['README.md'] = '# by hand';
    writeFileSync(join(dir, 'README.md'), signed('# three'));
    expect((await push(dir)).files).toEqual([]);
    expect(notices()).toEqual(['README.md of org/name was written or changed by somebody: it stays']);
    writeFileSync(join(dir, 'README.md'), '# also by hand');
    expect((await push(dir)).files).toEqual(['README.md']);
  });
});

test('small files of several pieces, and large ones that are empty, lie in the commit', async () => {
  const tokenizer = Buffer.alloc(800_001, 'ab');
  const { files } = await push(
    folder({ 'config.json': '{}', 'tokenizer.json': tokenizer, 'model.safetensors': '' }),
  );
  expect(files).toHaveLength(3);
  expect(stored('tokenizer.json')).toBe(sha256(tokenizer));
  expect(lines().filter((line) => line.includes('objects/batch'))).toEqual([]);
  expect(hub.repositories.get('org/name')!.files['model.safetensors']).toHaveLength(0);
});

describe('a connection', () => {
  test('that is cut in a part sends that part again, and no other', async () => {
    hub.fail(/store PUT \/part\/\w+\/2/, (request) => request.once('data', () => request.socket.destroy()));
    await push(folder(adapterFiles()));
    expect(notices()).toEqual([expect.stringMatching(/^the connection was cut; trying again in/)]);
    const asked = hub.lines.filter((line) => line.includes('PUT')).map((line) => /\/(\d)\?/.exec(line)![1]);
    expect(asked.sort()).toEqual(['1', '2', '2', '3']);
    expect(stored('adapter_model.safetensors')).toBe(sha256(weights));
    const uploads = events.flatMap((event) => (event.type === 'upload' ? [event.loaded] : []));
    expect(Math.max(...uploads)).toBe(250_000);
  });

  test('that is busy waits as long as it is asked to; addresses that expired are asked for again', async () => {
    hub.fail(/hub POST .*preupload/, answer(429, { 'retry-after': '0' }));
    hub.fail(/store PUT \/part\/\w+\/3/, answer(403));
    await push(folder(adapterFiles()));
    expect(notices()).toEqual(['the hub gets too many requests (429); trying again in 0.0 s']);
    expect(lines().filter((line) => line.includes('objects/batch'))).toHaveLength(2);
    const uploads = events.flatMap((event) => (event.type === 'upload' ? [event.loaded] : []));
    expect(Math.max(...uploads)).toBe(250_000); // what is sent twice counts once
    hub.fail(/store PUT/, answer(403), 100);
    await expectReject(
      push(folder(adapterFiles({ 'adapter_model.safetensors': 'other' }))),
      'ERR_HUB',
      /refuses the addresses/,
    );
  });

  test('that loses the answer of the commit makes no second one', async () => {
    hub.fail(/hub POST .*\/commit\//, (request, response, go) => {
      response.end = (() => request.socket.destroy()) as never;
      go();
    });
    const { commit } = await push(folder(adapterFiles()));
    expect(hub.uploads.commits.map(({ id }) => id)).toEqual([commit]);
  });

  test('with another commit meanwhile replaces nothing', async () => {
    hub.fail(/hub POST .*\/commit\//, (_request, _response, go) => {
      hub.repositories.get('org/name')!.refs!['main'] = '2'.repeat(40);
      go();
    });
    await expectReject(
      push(folder(adapterFiles())),
      'ERR_HUB',
      /org\/name has got another commit on main meanwhile: push again/,
    );
  });

  test('is given up on an abort, with its reason, in hashing and in sending', async () => {
    const reason = new Error('enough');
    for (const type of ['hash', 'upload'] as const) {
      const controller = new AbortController();
      const onProgress = (event: PushProgress): void =>
        void (event.type === type && controller.abort(reason));
      await expect(push(folder(adapterFiles()), { signal: controller.signal, onProgress })).rejects.toBe(
        reason,
      );
    }
    await expect(push(folder(adapterFiles()), { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    expect(hub.uploads.commits).toEqual([]);
  });
});

describe('storage', () => {
  test('that checks a file is asked to, with the token only where that is the hub', async () => {
    hub.uploads.verifies = true;
    await push(folder(adapterFiles()));
    const [verify] = hub.uploads.sent.filter(({ url }) => url === '/verify');
    expect(JSON.parse(verify!.body.toString())).toEqual({ oid: sha256(weights), size: 250_000 });
    expect(verify!.headers).toMatchObject({ authorization: 'Bearer hf_write', 'x-of': 'the hub' });
    const elsewhere = hub.seen.filter((one) => one.at === 'store');
    expect(elsewhere.length).toBeGreaterThan(0);
    for (const { headers } of elsewhere) expect(headers.authorization).toBeUndefined();
  });

  const batch = (upload: object) =>
    hub.fail(
      /objects\/batch/,
      answer(
        200,
        {},
        JSON.stringify({ transfer: 'multipart', objects: [{ oid: sha256(weights), actions: { upload } }] }),
      ),
    );

  test('is not sent what the answer makes no sense of', async () => {
    const dir = folder(adapterFiles());
    batch({ href: `${hub.hub}/x`, header: { chunk_size: '100000', '00001': 'x', '00003': 'y' } });
    await expectReject(push(dir), 'ERR_HUB', /gives 2 parts of 100000 bytes for the 250000 of adapter_model/);
    batch({ href: 'file:///etc/passwd' });
    await expectReject(push(dir), 'ERR_HUB', /no usable address for adapter_model/);
    hub.fail(/objects\/batch/, answer(200, {}, JSON.stringify({ transfer: 'xet', objects: [] })));
    await expectReject(push(dir), 'ERR_HUB', /takes large files by xet alone, and not by LFS/);
    const error = {
      objects: [{ oid: sha256(weights), error: { code: 403, message: 'your storage is full' } }],
    };
    hub.fail(/objects\/batch/, answer(200, {}, JSON.stringify(error)));
    await expectReject(
      push(dir),
      'ERR_HUB',
      /does not take adapter_model\.safetensors: your storage is full/,
    );
    expect(puts()).toEqual([]);
  });

  test('of a hub by https is not sent anything by http', async () => {
    const href = `${hub.store}/put/x`;
    const objects = [{ oid: sha256(weights), actions: { upload: { href } } }];
    const asked = jest.fn(() => Promise.resolve(new Response(JSON.stringify({ objects }))));
    jest.spyOn(globalThis, 'fetch').mockImplementation(asked);
    const settings = await hubSettings('test', { token: 'hf_write' });
    const connection = new Connection(
      { ...settings, endpoint: 'https://hub.test' },
      undefined,
      () => undefined,
    );
    const file = await PushedFile.open({ name: 'x', content: { text: 'x' } }, undefined);
    const upload: Upload = {
      connection,
      batchAddress: 'https://hub.test/batch',
      branch: 'main',
      onBytes: () => undefined,
      refuse: (answered) => Promise.resolve(new Error(String(answered.status))),
      wrong: (message) => new Error(message),
    };
    await expect(uploadLarge(upload, [{ file, oid: sha256(weights) }])).rejects.toThrow(
      'no usable address for x',
    );
    expect(asked).toHaveBeenCalledTimes(1);
  });

  test('is not given a file that changes after it was hashed', async () => {
    const dir = folder(adapterFiles());
    hub.fail(/objects\/batch/, (_request, _response, go) => {
      writeFileSync(join(dir, 'adapter_model.safetensors'), Buffer.alloc(250_000, 7));
      go();
    });
    await expectReject(push(dir), 'ERR_FILE', /was changed while it was read/);
    expect(hub.uploads.commits).toEqual([]);
  });
});

describe('who may write', () => {
  test('a token is needed, and is in no message', async () => {
    delete process.env['HF_TOKEN'];
    await expectReject(
      push(folder(adapterFiles())),
      'ERR_HUB',
      /needs a token that may write: `hf auth login`/,
    );
    const dir = folder(adapterFiles());
    const said = JSON.stringify({ error: 'the token hf_secret is bad' });
    hub.fail(/preupload/, answer(403, {}, said));
    hub.uploads.token = 'hf_secret';
    const failure = await push(dir, { token: 'hf_secret' }).then(
      () => new Error('it was pushed'),
      (error: unknown) => error as Error,
    );
    expect(failure.message).toContain(
      'may not write to org/name: it needs the role write, in the organization too: it says "the token … is bad"',
    );
    expect(JSON.stringify([failure, failure.stack, events])).not.toContain('hf_secret');
    hub.uploads.token = 'hf_write';
    process.env['HF_HUB_OFFLINE'] = '1';
    await expectReject(push(dir), 'ERR_HUB', /nothing is sent to the hub since HF_HUB_OFFLINE is set/);
  });

  test('signatures of addresses are in no message', async () => {
    hub.fail(
      /store PUT/,
      (_request, response) => void response.writeHead(307, { location: '?again' }).end(),
      1000,
    );
    hub.uploads.partBytes = 1e6;
    const failure = await push(folder(adapterFiles())).then(
      () => new Error('it was pushed'),
      (error: unknown) => error as Error,
    );
    expect(failure.message).toMatch(/redirects more than 10 times/);
    expect(failure.message).not.toContain('SECRET');
  });

  test('what the hub says of a commit is told', async () => {
    hub.fail(/\/commit\//, answer(400, {}, JSON.stringify({ error: 'Invalid metadata in README.md' })));
    await expectReject(
      push(folder(adapterFiles())),
      'ERR_HUB',
      /answers 400 where it makes the commit: it says "Invalid metadata in README\.md"/,
    );
    hub.fail(/\/commit\//, answer(401, {}, JSON.stringify({ error: 'Invalid credentials' })));
    await expectReject(
      push(folder(adapterFiles({ 'README.md': 'x' }))),
      'ERR_HUB',
      /refuses the token from HF_TOKEN: it says "Invalid credentials"/,
    );
  });

  test('private is asked for, and a public repository then gets nothing', async () => {
    const dir = folder(adapterFiles());
    await push(dir, { private: true });
    expect(hub.repositories.get('org/name')!.private).toBe(true);
    await push(dir, { private: true, revision: 'next' });
    expect(Object.keys(hub.repositories.get('org/name')!.refs!)).toEqual(['main', 'next']);
    await push(dir, { private: false }, 'org/open');
    hub.uploads.sent.length = 0;
    await expectReject(
      push(dir, { private: true }, 'org/open'),
      'ERR_HUB',
      /org\/open is public, and private was asked for: nothing was sent/,
    );
    expect(lines()).toEqual([]);
  });

  test('a repository that somebody creates at the same moment is used', async () => {
    hub.fail(/hub POST \/api\/repos\/create/, (_request, response) => {
      hub.repositories.set('org/name', { files: {}, refs: { main } });
      response.writeHead(409).end('{}');
    });
    expect(await push(folder(adapterFiles()))).toMatchObject({
      created: false,
      files: expect.any(Array) as unknown,
    });
  });

  test.each([
    ['org/name/x', {}, /received|expected/],
    ['nothing', {}, /expected hf:org\/name/],
    ['org/name', { revision: 'c'.repeat(40) }, /expected revision to be a branch but received the commit/],
    ['org/name', { revision: '../x' }, /expected revision to be a branch/],
    ['org/name', { message: ' ' }, /expected message to be text/],
    ['org/name', { private: 'yes' as never }, /private/],
  ])('%s %j is refused', async (name, options, says) => {
    await expectReject(push(folder(adapterFiles()), options, name), 'ERR_ARGUMENT', says);
  });
});

describe('model.push', () => {
  test('pushes the adapter, its sum with the base, and cards; what it saved is gone', async () => {
    const model = await CausalLM.fromPretrained(await tinyModel());
    const adapter = model.addAdapter({ r: 2, targetModules: ['q_proj'] }, { name: 'sql' });
    fillAdapter(adapter);
    const before = readdirSync(tmpdir()).filter((name) => name.startsWith('lora-native-push-'));
    const { files } = await model.push('org/name', { message: 'First' });
    expect(files).toEqual(['README.md', 'adapter_config.json', 'adapter_model.safetensors']);
    const card = Buffer.from(hub.repositories.get('org/name')!.files['README.md'] as Uint8Array).toString();
    expect(card).toMatch(
      /^---\n(base_model: \S+\n)?library_name: peft\npipeline_tag: text-generation\ntags:\n/,
    );
    expect(card).toContain('# LoRA adapter of');
    const dir = folder({});
    mkdirSync(dir, { recursive: true });
    for (const name of files)
      writeFileSync(join(dir, name), hub.repositories.get('org/name')!.files[name] as Uint8Array);
    expect((await readAdapter(dir)).tensors.size).toBe(2 * adapter.targets.length);
    const merged = await model.push('org/merged', { merge: 'sql' });
    expect(merged.files).toEqual(expect.arrayContaining(['README.md', 'config.json', 'model.safetensors']));
    await expectReject(
      model.push('org/name', { merge: 'sql', adapter: 'sql' }),
      'ERR_ARGUMENT',
      /received both/,
    );
    await expectReject(
      model.push('org/name', { adapter: 'none' }),
      'ERR_ARGUMENT',
      /expected adapter to be the name of one/,
    );
    await expectReject(model.push('org/name', { brunch: 'x' } as never), 'ERR_ARGUMENT', /brunch/);
    expect(readdirSync(tmpdir()).filter((name) => name.startsWith('lora-native-push-'))).toEqual(before);
    await model.dispose();
  }, 60_000);
});

describe('lora-native push', () => {
  test('prints the page, and what was pushed as JSON; the token is nowhere', async () => {
    const dir = folder(adapterFiles());
    const {
      status,
      out: stdout,
      err: stderr,
    } = await commandLine(['push', dir, 'org/name', '--private', '--message', 'One']);
    expect([status, stdout]).toEqual([0, `${hub.hub}/org/name\n`]);
    expect(stderr).toMatch(/created .*org\/name, main\n.*2 files in commit [0-9a-f]{12} of main\n$/s);
    expect(hub.repositories.get('org/name')!.private).toBe(true);
    expect(hub.uploads.commits[0]!.header['summary']).toBe('One');
    const again = await commandLine(['push', dir, 'hf:org/name', '--revision', 'next', '--json']);
    expect(JSON.parse(again.out)).toMatchObject({ repository: 'org/name', revision: 'next', files: [] });
    expect(again.err).toContain('nothing differs from commit');
    expect(stderr + again.err).not.toContain('hf_write');
    expect((await commandLine(['push', dir, 'name'])).status).toBe(2);
  });
});
