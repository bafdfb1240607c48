/** Several data sets as one, rows that are there twice, the first rows alone, Zstandard, and the report before training. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import zlib from 'node:zlib';
import { dataReport } from '../../lib/data/data_report';
import { loadDataset, mixDatasets, type Dataset } from '../../lib/index';
import { batches } from '../../lib/data/batches';
import { expectReject, expectThrow } from '../support/errors';
import { temporaryFolder } from '../support/temporary';

const root = temporaryFolder();
let made = 0;
function file(content: string | Uint8Array, extension = '.jsonl'): string {
  const path = join(root, `f${made++}${extension}`);
  writeFileSync(path, content);
  return path;
}
const lines = (rows: readonly object[]): string => rows.map((row) => `${JSON.stringify(row)}\n`).join('');
/** Rows of two ids, the first of which says whose they are. */
const rowsOf = (source: number, count: number): string =>
  lines(Array.from({ length: count }, (_, i) => ({ inputIds: [source, i] })));
const load = (source: number, count: number): Promise<Dataset> => loadDataset(file(rowsOf(source, count)));
const idsOf = (data: Dataset): number[][] => [...data].map(({ inputIds }) => [...inputIds]);
const countsOf = (data: Dataset): number[] =>
  [1, 2, 3].map((source) => idsOf(data).filter(([first]) => first === source).length);

describe('a mix', () => {
  test('takes rows in its proportions, and none of them twice', async () => {
    const data = mixDatasets([await load(1, 700), await load(2, 100), await load(3, 100)], {
      weights: '7:2:1',
    });
    expect(countsOf(data)).toEqual([350, 100, 50]);
    expect(new Set(idsOf(data).map(String)).size).toBe(500);
    expect(data).toMatchObject({ length: 500, tokens: 500, maxLength: 512 });
    expect(data.sources.map(({ rows, of, tokens }) => [rows, of, tokens])).toEqual([
      [350, 700, 350],
      [100, 100, 100],
      [50, 100, 50],
    ]);
    expect(data.path).toBe(data.sources.map(({ path }) => path).join(' + '));
  });

  test('without weights has all rows, in their order', async () => {
    const data = mixDatasets([await load(1, 3), await load(2, 2)]);
    expect(idsOf(data)).toEqual([
      [1, 0],
      [1, 1],
      [1, 2],
      [2, 0],
      [2, 1],
    ]);
  });

  test('of a seed is the same, and of another one another', async () => {
    const sets = [await load(1, 50), await load(2, 5)];
    const draw = (seed: number): string =>
      JSON.stringify(idsOf(mixDatasets(sets, { weights: [1, 1], seed })));
    expect(draw(3)).toBe(draw(3));
    expect(draw(3)).not.toBe(draw(4));
    expect(draw(3)).not.toContain('[1,0],[1,1],[1,2],[1,3],[1,4]');
  });

  test('keeps the order of the rows that it takes, and counts their tokens and what was cut', async () => {
    const long = Array.from({ length: 30 }, (_, i) => ({
      inputIds: Array.from({ length: 2 + i }, (_, j) => 100 + i + j),
    }));
    const sets = [
      await loadDataset(file(lines(long)), { maxLength: 40 }),
      await loadDataset(file(rowsOf(2, 3) + lines([{ inputIds: Array(50).fill(2) }])), { maxLength: 9 }),
    ];
    for (const order of [sets, [...sets].reverse()]) {
      const data = mixDatasets(order, { weights: '1:1' });
      const rows = idsOf(data);
      const ofFirst = rows.filter(([id]) => id! >= 100);
      expect(ofFirst).toHaveLength(4);
      expect(ofFirst.map(([id]) => id)).toEqual(ofFirst.map(([id]) => id).sort((a, b) => a! - b!));
      const tokens = (own: number[][]): number => own.reduce((sum, ids) => sum + ids.length - 1, 0);
      expect(data.tokens).toBe(tokens(rows));
      const counted = data.sources.map((source) => source.tokens);
      expect(counted[order.indexOf(sets[0]!)]).toBe(tokens(ofFirst));
      expect(data).toMatchObject({ maxLength: 40, longest: 50, truncated: 1, cutTokens: 41 });
    }
  });

  test('takes a row at least of each', async () => {
    const data = mixDatasets([await load(1, 1000), await load(2, 3)], { weights: [1, 1e-6] });
    expect(countsOf(data).slice(0, 2)).toEqual([1000, 1]);
  });

  test('is shuffled, and grouped by length, as one data set', async () => {
    const long = await loadDataset(
      file(lines(Array.from({ length: 20 }, (_, i) => ({ inputIds: [2, ...new Array<number>(8).fill(i)] })))),
    );
    const data = mixDatasets([await load(1, 20), long]);
    const lengths: number[][] = [];
    for await (const { inputIds } of batches(data, {
      batchSize: 2,
      groupByLength: true,
      shuffle: true,
      seed: 1,
    }))
      lengths.push(inputIds.map((row) => row.length));
    expect(lengths.flat().sort()).toEqual([
      ...new Array<number>(20).fill(2),
      ...new Array<number>(20).fill(9),
    ]);
    expect(lengths.filter((row) => new Set(row).size > 1).length).toBeLessThanOrEqual(4); // one in each window of ten
  });

  test('of preferences', async () => {
    const row = { promptIds: [1], chosenIds: [2, 3], rejectedIds: [4] };
    const data = await loadDataset(file(lines([row])), { objective: 'dpo' });
    const mix = mixDatasets([data, data]);
    expect([...mix]).toEqual([row, row]);
    expect(mix.tokens).toBe(6);
    const examples = await load(1, 2);
    expectThrow(
      () => mixDatasets([examples, data as never]),
      'ERR_ARGUMENT',
      '[mixDatasets] expected data sets of one objective but received rows of { inputIds } and of { promptIds, chosenIds }',
    );
  });

  test.each([
    [
      'classify',
      { inputIds: [1, 2], label: 'a' },
      undefined,
      { inputIds: [1, 2] },
      'inputIds, label',
      'inputIds',
    ],
    [
      'contrastive',
      { anchorIds: [1], positiveIds: [2] },
      'rank',
      { positiveIds: [1], negativeIds: [2] },
      'anchorIds, positiveIds',
      'positiveIds',
    ],
  ] as const)(
    'of rows of %s and of another objective is refused',
    async (objective, row, second, other, a, b) => {
      const first = await loadDataset(file(lines([row])), { objective });
      const mixed = await loadDataset(file(lines([other])), {
        ...(second && { objective: second }),
      } as object);
      expectThrow(
        () => mixDatasets([first as never, mixed as never]),
        'ERR_ARGUMENT',
        `[mixDatasets] expected data sets of one objective but received rows of { ${a} } and of { ${b} }`,
      );
      expect(mixDatasets([first as never, first as never])).toHaveLength(2);
    },
  );

  test.each([
    '7:2',
    '7:2:1:1',
    '7:0:1',
    '7:-1:1',
    '7:Infinity:1',
    '7::1',
    'a:b:c',
    [1, 2],
    [1, 2, Number.NaN],
    7,
  ])('with the weights %j is refused', async (weights) => {
    const sets = [await load(1, 2), await load(2, 2), await load(3, 2)];
    expectThrow(
      () => mixDatasets(sets, { weights: weights as never }),
      'ERR_ARGUMENT',
      /^\[mixDatasets\] expected weights to be 3 numbers above 0, one for each data set, such as '3:2:1', but received /,
    );
  });

  test('of what is no data set in memory is refused', async () => {
    const path = file(rowsOf(1, 2));
    const places = await loadDataset(path, { inMemory: false });
    for (const given of [[], [[{ inputIds: [1, 2] }]], [places]])
      expectThrow(
        () => mixDatasets(given as never),
        'ERR_ARGUMENT',
        /expected a list of data sets of loadDataset, in memory/,
      );
  });
});

describe('rows that are there twice', () => {
  const rows = [
    { inputIds: [1, 2, 3] },
    { inputIds: [1, 2, 4] },
    { inputIds: [1, 2, 3] },
    { inputIds: [1, 2, 3], labels: [-100, 2, 3] },
    { inputIds: [1, 23] },
    { inputIds: [12, 3] },
  ];

  test('are left out by their tokens and by what counts', async () => {
    const data = await loadDataset(file(lines(rows)), { deduplicate: true });
    expect(idsOf(data)).toEqual([
      [1, 2, 3],
      [1, 2, 4],
      [1, 2, 3],
      [1, 23],
      [12, 3],
    ]);
    expect(data).toMatchObject({ length: 5, duplicates: 1, dropped: 0, tokens: 8 });
    expect((await loadDataset(file(lines(rows)))).duplicates).toBe(0);
  });

  test('as they are after the cut', async () => {
    const data = await loadDataset(file(lines(rows)), { deduplicate: true, maxLength: 2 });
    expect(idsOf(data)).toEqual([
      [1, 2],
      [1, 2],
      [1, 23],
      [12, 3],
    ]);
    expect(data).toMatchObject({ duplicates: 2, truncated: 2, cutTokens: 2, longest: 3 });
  });

  test('that stay in their file', async () => {
    const data = await loadDataset(file(lines(rows)), { deduplicate: true, inMemory: false });
    expect(data).toMatchObject({ length: 5, duplicates: 1 });
    expect((await data.at(4)).inputIds).toEqual([12, 3]);
  });

  test('of preferences, whose answers and labels tell them apart', async () => {
    const liked = { promptIds: [1], completionIds: [2, 3], label: true };
    const all = [
      liked,
      { ...liked, label: false },
      { promptIds: [1, 2], completionIds: [3], label: true },
      liked,
    ];
    const data = await loadDataset(file(lines(all)), { objective: 'kto', deduplicate: true });
    expect([...data]).toEqual(all.slice(0, 3));
  });
});

describe('maxRows', () => {
  test('reads the first rows alone: what is behind them may be anything', async () => {
    const path = file(`${rowsOf(1, 3)}{"inputIds":`);
    expect(idsOf(await loadDataset(path, { maxRows: 3 }))).toEqual([
      [1, 0],
      [1, 1],
      [1, 2],
    ]);
    await expectReject(
      loadDataset(path, { maxRows: 4 }),
      'ERR_DATA',
      /:4: expected one JSON object per line/,
    );
    for (const maxRows of [0, 1.5, '3'])
      await expectReject(loadDataset(path, { maxRows: maxRows as number }), 'ERR_ARGUMENT', /maxRows/);
  });

  test('counts the rows that were left out', async () => {
    const path = file(lines([{ inputIds: [1] }, { inputIds: [1, 2] }, { inputIds: [1, 3] }]));
    expect(await loadDataset(path, { maxRows: 2 })).toMatchObject({ length: 1, dropped: 1 });
  });
});

describe('Zstandard', () => {
  /** A frame (RFC 8878, 3.1.1) of raw blocks, and of blocks of one byte that is repeated: it takes no compressor. */
  function frame(parts: readonly (Buffer | { byte: number; times: number })[]): Buffer {
    const blocks = parts.map((part, i) => {
      const [type, size, content] = Buffer.isBuffer(part)
        ? [0, part.length, part]
        : [1, part.times, Buffer.from([part.byte])];
      const header = Buffer.alloc(3);
      header.writeUIntLE((size << 3) | (type << 1) | Number(i === parts.length - 1), 0, 3);
      return Buffer.concat([header, content]);
    });
    // No checksum, no size of the content; a window of 128 KiB.
    return Buffer.concat([Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38]), ...blocks]);
  }
  const rows = Buffer.from(rowsOf(1, 4));
  const isThere = 'createZstdDecompress' in zlib;

  test(
    isThere
      ? 'is read, by its bytes or its name'
      : 'is refused where zlib has none, by the version of Node.js that does',
    async () => {
      for (const path of [file(frame([rows]), '.jsonl.zst'), file(frame([rows]), '.jsonl')])
        if (isThere)
          expect(idsOf(await loadDataset(path))).toEqual([
            [1, 0],
            [1, 1],
            [1, 2],
            [1, 3],
          ]);
        else
          await expectReject(
            loadDataset(path),
            'ERR_UNSUPPORTED',
            `[loadDataset] ${path}: expected Node.js 22.15 or newer, whose zlib has Zstandard, but this is ${process.version}: unpack it first, or compress with gzip`,
          );
    },
  );

  test('has the bounds of gzip, and must be whole', async () => {
    if (!isThere) return expect(process.versions.node < '22.15').toBe(true);
    const blanks = frame(Array.from({ length: 100 }, () => ({ byte: 32, times: 2 ** 17 })));
    await expectReject(
      loadDataset(file(blanks, '.jsonl.zst')),
      'ERR_DATA',
      /expected Zstandard data that hold at most 100 times their own bytes/,
    );
    const whole = frame([rows, rows]);
    await expectReject(
      loadDataset(file(whole.subarray(0, -9), '.jsonl.zst')),
      'ERR_DATA',
      /the Zstandard data is damaged or cut short/,
    );
    const wrong = Buffer.from(whole);
    wrong[6] = 0x07; // a block of a type that is reserved
    await expectReject(
      loadDataset(file(wrong, '.jsonl.zst')),
      'ERR_DATA',
      /the Zstandard data is damaged or cut short/,
    );
  });

  test('a name that ends in .zst is no promise', async () => {
    const path = file(rows, '.jsonl.zst');
    await expectReject(
      loadDataset(path),
      'ERR_DATA',
      `[loadDataset] ${path}: expected Zstandard, as its name ends in .zst, but it is not`,
    );
    await expectReject(
      loadDataset(file(frame([rows]), '.jsonl.zst'), { inMemory: false }),
      'ERR_UNSUPPORTED',
      /not for Zstandard$/,
    );
  });
});

test('the lengths of a report are those of its examples, 95 of 100 within the one that it says', async () => {
  const rows = Array.from({ length: 40 }, (_, i) => ({
    inputIds: Array.from({ length: i + 2 }, (_, j) => j),
    labels: Array.from({ length: i + 2 }, (_, j) => (j === 0 ? -100 : j)),
  }));
  const same = { inputIds: rows[9]!.inputIds, labels: rows[9]!.inputIds };
  const { lengths, counted, repeated } = dataReport(
    (await loadDataset(file(lines([...rows, same])))) as never,
  );
  expect(lengths).toMatchObject({ shortest: 2, median: 21, p95: 39, longest: 41 });
  // The first token is never predicted, and what counts tells rows of the same tokens apart.
  expect(counted.withPrompt).toBe(0);
  expect(repeated).toEqual({ examples: 0, leftOut: 0 });
});

test('the report says how long examples are, what is cut, what counts and what is there twice', async () => {
  const row = (length: number, prompt: number): object => {
    const inputIds = Array.from({ length }, (_, i) => i);
    return { inputIds, labels: inputIds.map((id, i) => (i < prompt ? -100 : id)) };
  };
  const path = file(lines([row(2, 0), row(2, 0), row(3, 1), row(10, 4), row(30, 4), row(5, 5)]));
  const data = await loadDataset(path, { maxLength: 20 });
  expect(dataReport(data as never)).toEqual({
    lengths: {
      shortest: 2,
      median: 3,
      mean: 37 / 5,
      p95: 20,
      longest: 20,
      bins: [5, 10, 15, 20].map((to, i) => ({ from: to - 4, to, examples: [3, 1, 0, 1][i] })),
    },
    cut: { examples: 1, tokens: 10, share: 10 / 47, longest: 30 },
    counted: { tokens: 1 + 1 + 2 + 6 + 16, of: 37, share: 26 / 37, dropped: 1, withPrompt: 2 },
    repeated: { examples: 1, leftOut: 0 },
  });
});
