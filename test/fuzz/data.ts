/** Data sets in files: lines of JSON, and the same in gzip, which must give what the lines give. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import { LoRAError } from '../../lib/errors';
import { loadDataset, type Dataset } from '../../lib/data/dataset';
import { jsonText, mutateBytes, mutateJson } from './mutate';
import type { Dice } from './random';
import { bytes, type Json } from './seeds';
import { same, type Target } from './target';

const rows: readonly Json[] = [
  { text: 'a line' },
  { inputIds: [1, 2, 3], labels: [-100, 2, 3] },
  { prompt: 'a', completion: 'b' },
];

const goodRow = '{"text": "a line"}';
const goodRows = (dice: Dice): string[] => Array.from({ length: 1 + dice.count(40) }, () => goodRow);
const damagedRows = (dice: Dice): string[] =>
  Array.from({ length: 1 + dice.count(8) }, () =>
    jsonText(mutateJson(structuredClone(dice.pick(rows)), dice), dice),
  );

const load = (path: string, bounds = {}): Promise<Dataset> =>
  loadDataset(path, {
    tokenizer: { encode: (line) => [...Buffer.from(line)], eosTokenId: 0 },
    maxLength: 16,
    ...bounds,
  });

export const jsonl: Target = {
  make(dice) {
    const whole = bytes(damagedRows(dice).join(dice.pick(['\n', '\r\n', '\n\n'])));
    const zipped = dice.once(4) ? gzipSync(whole) : whole;
    return dice.once(4) ? mutateBytes(zipped, dice) : zipped;
  },
  run(input, dir) {
    const path = join(dir, 'data.jsonl');
    writeFileSync(path, input);
    return load(path);
  },
};

/** Low ones, so that small inputs reach them. */
const bounds = { maxLineBytes: 2 ** 14, maxUnzippedBytes: 2 ** 16 };
const rowBounds = { ...bounds, maxRows: 2000 };

/** A list of objects in a JSON file, or objects one after the other. */
export const jsonFile: Target = {
  make(dice) {
    const damaged = dice.flag();
    const made = damaged ? damagedRows(dice) : goodRows(dice);
    const spaces = dice.pick(['', ' ', '\n', '\r\n\t']);
    const listed = dice.flag() ? `[${made.join(`${spaces},`)}${spaces}]` : made.join(spaces);
    const whole = bytes(dice.once(8) ? `\ufeff${listed}` : listed);
    const zipped = dice.once(4) ? gzipSync(whole) : whole;
    return damaged && dice.once(3) ? mutateBytes(zipped, dice) : zipped;
  },
  run(input, dir) {
    const path = join(dir, 'data.json');
    writeFileSync(path, input);
    return load(path, rowBounds);
  },
};

const field = (dice: Dice): string => dice.pick(['a', 'é', '', 'a "b"', 'a,b', 'a\nb', '\t', '"']);
const quoted = (text: string, dice: Dice): string =>
  /[",\n\t]/.test(text) || dice.once(4) ? `"${text.replaceAll('"', '""')}"` : text;

/** A table, whose quotes decide where records end. */
export const csv: Target = {
  make(dice) {
    const end = dice.pick(['\n', '\r\n']);
    const record = (fields: readonly string[]): string => fields.map((one) => quoted(one, dice)).join(',');
    const records = Array.from({ length: dice.count(20) }, () => record([field(dice), field(dice), 'c']));
    const whole = bytes(
      [record(['prompt', 'completion', 'c']), ...records, record(['a', 'b', 'c'])].join(end),
    );
    const zipped = dice.once(4) ? gzipSync(whole) : whole;
    return dice.once(3) ? mutateBytes(zipped, dice) : zipped;
  },
  run(input, dir) {
    const path = join(dir, 'data.csv');
    writeFileSync(path, input);
    return load(path, rowBounds);
  },
};

/** One gzip file: with names, comments and other fields that few writers add. */
function member(content: Uint8Array, dice: Dice): Uint8Array {
  const zipped = gzipSync(content, { level: dice.pick([0, 1, 9]) });
  const fields = { extra: dice.once(8), name: dice.once(8), comment: dice.once(8) };
  const extra = [3, 0, ...bytes('abc')];
  const added = [
    ...(fields.extra ? extra : []),
    ...bytes((fields.name ? 'n\0' : '') + (fields.comment ? 'c\0' : '')),
  ];
  zipped[3]! |= (fields.extra ? 4 : 0) | (fields.name ? 8 : 0) | (fields.comment ? 16 : 0);
  return Buffer.concat([zipped.subarray(0, 10), Buffer.from(added), zipped.subarray(10)]);
}

/** What a file gives, or the error that says why it gives nothing. All of it is read: `maxRows` would end before what is damaged. */
async function outcome(path: string): Promise<string | LoRAError> {
  try {
    return JSON.stringify([...(await load(path, bounds))]);
  } catch (error) {
    if (error instanceof LoRAError) return error;
    throw error;
  }
}

/** The content of gzip files one after the other, also behind zeros that pad them; undefined where they are damaged or hold too much. */
function unzipped(input: Uint8Array): { content: Uint8Array; parts: number } | undefined {
  const parts: Uint8Array[] = [];
  try {
    for (let at = 0; at < input.length;) {
      const given = gunzipSync(input.subarray(at), { info: true, maxOutputLength: bounds.maxUnzippedBytes });
      const { buffer, engine } = given as unknown as { buffer: Uint8Array; engine: { bytesWritten: number } };
      parts.push(buffer);
      at += engine.bytesWritten;
      while (input[at] === 0) at++;
    }
  } catch {
    return undefined;
  }
  const content = Buffer.concat(parts);
  return content.length > bounds.maxUnzippedBytes ? undefined : { content, parts: parts.length };
}

const told = (found: string | LoRAError, path: string): string =>
  typeof found === 'string' ? found : `${found.code} ${found.message.replaceAll(path, 'the file')}`;

export const gzip: Target = {
  make(dice) {
    const lines = dice.flag() ? goodRows(dice) : damagedRows(dice);
    const bulk = dice.pick(['\n', ' ', `${goodRow}\n`]);
    const bulkBytes = dice.once(40) ? 2 ** (10 + dice.below(9)) : 0;
    const whole = bytes(`${lines.join('\n')}\n${bulk.repeat(bulkBytes / bulk.length)}`);
    const members: Uint8Array[] = [];
    for (let at = 0; at < whole.length;) {
      const end = dice.flag() ? whole.length : at + dice.below(whole.length - at + 1);
      members.push(member(whole.subarray(at, end), dice));
      if (dice.once(6)) members.push(new Uint8Array(dice.count(600)));
      at = end;
    }
    const file = Buffer.concat(members);
    return dice.once(3) ? mutateBytes(file, dice) : file;
  },
  async run(input, dir) {
    const [zipped, plain] = [join(dir, 'data.jsonl.gz'), join(dir, 'data.jsonl')];
    writeFileSync(zipped, input);
    const found = await outcome(zipped);
    const whole = unzipped(input);
    if (whole === undefined) same(typeof found, 'object');
    // Content that is gzip itself stays what it is, and that of a file is not.
    else if (!(whole.content[0] === 0x1f && whole.content[1] === 0x8b)) {
      writeFileSync(plain, whole.content);
      if (whole.parts === 1 || typeof found === 'string')
        same(told(found, zipped), told(await outcome(plain), plain));
    }
    if (typeof found !== 'string') throw found;
  },
};
