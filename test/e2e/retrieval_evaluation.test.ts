/** What evaluations of texts that belong together count, and what a run of them goes on with. */
import { join } from 'node:path';
import {
  CausalLM,
  evaluateRetrieval,
  Trainer,
  type ContrastiveRow,
  type TrainerOptions,
} from '../../lib/index';
import { byScore } from '../../lib/models/embedding/rank';
import { ndcg, reciprocalRank, recall } from '../../lib/train/objectives/retrieval_metrics';
import { fillAdapter } from '../support/fill_adapter';
import { bits } from '../support/numbers';
import { temporaryFolder } from '../support/temporary';
import { byteTokenizer, tinyModel } from '../support/tiny_model';

const scratch = temporaryFolder();
const models: CausalLM[] = [];
afterAll(async () => {
  for (const model of models) await model.dispose();
});

/** With tokens for "yes" and "no". */
async function tiny(): Promise<CausalLM> {
  const tokenizer = byteTokenizer() as { added_tokens: object[]; model: { vocab: Record<string, number> } };
  for (const [i, content] of ['yes', 'no'].entries()) {
    tokenizer.added_tokens.push({ id: 260 + i, content, special: false, normalized: false });
    tokenizer.model.vocab[content] = 260 + i;
  }
  const model = await CausalLM.fromPretrained(
    await tinyModel({ tokenizer, config: { max_position_embeddings: 1024 } }),
  );
  models.push(model);
  return model;
}

const dot = (a: Float32Array, b: Float32Array): number => a.reduce((sum, x, i) => sum + x * b[i]!, 0);
const mean = (values: readonly number[]): number => values.reduce((sum, x) => sum + x, 0) / values.length;

/** What the metrics of queries are, each with its documents in order: 1 where one is relevant. */
const metricsOf = (orders: readonly (readonly number[])[]): Record<string, unknown> => ({
  'ndcg@10': expect.closeTo(mean(orders.map((order) => ndcg(order, 10))), 6),
  'recall@1': expect.closeTo(mean(orders.map((order) => recall(order, 1))), 6),
  'recall@10': expect.closeTo(mean(orders.map((order) => recall(order, 10))), 6),
  'mrr@10': expect.closeTo(mean(orders.map((order) => reciprocalRank(order, 10))), 6),
});

describe('an evaluation of contrastive rows', () => {
  const rows: ContrastiveRow[] = [
    { anchor: 'red', positive: 'a rose', negative: ['the sea at night', 'grass'] },
    { anchor: 'blue, and far away', positive: 'sky' },
    { anchor: 'red', positive: 'a fire engine with its lights on' },
    { anchor: 'x', positive: 'a rose' },
    { anchor: 'number 7', positive: 'seven', negative: 'sky' },
  ];

  test.each(['last', 'mean'] as const)(
    'asks each text once, by its cosines, for all that belongs to it: %s',
    async (pool) => {
      const model = await tiny();
      const documents = [
        ...new Set(rows.flatMap((row) => ('anchor' in row ? [row.positive, row.negative ?? []].flat() : []))),
      ];
      const queries = new Map<string, Set<string>>();
      for (const row of rows)
        if ('anchor' in row)
          queries.set(row.anchor, new Set([...(queries.get(row.anchor) ?? []), row.positive]));
      const vectors = await model.embed(documents, { pool });
      const orders: number[][] = [];
      for (const [query, relevant] of queries) {
        const [own] = await model.embed([query], { pool });
        orders.push(
          [...documents.keys()]
            .sort((a, b) => dot(own!, vectors[b]!) - dot(own!, vectors[a]!))
            .map((at) => Number(relevant.has(documents[at]!))),
        );
      }
      expect(queries.size).toBe(4);
      expect((await evaluateRetrieval(model, rows, { batchSize: 2, pool })).metrics).toEqual(
        metricsOf(orders),
      );
    },
  );

  test('has the loss of its rows, of which a smaller last batch has fewer', async () => {
    const model = await tiny();
    const lossOf = async (own: readonly ContrastiveRow[]): Promise<number> =>
      (await evaluateRetrieval(model, own, { batchSize: own.length })).loss!;
    const three = rows.slice(0, 3);
    const [two, one] = [await lossOf(three.slice(0, 2)), await lossOf([{ ...three[2]!, negative: 'sea' }])];
    const last = { ...three[2]!, negative: 'sea' } as ContrastiveRow;
    const all = await evaluateRetrieval(model, [three[0]!, three[1]!, last], { batchSize: 2 });
    expect(all.loss).toBeCloseTo((2 * two + one) / 3, 5);
    expect(Math.abs(two - one)).toBeGreaterThan(0.01);
  });

  test('of similar sentences takes the adapter, and the pooling, that are asked for', async () => {
    const model = await tiny();
    fillAdapter(model.addAdapter({ r: 4, targetModules: 'all-linear' }), 3, 0.8);
    const sentences = ['one', 'another thing', 'x', 'numbers', 'of what', 'a', '7 7 7'];
    const cosines = async (options: object): Promise<number[]> => {
      const vectors = await model.embed(sentences, options);
      return sentences.slice(1).map((_, i) => dot(vectors[0]!, vectors[i + 1]!));
    };
    for (const options of [
      { adapter: null },
      { adapter: 'default' },
      { adapter: null, pool: 'mean' } as const,
    ]) {
      const own = await cosines(options);
      const data = own.map((score, i) => ({ sentence1: sentences[0]!, sentence2: sentences[i + 1]!, score }));
      expect((await evaluateRetrieval(model, data, options)).metrics['spearman']).toBeCloseTo(1, 10);
    }
    expect(await cosines({ adapter: null })).not.toEqual(await cosines({}));
  });
});

describe('an evaluation of ranked documents', () => {
  const query = 'capital';
  const scores = async (model: CausalLM, documents: readonly string[]): Promise<number[]> =>
    (await model.rank(query, documents)).sort((a, b) => a.index - b.index).map(({ score }) => score);

  test('takes a document for relevant that answers in one row, whatever another says', async () => {
    const model = await tiny();
    const [a, b, c] = ['Graz', 'Vienna is it', 'no town at all'];
    const data = [
      { query, positive: a, negative: c },
      { query, positive: b, negative: a },
    ];
    const order = [a, b, c];
    const own = await scores(model, order);
    const relevant = [...order.keys()].sort((x, y) => own[y]! - own[x]!).map((at) => Number(order[at] !== c));
    const { metrics } = await evaluateRetrieval(model, data, { objective: 'rank' });
    expect(metrics).toMatchObject(metricsOf([relevant]));
  });

  test('does not take rows of tokens, whose query nobody knows, for those of one query', async () => {
    const model = await tiny();
    const texts = ['Graz', 'Vienna is it', 'no', 'a town'];
    const ids = texts.map((text) => model.tokenizer.encode(text));
    const data = [
      { positiveIds: ids[0]!, negativeIds: ids[1]! },
      { positiveIds: ids[1]!, negativeIds: ids[0]! },
      { positiveIds: ids[2]!, negativeIds: ids[3]! },
      { positiveIds: ids[3]!, negativeIds: ids[2]! },
    ];
    const { metrics } = await evaluateRetrieval(model, data, { objective: 'rank', batchSize: 2 });
    // Of two rows that say the opposite, one has its document first and one second.
    expect(metrics).toMatchObject(
      metricsOf([
        [1, 0],
        [0, 1],
        [1, 0],
        [0, 1],
      ]),
    );
  });

  test('documents of one score stand in their order', () => {
    const ranked = [3, 0, 2, 1].map((index) => ({ index, score: index === 1 ? 0.9 : 0.5 }));
    expect(ranked.sort(byScore).map(({ index }) => index)).toEqual([1, 0, 2, 3]);
  });
});

describe('a contrastive run that goes on', () => {
  const rows: ContrastiveRow[] = [...'abcdef'].map((letter) => ({
    anchor: letter.repeat(3),
    positive: `${letter}${letter.toUpperCase()}`,
    ...(letter === 'a' && { negative: 'bB' }),
  }));
  const run = async (options: Partial<TrainerOptions>): Promise<string> => {
    const model = await tiny();
    const adapter = model.addAdapter({ r: 4, targetModules: 'all-linear', loraDropout: 0.4 }, { seed: 1 });
    const how = { objective: 'contrastive', batchSize: 3, lr: 1e-2, saveEvery: 2, miniBatchSize: 2 } as const;
    await new Trainer({ model, data: rows, ...how, ...options }).run();
    return bits(...adapter.parameters());
  };

  test('has the dropout of one that did not stop, where parts of a batch are not full', async () => {
    const whole = await run({ outDir: join(scratch, 'whole'), maxSteps: 4 });
    const outDir = join(scratch, 'parts');
    await run({ outDir, maxSteps: 4, saveEvery: 2, saveLimit: 9 });
    expect(await run({ outDir, maxSteps: 4, resume: join(outDir, 'checkpoint-2') })).toBe(whole);
  });

  test('takes other parts of a batch, and no other loss', async () => {
    const outDir = join(scratch, 'settings');
    await run({ outDir, maxSteps: 2 });
    const on = { outDir, maxSteps: 4, resume: true };
    await expect(run({ ...on, pool: 'mean' })).rejects.toThrow(/pool/);
    await expect(run({ ...on, scale: 10 })).rejects.toThrow(/scale/);
    await expect(run({ ...on, matryoshkaDims: [8] })).rejects.toThrow(/matryoshkaDims/);
    await run({ ...on, miniBatchSize: 3, pool: 'last' }); // which it had
  });
});
