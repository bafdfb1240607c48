import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { batches, checkRereadable, epochs } from '../../lib/data/batches';
import { loadDataset } from '../../lib/data/dataset';
import { countedTokens, type Example } from '../../lib/data/example';
import { Random } from '../../lib/data/random';

const examples = (n: number): Example[] => Array.from({ length: n }, (_, i) => ({ inputIds: [i, i + 1] }));
async function firsts(source: AsyncIterable<{ inputIds: number[][] }>): Promise<number[][]> {
  const out: number[][] = [];
  for await (const { inputIds } of source) out.push(inputIds.map((row) => row[0] as number));
  return out;
}

describe('batches', () => {
  test('keeps order and gives the last small batch', async () => {
    expect(await firsts(batches(examples(5), { batchSize: 2 }))).toEqual([[0, 1], [2, 3], [4]]);
    expect(await firsts(batches(examples(5), { batchSize: 2, dropLast: true }))).toEqual([
      [0, 1],
      [2, 3],
    ]);
  });

  test('shuffles by the seed alone, and loses nothing', async () => {
    const order = async (seed: number) =>
      (await firsts(batches(examples(50), { batchSize: 7, shuffle: true, seed }))).flat();
    expect(await order(3)).toEqual(await order(3));
    expect(await order(3)).not.toEqual(await order(4));
    expect((await order(3)).sort((a, b) => a - b)).toEqual(examples(50).map(({ inputIds }) => inputIds[0]));
  });

  test('takes async sources and functions; labels default to the ids', async () => {
    async function* source() {
      yield { inputIds: [1, 2, 3] };
      yield { inputIds: [4, 5], labels: [-100, 5] };
    }
    for (const data of [source(), source]) {
      const { value } = await batches(data, { batchSize: 2 }).next();
      expect(value).toEqual({
        inputIds: [
          [1, 2, 3],
          [4, 5],
        ],
        labels: [
          [1, 2, 3],
          [-100, 5],
        ],
      });
    }
  });

  test.each([
    [
      { inputIds: [1, 2], labels: [1] },
      '[batches] example 0: expected 2 labels, one per token, but received 1',
    ],
    [{ inputIds: [] }, '[batches] example 0: expected inputIds to be token ids but received []'],
    [{ inputIds: [1.5] }, '[batches] example 0: expected inputIds to be token ids but received [1.5]'],
    ['text', "[batches] example 0: expected an example { inputIds, labels? } but received 'text'"],
  ])('%j is ERR_DATA with its place', async (example, message) => {
    await expect(firsts(batches([example as Example]))).rejects.toMatchObject({ code: 'ERR_DATA', message });
  });

  test('wrong options and sources', async () => {
    await expect(firsts(batches(examples(1), { batchSize: 0 }))).rejects.toMatchObject({
      code: 'ERR_ARGUMENT',
    });
    await expect(firsts(batches(examples(1), { batch: 2 } as never))).rejects.toThrow('batchSize');
    await expect(firsts(batches(7 as never))).rejects.toThrow('expected data to be an Iterable');
  });
});

test('epochs differ in order and repeat for the same seed', async () => {
  const take = async (n: number, seed: number) => {
    const out: number[] = [];
    for await (const { inputIds, epoch } of epochs(examples(8), {
      batchSize: 8,
      shuffle: true,
      seed,
      dropLast: false,
    })) {
      if (epoch === n) break;
      out.push(...inputIds.map((row) => row[0] as number));
    }
    return out;
  };
  const two = await take(2, 0);
  expect(two).toEqual(await take(2, 0));
  expect(two.slice(0, 8)).not.toEqual(two.slice(8));
});

test('a one-shot source that must be read twice is an error that says what to pass', () => {
  function* once(): Generator<Example> {
    yield { inputIds: [1, 2] };
  }
  expect(() => checkRereadable('Trainer', once())).toThrow('pass a function');
  expect(() => checkRereadable('Trainer', once)).not.toThrow();
  expect(() => checkRereadable('Trainer', [])).not.toThrow();
});

test('the first label of a row is never counted: labels are shifted', () => {
  expect(countedTokens([[5, 6, -100, 7], [-100, -100], [3]])).toBe(2);
});

test('SplitMix64 is uniform enough to shuffle, and its order is fixed', () => {
  const random = new Random(1);
  const counts = new Array<number>(10).fill(0);
  for (let i = 0; i < 10_000; i++) (counts[random.below(10)] as number)++;
  for (const count of counts) expect(Math.abs(count - 1000)).toBeLessThan(150);
  // The first outputs of SplitMix64 for seed 0 begin with e220a839 7b1dcdaf (the generator's reference values).
  expect(new Random(0).below(2 ** 32)).toBe(0xe220a839);
});

describe('loadDataset', () => {
  let dir: string;
  beforeAll(() => (dir = mkdtempSync(join(tmpdir(), 'dataset-'))));
  afterAll(() => rmSync(dir, { recursive: true }));
  const file = (name: string, text: string) => {
    writeFileSync(join(dir, name), text);
    return join(dir, name);
  };
  const tokenizer = { encode: (text: string) => [...Buffer.from(text)], eosTokenId: 0 };

  test('JSONL of { text }: encoded, ended with EOS, cut to maxLength', async () => {
    const path = file('a.jsonl', '{"text":"ab"}\n\n{"text":"abcdef"}\r\n');
    const data = await loadDataset(path, { tokenizer, maxLength: 4 });
    expect([...data].map(({ inputIds }) => inputIds)).toEqual([
      [97, 98, 0],
      [97, 98, 99, 100],
    ]);
    expect(data).toMatchObject({ length: 2, truncated: 1 });
  });

  test('JSONL of { inputIds, labels } needs no tokenizer', async () => {
    const data = await loadDataset(file('b.jsonl', '{"inputIds":[1,2],"labels":[-100,2]}'));
    expect([...data]).toEqual([{ inputIds: [1, 2], labels: [-100, 2] }]);
  });

  test('plain text is split into pieces', async () => {
    const data = await loadDataset(file('c.txt', 'abcdefgh'), { tokenizer, maxLength: 3 });
    expect([...data].map(({ inputIds }) => inputIds.length)).toEqual([3, 3, 2]);
  });

  test.each([
    ['broken line', '{"text":"a b"}\n{"text"', 'ERR_DATA', ':2: expected one JSON object per line'],
    [
      'other key',
      '{"txt":"a"}',
      'ERR_DATA',
      ':1: expected { text } or { inputIds, labels } but received the keys txt',
    ],
    [
      'text missing later',
      '{"text":"ab"}\n{"inputIds":[1]}',
      'ERR_DATA',
      ':2: expected "text" to be a string',
    ],
    ['chat', '{"messages":[]}', 'ERR_UNSUPPORTED', '{ messages } is not supported yet'],
    [
      'prompt',
      '{"prompt":"a","completion":"b"}',
      'ERR_UNSUPPORTED',
      '{ prompt, completion } is not supported yet',
    ],
    ['empty', '\n', 'ERR_DATA', 'expected at least one example'],
  ])('%s', async (name, text, code, sentence) => {
    const path = file(`${name.replaceAll(' ', '-')}.jsonl`, text);
    await expect(loadDataset(path, { tokenizer })).rejects.toMatchObject({
      code,
      message: expect.stringContaining(sentence) as string,
    });
  });

  test('missing file, missing tokenizer, wrong options', async () => {
    await expect(loadDataset(join(dir, 'none.jsonl'))).rejects.toMatchObject({ code: 'ERR_FILE' });
    await expect(loadDataset(file('d.jsonl', '{"text":"a"}'))).rejects.toThrow(
      'pass { tokenizer: model.tokenizer }',
    );
    await expect(loadDataset('x', { trainOn: 'completion' })).rejects.toMatchObject({
      code: 'ERR_UNSUPPORTED',
    });
    await expect(loadDataset('x', { trainOn: 'answers' as 'all' })).rejects.toThrow(
      "expected trainOn to be 'all', 'completion' but received 'answers'",
    );
    await expect(loadDataset(undefined as unknown as string)).rejects.toMatchObject({
      code: 'ERR_ARGUMENT',
      message: '[loadDataset] expected a file (string or URL) but received undefined',
    });
    await expect(loadDataset('x', { maxSeqLength: 2 } as never)).rejects.toThrow('maxLength');
  });
});
