/** Event files as TensorBoard's own formats have them: vectors of the RFC, a record of a known file, and messages read by a reader of this test. */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TrainerEvent } from '../../lib/train/events';
import { checkLogs, type LogName } from '../../lib/train/logs/names';
import { logged, plainSettings } from '../../lib/train/logs/run_log';
import {
  crc32c,
  hparamsEndEvent,
  hparamsEvent,
  scalarsEvent,
  textEvent,
  tfRecord,
  versionEvent,
} from '../../lib/train/logs/tensorboard';
import { commandLine } from '../support/command_line';
import { openFilesIn } from '../support/open_files';
import { temporaryFolder } from '../support/temporary';

const root = temporaryFolder();

test.each<[string, Uint8Array, number]>([
  // RFC 3720, appendix B.4.
  ['32 zeros', new Uint8Array(32), 0x8a9136aa],
  ['32 ones', new Uint8Array(32).fill(0xff), 0x62a8ab43],
  ['0 to 31', Uint8Array.from({ length: 32 }, (_, i) => i), 0x46dd794e],
  ['31 to 0', Uint8Array.from({ length: 32 }, (_, i) => 31 - i), 0x113fdb5c],
  ['the digits', Buffer.from('123456789'), 0xe3069283],
  ['nothing', new Uint8Array(0), 0],
])('CRC-32C of %s', (_, bytes, crc) => {
  expect(crc32c(bytes)).toBe(crc);
});

test('a file begins as those of TensorFlow do', () => {
  const record = versionEvent(1.5);
  // Length 24 and its masked CRC, as every file of TensorFlow has them.
  expect(record.toString('hex', 0, 12)).toBe('1800000000000000a37f4b22');
  expect(record.toString('hex', 12, 36)).toBe(
    `09000000000000f83f1a0d${Buffer.from('brain.Event:2').toString('hex')}`,
  );
  expect(record).toHaveLength(12 + 24 + 4);
});

test('scalars, byte for byte', () => {
  const record = scalarsEvent({ seconds: 2, step: 300 }, { 'train/loss': 0.5 });
  const tag = `0a0a${Buffer.from('train/loss').toString('hex')}`;
  const value = `${tag}150000003f`;
  expect(record.toString('hex', 12, record.length - 4)).toBe(`090000000000000040${'10ac02'}2a130a11${value}`);
});

/** CRC-32C bit by bit, which shares nothing with the one that is tested. */
function slowMasked(bytes: Uint8Array): number {
  let crc = 0xffffffffn;
  for (const byte of bytes) {
    crc ^= BigInt(byte);
    for (let i = 0; i < 8; i++) crc = crc & 1n ? (crc >> 1n) ^ 0x82f63b78n : crc >> 1n;
  }
  crc ^= 0xffffffffn;
  return Number((((crc >> 15n) | (crc << 17n)) + 0xa282ead8n) & 0xffffffffn);
}

function* records(file: Buffer): Generator<Buffer> {
  for (let at = 0; at < file.length;) {
    const length = Number(file.readBigUInt64LE(at));
    expect(file.readUInt32LE(at + 8)).toBe(slowMasked(file.subarray(at, at + 8)));
    const data = file.subarray(at + 12, at + 12 + length);
    expect(file.readUInt32LE(at + 12 + length)).toBe(slowMasked(data));
    yield data;
    at += 16 + length;
  }
}

type Field = number | Buffer;
/** The fields of a message by their numbers: varints and floating-point numbers as numbers, what has a length as bytes. */
function fields(message: Buffer): Record<number, Field[]> {
  const found: Record<number, Field[]> = {};
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = message[at++]!;
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < message.length) {
    const key = varint();
    let value: Field;
    if (key % 8 === 0) value = varint();
    else if (key % 8 === 1) [value, at] = [message.readDoubleLE(at), at + 8];
    else if (key % 8 === 5) [value, at] = [message.readFloatLE(at), at + 4];
    else {
      const length = varint();
      [value, at] = [message.subarray(at, at + length), at + length];
    }
    (found[key >> 3] ??= []).push(value);
  }
  return found;
}
const inner = (message: Record<number, Field[]>, ...path: readonly number[]): Record<number, Field[]> =>
  path.reduce((at, field) => fields(at[field]![0] as Buffer), message);
const textAt = (message: Record<number, Field[]>, field: number): string => String(message[field]![0]);
const valuesOf = (event: Record<number, Field[]>): Record<number, Field[]>[] =>
  event[5] === undefined ? [] : fields(event[5][0] as Buffer)[1]!.map((value) => fields(value as Buffer));

test('texts and hyperparameters have the fields of their plugins', () => {
  const at = { seconds: 7, step: 0 };
  const [said, begun, ended] = [
    textEvent(at, 'run', '# é'),
    hparamsEvent(at, { lr: 2e-4, schedule: 'cosine', packing: false }),
    hparamsEndEvent({ seconds: 9, step: 4 }, 'failure'),
  ].map((record) => fields([...records(record)][0]!));
  const [words] = valuesOf(said!);
  expect(textAt(words!, 1)).toBe('run');
  expect(textAt(inner(words!, 9, 1), 1)).toBe('text');
  expect(inner(words!, 9)[4]).toEqual([2]);
  expect(inner(words!, 8)[1]).toEqual([7]);
  expect(inner(words!, 8, 2, 2)[1]).toEqual([1]);
  expect(textAt(inner(words!, 8), 8)).toBe('# é');
  const [start] = valuesOf(begun!);
  expect(textAt(start!, 1)).toBe('_hparams_/session_start_info');
  expect(textAt(inner(start!, 9, 1), 1)).toBe('hparams');
  expect(inner(start!, 8)[1]).toEqual([1]); // a number
  const info = inner(start!, 9, 1, 2, 3);
  expect(info[5]).toEqual([7]);
  const values = info[1]!.map((entry) => fields(entry as Buffer));
  expect(values.map((entry) => textAt(entry, 1))).toEqual(['lr', 'schedule', 'packing']);
  expect(values.map((entry) => inner(entry, 2))).toEqual([
    { 2: [2e-4] },
    { 3: [Buffer.from('cosine')] },
    { 4: [0] },
  ]);
  const [end] = valuesOf(ended!);
  expect(ended![2]).toEqual([4]);
  expect(textAt(end!, 1)).toBe('_hparams_/session_end_info');
  expect(inner(end!, 9, 1, 2, 4)).toEqual({ 1: [2], 2: [9] });
});

test('a record of a long message', () => {
  const data = Buffer.alloc(300, 1);
  expect([...records(tfRecord(data))]).toEqual([data]);
});

describe('the events of a run', () => {
  const step = { type: 'step', step: 4, loss: 1.5, lr: 1, gradNorm: 2, tokensPerSecond: 3, epoch: 0.5 };
  const facts = [['Labels', 'a|b']] as const;
  const settings = { train: true, packing: false, lr: 2 };

  async function* run(after: () => void): AsyncGenerator<TrainerEvent, string, void> {
    try {
      yield { type: 'start', step: 0 } as TrainerEvent;
      yield step as TrainerEvent;
      yield { type: 'eval', step: 4, loss: 1, perplexity: undefined } as unknown as TrainerEvent;
      return 'whole';
    } finally {
      after();
    }
  }
  const eventsOf = (dir: string): Record<number, Field[]>[] => {
    const [file] = readdirSync(join(dir, 'tensorboard'));
    return [...records(readFileSync(join(dir, 'tensorboard', file!)))].map(fields);
  };
  const statusOf = (dir: string): Field[] => inner(valuesOf(eventsOf(dir).at(-1)!)[0]!, 9, 1, 2, 4)[1]!;

  test('end where nobody waits for more, and so do all of its logs', async () => {
    const dir = join(root, 'left');
    mkdirSync(dir);
    let ended = 0;
    const names = ['jsonl', 'tensorboard'] as const;
    for await (const { type } of logged(
      names,
      dir,
      () => ({ settings, facts }),
      run(() => ended++),
    ))
      if (type === 'step') break;
    expect(ended).toBe(1);
    expect(statusOf(dir)).toEqual([2]); // failure: it is not whole
    expect(eventsOf(dir).at(-1)![2]).toEqual([4]);
    expect(openFilesIn(dir)).toEqual([]);
  });

  test('are followed to their result, and only numbers are scalars', async () => {
    const dir = join(root, 'followed');
    mkdirSync(dir);
    const all = logged(
      ['tensorboard', 'jsonl'],
      dir,
      () => ({ settings, facts }),
      run(() => undefined),
    );
    let next = await all.next();
    while (!next.done) next = await all.next();
    expect(next.value).toBe('whole');
    expect(statusOf(dir)).toEqual([1]);
    expect(openFilesIn(dir)).toEqual([]);
    const values = eventsOf(dir).flatMap(valuesOf);
    expect(values.flatMap((value) => (value[2] ? [textAt(value, 1)] : []))).toEqual([
      ...['loss', 'lr', 'grad_norm', 'tokens_per_second', 'epoch'].map((name) => `train/${name}`),
      'eval/loss',
    ]);
    const said = values.find((value) => textAt(value, 1) === 'run')!;
    expect(textAt(inner(said, 8), 8)).toContain('| Labels | a\\|b |\n'); // two columns
  });

  test('that fail before they begin, or whose log does, tell why', async () => {
    const failing = (async function* (): AsyncGenerator<TrainerEvent, string, void> {
      yield* [];
      await Promise.reject(new Error('no rows'));
      return '';
    })();
    const logs = ['jsonl', 'tensorboard'] as const;
    const of = (
      events: AsyncGenerator<TrainerEvent, string, void>,
      dir: string,
      names: readonly LogName[] = logs,
    ) => logged(names, dir, () => ({ settings, facts }), events);
    await expect(of(failing, join(root, 'not there')).next()).rejects.toThrow('no rows');
    let ended = 0;
    const dir = join(root, 'blocked');
    mkdirSync(join(dir, 'log.jsonl'), { recursive: true });
    await expect(
      of(
        run(() => ended++),
        dir,
      ).next(),
    ).rejects.toThrow(/cannot write .*log\.jsonl/);
    expect(ended).toBe(1);
    expect(openFilesIn(dir)).toEqual([]);
    // A log that could not begin cannot end either, which says less.
    const file = join(root, 'file');
    mkdirSync(file);
    writeFileSync(join(file, 'tensorboard'), '');
    const error = await of(
      run(() => undefined),
      file,
      ['tensorboard'],
    )
      .next()
      .catch((reason: unknown) => reason);
    expect(String(error)).toMatch(/tensorboard/);
    expect(String(error)).not.toContain('events.out');
  });

  test('come once, whatever is named twice', () => {
    expect(checkLogs('Trainer', ['jsonl', 'jsonl', 'tensorboard'])).toEqual(['jsonl', 'tensorboard']);
  });

  test('have settings that are a text, a number or a truth', () => {
    const given = { ...settings, rows: [1], none: null, missing: undefined, name: 'x' };
    expect(plainSettings(given)).toEqual({ ...settings, name: 'x' });
  });
});

const examples = join(__dirname, '../../examples');
const run = (dir: string, ...more: string[]): Promise<{ status: number; err: string; out: string }> =>
  commandLine([
    ...['train', '--model', join(examples, 'base-model'), '--data', join(examples, 'data/train.jsonl')],
    ...['--max-rows', '12', '--batch-size', '2', '--max-length', '32', '--r', '2', '--out-dir', dir, ...more],
  ]);

test('a run writes both logs, and one that goes on adds to them', async () => {
  const dir = join(root, 'run');
  const first = await run(
    dir,
    '--max-steps',
    '3',
    '--save-every',
    '2',
    '--log',
    'tensorboard,jsonl',
    '--eval-data',
    join(examples, 'data/heldout.jsonl'),
    '--eval-every',
    '3',
  );
  expect(first).toMatchObject({ status: 0 });
  const lines = readFileSync(join(dir, 'log.jsonl'), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  expect(lines.map(({ type }) => type)).toEqual([
    'settings',
    'start',
    'step',
    'step',
    'checkpoint',
    'step',
    'eval',
    'end',
  ]);
  expect(lines[0]).toMatchObject({
    step: 0,
    settings: { batchSize: 2, optimizer: 'adamw', lr: 2e-4, seed: 0 },
  });
  const [file] = readdirSync(join(dir, 'tensorboard'));
  expect(file).toMatch(/^events\.out\.tfevents\.\d{10}\./);
  const events = [...records(readFileSync(join(dir, 'tensorboard', file!)))].map(fields);
  expect(textAt(events[0]!, 3)).toBe('brain.Event:2');
  const scalars = events.flatMap((event) =>
    valuesOf(event).flatMap((value) =>
      value[2] ? [[(event[2] ?? [0])[0], textAt(value, 1), value[2][0]] as const] : [],
    ),
  );
  for (const step of lines.filter(({ type }) => type === 'step'))
    expect(scalars).toContainEqual([step['step'], 'train/loss', Math.fround(step['loss'] as number)]);
  const evaluation = lines.find(({ type }) => type === 'eval')!;
  expect(scalars).toContainEqual([3, 'eval/perplexity', Math.fround(evaluation['perplexity'] as number)]);
  expect(scalars.map(([, tag]) => tag).filter((tag, i, all) => all.indexOf(tag) === i)).toEqual([
    ...['train/loss', 'train/lr', 'train/grad_norm', 'train/tokens_per_second', 'train/epoch'],
    ...['eval/loss', 'eval/perplexity'],
  ]);
  const plugins = events.flatMap(valuesOf).flatMap((value) => (value[9] ? [textAt(value, 1)] : []));
  expect(plugins).toEqual(['_hparams_/session_start_info', 'run', '_hparams_/session_end_info']);
  expect(inner(valuesOf(events.at(-1)!)[0]!, 9, 1, 2, 4)[1]).toEqual([1]); // success
  expect(
    String(
      inner(
        events.flatMap(valuesOf).find((value) => textAt(value, 1) === 'run')!,
        8,
      )[8]![0],
    ),
  ).toContain('| Learning rate | 0.0002, cosine |');

  expect(await run(dir, '--max-steps', '4', '--resume')).toMatchObject({ status: 0 });
  expect(readdirSync(join(dir, 'tensorboard'))).toHaveLength(2);
  expect(readFileSync(join(dir, 'log.jsonl'), 'utf8').trimEnd().split('\n').length).toBeGreaterThan(
    lines.length,
  );
}, 120_000);

test('a run that fails says so, and what is no log is refused', async () => {
  const dir = join(root, 'aborted');
  const controller = new AbortController();
  const { status } = await commandLine(
    [
      ...['train', '--model', join(examples, 'base-model'), '--data', join(examples, 'data/train.jsonl')],
      ...[
        '--max-rows',
        '12',
        '--max-length',
        '32',
        '--out-dir',
        dir,
        '--max-steps',
        '500',
        '--log',
        'tensorboard',
        '--json',
      ],
    ],
    { signal: controller.signal, onOutput: (text) => text.includes('"step":2') && controller.abort() },
  );
  expect(status).not.toBe(0);
  const [file] = readdirSync(join(dir, 'tensorboard'));
  const last = [...records(readFileSync(join(dir, 'tensorboard', file!)))].map(fields).at(-1)!;
  expect(inner(valuesOf(last)[0]!, 9, 1, 2, 4)[1]).toEqual([2]);
  const wrong = await run(join(root, 'wrong'), '--log', 'wandb');
  expect(wrong.err).toContain(
    "[Trainer] expected log to be a list of tensorboard, jsonl but received ['wandb']",
  );
}, 120_000);
