/** Adapters that come and go while a server runs, and what it counts. */
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join } from 'node:path';
import { CausalLM, LoRAError } from '../../lib/index';
import * as adapterFiles from '../../lib/peft/adapter_files';
import { AdapterFolder } from '../../lib/serve/adapter_folder';
import { answeringAdapter, answeringModel } from '../support/answering_model';
import { begun, servers, until, type Served } from '../support/serving';
import { temporaryFolder } from '../support/temporary';

jest.mock('../../lib/peft/adapter_files', () => {
  const actual = jest.requireActual<typeof adapterFiles>('../../lib/peft/adapter_files');
  return { ...actual, readAdapter: jest.fn(actual.readAdapter) };
});
const reading = jest.mocked(adapterFiles.readAdapter);
const readNow = reading.getMockImplementation()!;

const serve = servers();
const folder = temporaryFolder();
const chat = '/v1/chat/completions';
const hi = { messages: [{ role: 'user', content: 'Hi' }] };

let model: CausalLM;
let endless: CausalLM;
/** What is allowed, and what lies beside it. */
const allowed = join(folder, 'allowed');
const outside = join(folder, 'allowed-not');
const texts = ['Abc.', 'Bca.', 'Cab.'];
beforeAll(async () => {
  const dir = await answeringModel('Yes, fr');
  mkdirSync(allowed);
  for (const [i, text] of texts.entries()) await answeringAdapter(dir, text, join(allowed, `a${i}`));
  cpSync(join(allowed, 'a0'), outside, { recursive: true });
  model = await CausalLM.fromPretrained(dir);
  endless = await CausalLM.fromPretrained(
    await answeringModel('Ab', { endless: true, config: { max_position_embeddings: 100_000 } }),
  );
});
afterAll(async () => {
  for (const one of [model, endless]) {
    await one.dispose();
    rmSync(one.directory, { recursive: true });
  }
});
afterEach(async () => {
  await until(() => model.engineStats().running + endless.engineStats().running === 0);
  for (const one of [model, endless]) for (const name of one.adapters.keys()) await one.removeAdapter(name);
});

const says = async ({ post }: Served, name: string): Promise<unknown> => {
  const { status, body } = await post(chat, { model: name, ...hi });
  return status === 200 ? body.choices[0].message.content : [status, body.error.code];
};
const names = async ({ url }: Served): Promise<string[]> =>
  ((await (await fetch(`${url}/v1/models`)).json()) as { data: { id: string }[] }).data.map(({ id }) => id);
const load = async ({ post }: Served, name: string, path: string): Promise<unknown[]> => {
  const { status, body } = await post('/v1/load_lora_adapter', { lora_name: name, lora_path: path });
  return [status, body.error ? body.error.code : body.status];
};
const unload = async ({ post }: Served, name: string): Promise<number> =>
  (await post('/v1/unload_lora_adapter', { lora_name: name })).status;
const folders = (count: number): Record<string, string> =>
  Object.fromEntries(Array.from({ length: count }, (_, i) => [`n${i}`, join(allowed, `a${i % 3}`)]));

test('a thousand adapters cost nothing until they are asked for, and as many as fit stay in memory', async () => {
  const served = await serve(model, { adapters: folders(1000), maxAdapters: 2 });
  expect(await names(served)).toHaveLength(1001);
  expect(model.adapters.size).toBe(0);
  const residents = (): string[] => [...model.adapters.keys()].map((name) => name.split('#')[0]!).sort();
  expect(await says(served, 'n0')).toBe('Abc.');
  expect(await says(served, 'n1')).toBe('Bca.');
  expect(await says(served, 'n0')).toBe('Abc.'); // now n1 was used longest ago
  expect(await says(served, 'n2')).toBe('Cab.');
  expect(residents()).toEqual(['n0', 'n2']);
  expect(await Promise.all(['n3', 'n4', 'n5', 'n3', 'n0'].map((name) => says(served, name)))).toEqual([
    'Abc.',
    'Bca.',
    'Cab.',
    'Abc.',
    'Abc.',
  ]);
  expect(model.adapters.size).toBe(2);
});

test('an adapter in use stays; a request for another one waits until one may leave', async () => {
  const served = await serve(endless, { adapters: folders(2), maxAdapters: 1 });
  // The adapters end their texts; a bias keeps this one from it.
  const long = { ...hi, model: 'n0', stream: true, max_tokens: 90_000, ignore_eos: true };
  const stream = await begun(served, chat, long);
  const [pinned] = endless.adapters.keys();
  const waiting = says(served, 'n1');
  expect(await says(served, 'n0')).toBe('Abc.'); // who needs what is there goes on
  expect([...endless.adapters.keys()]).toEqual([pinned]);
  stream.destroy();
  expect(await waiting).toBe('Bca.');
  expect([...endless.adapters.keys()]).toEqual([expect.stringMatching(/^n1#/)]);
});

describe('a stream that nobody reads, on the one adapter that there may be, and requests for another one', () => {
  const endlessly = { ...hi, stream: true, max_tokens: 90_000, ignore_eos: true };
  /** A stream for which the connection has no more room from the first event on, until it goes on. */
  const paused = async (
    served: Served,
    model?: string,
  ): Promise<{ stream: IncomingMessage; goOn: () => void }> => {
    let goOn!: () => void;
    served.server.prependOnceListener('request', (_, response: ServerResponse) => {
      const write = response.write.bind(response) as (piece: unknown) => boolean;
      response.write = (piece: unknown) => {
        write(piece);
        return false;
      };
      goOn = () => {
        response.write = write;
        response.emit('drain');
      };
    });
    const stream = await begun(served, chat, { ...endlessly, model }, { agent: false });
    await until(async () => (await state(served)).running === 0);
    return { stream: stream.resume(), goOn };
  };
  const unread = async (served: Served, model?: string): Promise<IncomingMessage> =>
    (await paused(served, model)).stream;
  const base = { ...hi, max_tokens: 1 };
  const state = async ({ url }: Served): Promise<{ running: number; waiting: number }> =>
    (await (await fetch(`${url}/health`)).json()) as { running: number; waiting: number };

  test('who waits for an adapter has no place, leaves at once, and keeps no server from closing', async () => {
    const served = await serve(endless, { adapters: folders(3), maxAdapters: 1 });
    const stream = await unread(served, 'n0');
    const leaving = Array.from({ length: 16 }, () => new AbortController());
    for (const [i, { signal }] of leaving.entries())
      begun(served, chat, { ...hi, model: `n${1 + (i % 2)}` }, { signal, agent: false }).catch(
        () => undefined,
      );
    await until(async () => (await state(served)).waiting === 16);
    expect((await served.post(chat, base)).status).toBe(200);
    expect((await state(served)).running).toBe(0);
    for (const one of leaving) one.abort();
    await until(async () => (await state(served)).waiting === 0);
    expect((await served.post(chat, base)).status).toBe(200);
    stream.destroy();
    await served.handler.close();
    expect([...endless.adapters.keys()]).toEqual([expect.stringMatching(/^n0#/)]);
  });

  test('it stays while another request reads from that adapter again, and ends when that has left', async () => {
    const served = await serve(endless, { adapters: folders(2), maxAdapters: 1, stallTimeoutMs: 6000 });
    const stream = await unread(served, 'n0');
    const { stream: read, goOn } = await paused(served, 'n0');
    goOn();
    await until(async () => (await state(served)).running === 1);
    let ended = false;
    stream.on('close', () => (ended = true));
    const waiting = says(served, 'n1');
    await new Promise((resolve) => setTimeout(resolve, 1500));
    expect(ended).toBe(false);
    read.destroy();
    expect(await waiting).toBe('Bca.');
    await until(() => ended);
  });

  test('it ends sooner than one that holds up nobody, and they are answered', async () => {
    const served = await serve(endless, { adapters: folders(3), maxAdapters: 1, stallTimeoutMs: 6000 });
    const ofBase = await unread(served);
    const stream = await unread(served, 'n0');
    const ended: string[] = [];
    ofBase.on('close', () => ended.push('base'));
    stream.on('close', () => ended.push('n0'));
    expect(await says(served, 'n1')).toBe('Bca.');
    await until(() => ended.length > 0);
    expect(ended).toEqual(['n0']);
    expect(await says(served, 'n2')).toBe('Cab.');
    ofBase.destroy();
  });
});

test('requests load adapters of the folder that is allowed, by a path or by the name alone, and unload them', async () => {
  const served = await serve(model, {
    allowLoadFrom: allowed,
    modelName: 'base',
    adapters: { fixed: outside },
  });
  expect(await load(served, 'mine', 'a1')).toEqual([200, 'ok']);
  expect(await load(served, 'whole', join(allowed, 'a2'))).toEqual([200, 'ok']);
  expect(await says(served, 'mine')).toBe('Bca.');
  expect(await says(served, 'whole')).toBe('Cab.');
  expect(await names(served)).toEqual(['base', 'fixed', 'mine', 'whole']);
  expect(await says(served, 'a0')).toBe('Abc.'); // found by its name
  expect(await names(served)).toEqual(['base', 'a0', 'fixed', 'mine', 'whole']);
  expect(await load(served, 'mine', 'a0')).toEqual([400, null]); // the name is taken
  expect(await unload(served, 'mine')).toBe(200);
  expect(await says(served, 'mine')).toEqual([404, 'model_not_found']);
  expect(await load(served, 'mine', 'a0')).toEqual([200, 'ok']);
  expect(await says(served, 'mine')).toBe('Abc.');
  expect([await unload(served, 'none'), await unload(served, 'fixed'), await unload(served, 'base')]).toEqual(
    [404, 400, 400],
  );
});

test('what was unloaded stays so until it is loaded by hand, wherever its name leads', async () => {
  const served = await serve(model, { allowLoadFrom: allowed });
  const gone = [404, 'model_not_found'];
  expect(await says(served, 'a0')).toBe('Abc.');
  expect(await unload(served, 'a0')).toBe(200);
  expect([await says(served, 'a0'), await says(served, 'a0')]).toEqual([gone, gone]);
  expect(await says(served, 'a1')).toBe('Bca.'); // others are found as before
  // A load that fails is none.
  expect(await load(served, 'a0', 'nowhere')).toEqual([404, 'not_found']);
  expect(await says(served, 'a0')).toEqual(gone);
  expect(await load(served, 'a0', 'a2')).toEqual([200, 'ok']);
  expect(await says(served, 'a0')).toBe('Cab.');
  expect(await unload(served, 'a0')).toBe(200);
  expect(await says(served, 'a0')).toEqual(gone);
  expect(await load(served, 'a0', 'a0')).toEqual([200, 'ok']);
  expect(await says(served, 'a0')).toBe('Abc.');
});

test('one that is unloaded while a request uses it leaves when that has ended', async () => {
  const served = await serve(endless, { allowLoadFrom: allowed });
  const long = { ...hi, model: 'a0', stream: true, max_tokens: 90_000, ignore_eos: true };
  const stream = await begun(served, chat, long);
  expect(await unload(served, 'a0')).toBe(200);
  expect(endless.adapters.size).toBe(1);
  expect(await load(served, 'a0', 'a1')).toEqual([200, 'ok']); // another one by that name, beside it
  expect(await says(served, 'a0')).toBe('Bca.');
  stream.destroy();
  await until(() => endless.adapters.size === 1);
  expect(await says(served, 'a0')).toBe('Bca.');
});

test('a load that fails takes no adapter with it that another client has loaded by that name', async () => {
  const served = await serve(model, { allowLoadFrom: allowed });
  let fail!: (error: Error) => void;
  reading.mockImplementationOnce(() => new Promise((_, reject) => (fail = reject)));
  const failing = load(served, 'x', 'a0');
  await until(() => fail !== undefined);
  expect(await unload(served, 'x')).toBe(200);
  expect(await load(served, 'x', 'a1')).toEqual([200, 'ok']);
  fail(new LoRAError('ERR_FILE', 'no such file'));
  expect(await failing).toEqual([400, 'invalid_adapter']);
  expect(await says(served, 'x')).toBe('Bca.');
});

test('without a folder requests load nothing', async () => {
  const served = await serve(model);
  expect(await load(served, 'a0', join(allowed, 'a0'))).toEqual([403, 'not_enabled']);
  expect(await unload(served, 'a0')).toBe(403);
  expect(await says(served, 'a0')).toEqual([404, 'model_not_found']);
});

describe('nothing outside of the folder is loaded', () => {
  beforeAll(() => {
    symlinkSync(outside, join(allowed, 'link'));
    symlinkSync(join(allowed, 'a1'), join(allowed, 'inner'));
    cpSync(join(allowed, 'a0'), join(allowed, 'linked-file'), { recursive: true });
    rmSync(join(allowed, 'linked-file/adapter_model.safetensors'));
    symlinkSync(
      join(outside, 'adapter_model.safetensors'),
      join(allowed, 'linked-file/adapter_model.safetensors'),
    );
    cpSync(join(allowed, 'a0'), join(allowed, 'fifo'), { recursive: true });
    rmSync(join(allowed, 'fifo/adapter_config.json'));
    execFileSync('mkfifo', [join(allowed, 'fifo/adapter_config.json')]);
    writeFileSync(join(allowed, 'file'), '{}');
    mkdirSync(join(allowed, 'empty'));
  });

  test.each<[what: string, path: string, status: number, code: string | null]>([
    ['a step up', '../allowed-not', 403, 'path_not_allowed'],
    ['steps up behind a folder', 'a0/../../allowed-not', 403, 'path_not_allowed'],
    ['a folder whose name begins as the allowed one', outside, 403, 'path_not_allowed'],
    ['a folder of the system', '/etc', 403, 'path_not_allowed'],
    ['what is nowhere, said as what is outside', '/no/such/folder', 403, 'path_not_allowed'],
    ['the folder itself', '.', 403, 'path_not_allowed'],
    ['a link out of it', 'link', 403, 'path_not_allowed'],
    ['a step up from a link', 'link/../allowed-not', 404, 'not_found'],
    ['nothing', 'none', 404, 'not_found'],
    ['a NUL', 'a0\0', 400, null],
    ['no path', '', 400, null],
    ['a file', 'file', 400, null],
    ['a folder without an adapter', 'empty', 400, 'invalid_adapter'],
    ['a file that is a link out of it', 'linked-file', 400, 'invalid_adapter'],
    ['a FIFO', 'fifo', 400, 'invalid_adapter'],
  ])('%s', async (_, path, status, code) => {
    const served = await serve(model, { allowLoadFrom: allowed });
    expect(await load(served, 'x', path)).toEqual([status, code]);
    expect(await names(served)).not.toContain('x'); // what failed is not known afterwards
    expect(model.adapters.size).toBe(0);
  });

  test('a link within it is followed; names are one step', async () => {
    const served = await serve(model, { allowLoadFrom: allowed });
    expect(await says(served, 'inner')).toBe('Bca.');
    for (const name of ['link', '..', '.', 'a0/../a1', '../allowed-not', 'empty', 'fifo'])
      expect(await says(served, name)).toEqual([404, 'model_not_found']);
  });

  test('a folder that becomes a link between the look and the read is noticed', async () => {
    cpSync(join(allowed, 'a2'), join(allowed, 'race'), { recursive: true });
    const place = await new AdapterFolder(allowed).locate('race');
    await place.checkUnchanged();
    renameSync(join(allowed, 'race'), join(allowed, 'race-old'));
    symlinkSync(outside, join(allowed, 'race'));
    await expect(place.checkUnchanged()).rejects.toMatchObject({ status: 403 });
    await expect(new AdapterFolder(allowed).locate('race')).rejects.toMatchObject({ status: 403 });
    rmSync(join(allowed, 'race'));
    cpSync(join(allowed, 'a2'), join(allowed, 'race'), { recursive: true }); // another folder of that name
    await expect(place.checkUnchanged()).rejects.toMatchObject({ status: 403 });
  });

  test('what was read from a folder that has become a link meanwhile is thrown away', async () => {
    const swapped = join(allowed, 'swapped');
    cpSync(join(allowed, 'a2'), swapped, { recursive: true });
    const served = await serve(model, { allowLoadFrom: allowed });
    reading.mockImplementationOnce(async (...from) => {
      renameSync(swapped, `${swapped}-old`);
      symlinkSync(outside, swapped);
      return readNow(...from);
    });
    expect(await load(served, 'x', 'swapped')).toEqual([403, 'path_not_allowed']);
    expect(await names(served)).not.toContain('x');
    expect(model.adapters.size).toBe(0);
  });
});

test('what a server counts, in the text format of Prometheus', async () => {
  const served = await serve(model, { adapters: folders(1), maxQueued: 0 });
  const { post, url } = served;
  await says(served, 'n0');
  await says(served, 'n0');
  await post(chat, { ...hi, n: 0 });
  await fetch(`${url}/wp-admin/${'x'.repeat(50)}`);
  await fetch(`${url}/v1/models/none`);
  const response = await fetch(`${url}/metrics`);
  expect(response.headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8');
  const text = await response.text();
  for (const line of text.trimEnd().split('\n'))
    expect(line).toMatch(/^(# (HELP|TYPE) \w+ .+|\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? [\d.e+-]+)$/);
  const value = (name: string): number =>
    Number(new RegExp(`^lora_native_${name.replaceAll(/[{}/+.]/g, '\\$&')} (\\S+)$`, 'm').exec(text)?.[1]);
  expect(value('requests_total{path="/v1/chat/completions",status="200"}')).toBe(2);
  expect(value('requests_total{path="/v1/chat/completions",status="400"}')).toBe(1);
  expect(value('requests_total{path="other",status="404"}')).toBe(1);
  expect(value('requests_total{path="/v1/models/",status="404"}')).toBe(1);
  expect(value('completion_tokens_total')).toBe(10);
  expect(value('prompt_tokens_total')).toBe(8);
  expect(value('request_duration_seconds_count')).toBe(5);
  expect(value('request_duration_seconds_bucket{le="+Inf"}')).toBe(5);
  expect(value('time_to_first_token_seconds_count')).toBe(2);
  expect(value('time_to_first_token_seconds_sum')).toBeGreaterThan(0);
  expect(value('time_to_first_token_seconds_sum')).toBeLessThan(value('request_duration_seconds_sum'));
  expect(value('adapter_loads_total')).toBe(1);
  expect(value('adapters_resident')).toBe(1);
  expect(value('queue_waiting')).toBe(0);
  expect(value('engine_tokens_total')).toBeGreaterThanOrEqual(10);
  expect(value('kv_cache_bytes')).toBeGreaterThanOrEqual(0);
  expect(text).not.toContain('wp-admin'); // a client makes no series of its own
});

test('a thousand requests of one client do not hold back another one', async () => {
  // From two addresses of this machine, which are two clients.
  const served = await serve(endless, { maxRunning: 1, maxQueued: 1001 });
  const ended: string[] = [];
  const ask = async (name: string, localAddress: string): Promise<void> => {
    const response = await begun(served, chat, { ...hi, max_tokens: 20 }, { localAddress, agent: false });
    for await (const _ of response);
    if (response.complete) ended.push(name);
  };
  const waiting = async (): Promise<number> =>
    ((await (await fetch(`${served.url}/health`)).json()) as { waiting: number }).waiting;
  // Has the one place until everybody waits, so that the order is the server's and not that of connections.
  const local = { localAddress: '127.0.0.1' };
  const first = await begun(served, chat, { ...hi, stream: true, max_tokens: 90_000 }, local);
  first.resume();
  for (let i = 0; i < 1000; i++) ask(`many${i}`, '127.0.0.1').catch(() => undefined); // most are left unanswered
  await until(async () => (await waiting()) === 1000);
  const one = ask('one', '127.0.0.2');
  await until(async () => (await waiting()) === 1001);
  first.destroy();
  await one;
  expect(ended.indexOf('one')).toBeLessThan(4); // the second, but for how answers of several connections arrive
  served.server.closeAllConnections();
});

test('the name of the base means the weights as they are: with the adapter that the program has merged', async () => {
  const served = await serve(model, { modelName: 'base', adapters: folders(1) });
  await model.loadAdapter(join(allowed, 'a1'), { name: 'own' }); // the first one, and so active
  expect(await says(served, 'base')).toBe('Yes, fr');
  await model.merge('own');
  try {
    expect(await says(served, 'base')).toBe('Bca.');
    expect(await says(served, 'own')).toEqual([503, 'busy']);
    expect(await says(served, 'n0')).toEqual([503, 'busy']);
  } finally {
    await model.unmerge();
  }
  expect([await says(served, 'base'), await says(served, 'n0')]).toEqual(['Yes, fr', 'Abc.']);
});
