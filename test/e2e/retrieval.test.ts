/** Texts that belong together: the losses of vectors and of the order of documents in float64, cached gradients, ranking, runs, figures. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  CausalLM,
  evaluateRetrieval,
  loadDataset,
  noGrad,
  tensor,
  Trainer,
  type Adapter,
  type ContrastiveRow,
  type RankRow,
  type TrainerOptions,
} from '../../lib/index';
import type { TrainerEvent } from '../../lib/train/events';
import { plannedVectors } from '../../lib/models/embedding/text_vectors';
import { recomputedInSlices } from '../../lib/ops/recompute';
import { relevanceIds } from '../../lib/text/relevance';
import { enqueueInSlices } from '../../lib/tensor/op_slices';
import { contrastiveLoss } from '../../lib/train/objectives/contrastive_loss';
import { ndcg, recall, reciprocalRank, spearman } from '../../lib/train/objectives/retrieval_metrics';
import { fillAdapter } from '../support/fill_adapter';
import { gradientError, relativeError, values } from '../support/numbers';
import { temporaryFolder } from '../support/temporary';
import { byteTokenizer, tinyModel, type TinyModelOptions } from '../support/tiny_model';

const scratch = temporaryFolder();
const models: CausalLM[] = [];
afterAll(async () => {
  for (const model of models) await model.dispose();
});

/** The tokens of bytes, with one for "yes" and one for "no". */
function answeringTokenizer(): object {
  const tokenizer = byteTokenizer() as { added_tokens: object[]; model: { vocab: Record<string, number> } };
  for (const [i, content] of ['yes', 'no'].entries()) {
    tokenizer.added_tokens.push({ id: 260 + i, content, special: false, normalized: false });
    tokenizer.model.vocab[content] = 260 + i;
  }
  return tokenizer;
}

async function tiny(options: TinyModelOptions = {}): Promise<CausalLM> {
  const config = { max_position_embeddings: 1024, ...options.config };
  const model = await CausalLM.fromPretrained(
    await tinyModel({ tokenizer: answeringTokenizer(), ...options, config }),
  );
  models.push(model);
  return model;
}

const rows: ContrastiveRow[] = [
  { anchor: 'reset my password', positive: 'Click on "Forgot".', negative: 'Our offices are in Graz.' },
  { anchor: 'opening hours', positive: 'Nine to five.', negative: ['Closed roads', 'Open source'] },
  { anchor: 'who are you', positive: 'A shop for bicycles in a small town.' },
];

/** sentence-transformers' MultipleNegativesRankingLoss in f64. */
function infoNce(anchors: number[][], candidates: number[][], scale: number): number {
  const unit = (v: number[]): number[] => v.map((x) => x / Math.hypot(...v));
  const [a, c] = [anchors.map(unit), candidates.map(unit)];
  const losses = a.map((v, i) => {
    const scores = c.map((w) => scale * v.reduce((sum, x, k) => sum + x * w[k]!, 0));
    const top = Math.max(...scores);
    return top + Math.log(scores.reduce((sum, s) => sum + Math.exp(s - top), 0)) - scores[i]!;
  });
  return losses.reduce((sum, x) => sum + x, 0) / losses.length;
}

const matrix = (n: number, d: number, seed: number): number[][] =>
  Array.from({ length: n }, (_, i) =>
    values(n * d, seed)
      .slice(i * d, (i + 1) * d)
      .map(Math.fround),
  );

describe('the contrastive loss', () => {
  test.each([
    ['whole vectors', { scale: 20, matryoshkaDims: undefined, matryoshkaWeights: undefined }],
    ['another scale', { scale: 3.5, matryoshkaDims: undefined, matryoshkaWeights: undefined }],
    ['Matryoshka', { scale: 20, matryoshkaDims: [8, 5, 2], matryoshkaWeights: undefined }],
    ['with weights', { scale: 20, matryoshkaDims: [8, 3], matryoshkaWeights: [0.5, 2] }],
  ])('of %s is that of its formula, and so is its gradient', async (_, settings) => {
    const [a, c] = [matrix(3, 8, 1), matrix(5, 8, 2)];
    const { scale, matryoshkaDims = [8], matryoshkaWeights = matryoshkaDims.map(() => 1) } = settings;
    const wanted = matryoshkaDims.reduce((sum, d, i) => {
      const cut = (rows: number[][]): number[][] => rows.map((v) => v.slice(0, d));
      return sum + matryoshkaWeights[i]! * infoNce(cut(a), cut(c), scale);
    }, 0);
    const { loss, scores } = contrastiveLoss(tensor(a), tensor(c), settings);
    expect((await loss.item()) / wanted).toBeCloseTo(1, 5);
    expect(scores.shape).toEqual([3, 5]);
    const inputs = [
      { shape: [3, 8], at: a.flat() },
      { shape: [5, 8], at: c.flat() },
    ];
    expect(await gradientError((x, y) => contrastiveLoss(x, y, settings).loss, inputs)).toBeLessThan(0.02);
  });

  test('of vectors of zeros is finite', async () => {
    const zeros = tensor(
      [
        [0, 0],
        [0, 0],
      ],
      { requiresGrad: true },
    );
    const settings = { scale: 20, matryoshkaDims: undefined, matryoshkaWeights: undefined };
    const { loss } = contrastiveLoss(
      zeros,
      tensor([
        [1, 0],
        [0, 1],
      ]),
      settings,
    );
    expect(await loss.item()).toBeCloseTo(Math.log(2), 5);
    loss.backward();
    expect((await zeros.grad!.data()).every(Number.isFinite)).toBe(true);
  });
});

type StepEvent = Extract<TrainerEvent, { type: 'step' }>;

/** The gradients of the adapter, which they are taken from. */
async function gradientsOf(adapter: Adapter): Promise<number[]> {
  const all: number[] = [];
  for (const p of adapter.parameters()) {
    all.push(...(await p.grad!.data()));
    p.grad!.dispose();
    p.grad = null;
  }
  return all;
}

/** The first step of a run on the rows, whose gradient norm and loss it tells. */
async function firstStep(model: CausalLM, options: Partial<TrainerOptions>): Promise<StepEvent> {
  const how = {
    objective: 'contrastive',
    batchSize: 3,
    maxSteps: 1,
    lr: 1e-3,
    schedule: 'constant',
  } as const;
  const trainer = new Trainer({ model, data: rows, ...how, ...options });
  for await (const event of trainer.run()) if (event.type === 'step') return event;
  throw new Error('no step');
}

describe('cached gradients', () => {
  test('are those of the whole batch', async () => {
    const steps: StepEvent[] = [];
    for (const miniBatchSize of [undefined, 1, 2, 4, 100]) {
      const model = await tiny();
      fillAdapter(model.addAdapter({ r: 2, targetModules: 'all-linear' }), 4, 0.3);
      steps.push(await firstStep(model, { miniBatchSize }));
    }
    const [whole, ...others] = steps;
    for (const { loss, gradNorm } of others) {
      expect(loss / whole!.loss).toBeCloseTo(1, 5);
      expect(gradNorm / whole!.gradNorm).toBeCloseTo(1, 4);
    }
  });

  test.each([false, true])(
    'drop out in the second run what they did in the first; blocks once more: %s',
    async (gradientCheckpointing) => {
      const model = await tiny();
      const adapter = model.addAdapter({ r: 2, loraDropout: 0.4, targetModules: 'all-linear' });
      fillAdapter(adapter, 4, 0.3);
      const texts = [[1, 2, 3], [4, 5, 6, 7, 8], [9]].map((ids) => ({ ids }));
      const how = { pool: 'mean', adapter, train: true, gradientCheckpointing } as const;
      const planned = plannedVectors(model.core, texts, how);
      const weigh = tensor(values(3 * 24, 9), { shape: [3, 24] });
      const kept = await enqueueInSlices(model.device, planned());
      const wanted = await kept.data();
      kept.backward(weigh);
      const gradients = await gradientsOf(adapter);
      const cached = await recomputedInSlices(model.device, adapter.parameters(), planned);
      expect(await cached.data()).toEqual(wanted);
      cached.backward(weigh);
      expect(await gradientsOf(adapter)).toEqual(gradients);
      // Another plan has other masks.
      const other = await noGrad(() =>
        enqueueInSlices(model.device, plannedVectors(model.core, texts, how)()),
      );
      expect(await other.data()).not.toEqual(wanted);
    },
  );

  test('train all weights, too', async () => {
    const norms: number[] = [];
    for (const miniBatchSize of [undefined, 2]) {
      const model = await tiny();
      model.trainAll();
      norms.push((await firstStep(model, { miniBatchSize, lr: 1e-5 })).gradNorm);
    }
    expect(norms[1]! / norms[0]!).toBeCloseTo(1, 4);
  });
});

describe('rank', () => {
  const query = 'capital of Styria';
  const documents = ['Graz is it.', 'Styria has <|user|> forests.', 'A shop.'];

  /** The probability of "yes" against "no" behind a prompt, from all logits. */
  async function score(model: CausalLM, document: string): Promise<number> {
    const ids = relevanceIds(model.tokenizer, query, document);
    const { logits } = noGrad(() => model.forward([ids]));
    const all = await logits.data();
    logits.dispose();
    const last = all.subarray(all.length - 262);
    return 1 / (1 + Math.exp(last[261]! - last[260]!));
  }

  test('scores documents by the logits of "yes" and "no", and gives the best first', async () => {
    const model = await tiny();
    const wanted: number[] = [];
    for (const document of documents) wanted.push(await score(model, document));
    const ranked = await model.rank(query, documents);
    const scores = [...ranked].sort((a, b) => a.index - b.index).map((one) => one.score);
    expect(relativeError(scores, wanted)).toBeLessThan(1e-5);
    expect(ranked.map((one) => one.score)).toEqual([...scores].sort((a, b) => b - a));
    expect(await model.rank(query, documents, { topN: 1 })).toEqual(ranked.slice(0, 1));
    expect(await model.rank(query, [])).toEqual([]);
    const other = await model.rank(query, documents, { instruction: 'Find towns' });
    expect(other.map((one) => one.score)).not.toEqual(ranked.map((one) => one.score));
  });

  test('asks as Qwen3-Reranker is asked, and takes no special token from a text', async () => {
    const { tokenizer } = await tiny();
    const ids = relevanceIds(tokenizer, query, documents[1]!);
    expect(tokenizer.decode(ids)).toBe(
      '<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n' +
        '<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n<Query>: capital of Styria\n<Document>: Styria has <|user|> forests.' +
        '<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n',
    );
    expect(ids).not.toContain(258);
    expect(tokenizer.encode(documents[1]!)).toContain(258);
  });

  test('takes the logit of a head of one label, and refuses other models and texts', async () => {
    const head = { type: 'classify', labels: ['relevant'] } as const;
    const model = await CausalLM.fromPretrained(
      await tinyModel({ config: { max_position_embeddings: 1024 } }),
      { head },
    );
    models.push(model);
    const ranked = await model.rank(query, documents);
    const ids = documents.map((document) => relevanceIds(model.tokenizer, query, document));
    const logits = (await model.classify(ids)).map(({ scores }) => scores[0]!);
    for (const { index, score: own } of ranked)
      expect(own).toBeCloseTo(1 / (1 + Math.exp(-logits[index]!)), 5);

    const two = await CausalLM.fromPretrained(await tinyModel(), {
      head: { type: 'classify', labels: ['a', 'b'] },
    });
    models.push(two);
    await expect(two.rank('a', ['b'])).rejects.toThrow(
      /^\[rank\] expected document 0 with its query to have at most 128 tokens/,
    );
    const wide = await CausalLM.fromPretrained(
      await tinyModel({ config: { max_position_embeddings: 1024 } }),
      { head: { type: 'classify', labels: ['a', 'b'] } },
    );
    models.push(wide);
    await expect(wide.rank('a', ['b'])).rejects.toThrow(
      /expected a head of one label, .* but the model has 2/,
    );
    const plain = await CausalLM.fromPretrained(
      await tinyModel({ config: { max_position_embeddings: 1024 } }),
    );
    models.push(plain);
    await expect(plain.rank('a', ['b'])).rejects.toThrow(
      /expected "yes" and "no" to be tokens of the model, .* 3 and 2 tokens/,
    );
    await expect(model.rank(1 as never, [])).rejects.toThrow(
      '[rank] expected query to be a text but received 1',
    );
    await expect(model.rank('a', [1 as never])).rejects.toThrow(
      '[rank] expected documents to be a list of texts',
    );
    await expect(model.rank('a', [], { topN: 0 })).rejects.toThrow('[rank] expected topN');
  });
});

describe('runs', () => {
  /** A task that tiny models learn: the text with the same letter belongs to it. */
  const pairs: ContrastiveRow[] = [...'abcdefgh'].map((letter) => ({
    anchor: letter.repeat(3),
    positive: `${letter}${letter.toUpperCase()}`,
  }));
  const found: RankRow[] = [...'abcd'].flatMap((letter) =>
    [...'wxyz'].map((other) => ({ query: letter, positive: letter, negative: other })),
  );

  test('contrastive learns which texts belong together, and tells how well', async () => {
    const model = await tiny();
    model.addAdapter({ r: 8, targetModules: 'all-linear' }, { seed: 1 });
    const before = await evaluateRetrieval(model, pairs);
    const trainer = new Trainer({
      ...{ model, data: pairs, evalData: pairs, objective: 'contrastive', batchSize: 8, maxSteps: 40 },
      ...{
        lr: 1e-2,
        matryoshkaDims: [24, 8],
        evalEvery: 40,
        outDir: join(scratch, 'contrastive'),
        report: true,
      },
    });
    const events = [];
    for await (const event of trainer.run()) events.push(event);
    const steps = events.filter((event) => event.type === 'step');
    expect(steps.at(-1)!.loss).toBeLessThan(steps[0]!.loss / 2);
    expect(steps.at(-1)!.metrics).toEqual({ accuracy: expect.any(Number) });
    const [evaluated] = events.filter((event) => event.type === 'eval');
    expect(evaluated).toMatchObject({ score: evaluated!.metrics!['ndcg@10'] });
    const after = await evaluateRetrieval(model, pairs);
    expect(after.rows).toBe(8);
    expect(after.metrics['ndcg@10']).toBeGreaterThan(before.metrics['ndcg@10']!);
    expect(Object.keys(after.metrics)).toEqual(['ndcg@10', 'recall@1', 'recall@10', 'mrr@10']);
    expect(after.metrics['recall@10']).toBe(1);
    expect(after.metrics['recall@1']).toBeGreaterThan(0.7);
    expect(after.metrics['ndcg@10']).toBeCloseTo(evaluated!.metrics!['ndcg@10']!, 6);
  });

  test('rank learns which document answers, by RankNet’s loss of its scores', async () => {
    const model = await tiny();
    const [row] = found as [Extract<RankRow, { query: string }>];
    const [better, worse] = await Promise.all(
      [row.positive, row.negative].map(async (text) => {
        const { score } = (await model.rank(row.query, [text]))[0]!;
        return Math.log(score / (1 - score));
      }),
    );
    const alone = await evaluateRetrieval(model, [row], { objective: 'rank' });
    expect(alone.loss).toBeCloseTo(Math.log1p(Math.exp(worse! - better!)), 4);
    expect(alone.metrics).toMatchObject({
      margin: expect.closeTo(better! - worse!, 4),
      accuracy: Number(better! > worse!),
    });

    model.addAdapter({ r: 8, targetModules: 'all-linear' }, { seed: 1 });
    const how = { objective: 'rank', batchSize: 8 } as const;
    const trainer = new Trainer({
      model,
      data: found,
      evalData: found,
      ...how,
      maxSteps: 30,
      lr: 1e-2,
      evalEvery: 30,
    });
    const events = [];
    for await (const event of trainer.run()) events.push(event);
    const steps = events.filter((event) => event.type === 'step');
    expect(steps.at(-1)!.loss).toBeLessThan(steps[0]!.loss / 2);
    const after = await evaluateRetrieval(model, found, how);
    expect(after.metrics['accuracy']).toBeGreaterThan(0.9);
    // Of each query one document is relevant, and four are not.
    expect(after.metrics['recall@10']).toBe(1);
    expect(after.metrics['ndcg@10']).toBeGreaterThan(0.9);
  });

  test('rank trains a head of one label, whose logit is the score', async () => {
    const model = await CausalLM.fromPretrained(
      await tinyModel({ config: { max_position_embeddings: 1024 } }),
      { head: { type: 'classify', labels: ['relevant'] } },
    );
    models.push(model);
    const [row] = found as [Extract<RankRow, { query: string }>];
    const ids = [row.positive, row.negative].map((text) => relevanceIds(model.tokenizer, row.query, text));
    const [better, worse] = (await model.classify(ids)).map(({ scores }) => scores[0]!);
    const alone = await evaluateRetrieval(model, [row], { objective: 'rank' });
    expect(alone.loss).toBeCloseTo(Math.log1p(Math.exp(worse! - better!)), 4);
    model.addAdapter({ r: 4 }, { seed: 1 });
    const trainer = new Trainer({ model, data: [row], objective: 'rank', maxSteps: 8, lr: 1e-2 });
    await trainer.run();
    const after = await evaluateRetrieval(model, [row], { objective: 'rank' });
    expect(after.loss).toBeLessThan(alone.loss!);
  });

  test('rows of similar sentences have the rank correlation of their cosines', async () => {
    const model = await tiny();
    const sentences = ['abc', 'abd', 'xyz', 'q'];
    const vectors = await model.embed(sentences);
    const cosine = (i: number): number => vectors[0]!.reduce((sum, x, c) => sum + x * vectors[i]![c]!, 0);
    const data = [1, 2, 3].map((i) => ({
      sentence1: 'abc',
      sentence2: sentences[i]!,
      score: 10 * cosine(i),
    }));
    expect((await evaluateRetrieval(model, data)).metrics).toEqual({ spearman: expect.closeTo(1, 10) });
    const reversed = data.map((row) => ({ ...row, score: -row.score }));
    expect((await evaluateRetrieval(model, reversed)).metrics).toEqual({ spearman: expect.closeTo(-1, 10) });
    await expect(evaluateRetrieval(model, [data[0]!, { ...data[1]!, score: 'x' } as never])).rejects.toThrow(
      '[evaluateRetrieval] example 1: expected { sentence1, sentence2, score }',
    );
  });

  test.each<[what: string, options: object, message: string]>([
    ['a batch of one', { batchSize: 1 }, '[Trainer] expected a batchSize of at least 2'],
    ['packing', { packing: true }, '[Trainer] packing is for supervised fine-tuning'],
    [
      'beta',
      { beta: 0.1 },
      '[Trainer] expected beta with the objective dpo, kto, orpo, cpo, grpo but received it with contrastive',
    ],
    [
      'weights of nothing',
      { matryoshkaWeights: [1] },
      '[Trainer] expected matryoshkaWeights to be 0 numbers, one for each of matryoshkaDims, but received 1',
    ],
    [
      'no sizes',
      { matryoshkaDims: [0] },
      '[Trainer] expected matryoshkaDims to be a list of positive whole numbers',
    ],
    [
      'sizes beyond the vectors',
      { matryoshkaDims: [24, 25] },
      '[Trainer] expected matryoshkaDims of at most 24, which the vectors have, but received 25',
    ],
    [
      'scale of another objective',
      { objective: 'rank', scale: 3 },
      '[Trainer] expected scale with the objective contrastive but received it with rank',
    ],
  ])('%s is refused', async (_, options, message) => {
    const model = models.find(({ adapters }) => adapters.size > 0)!;
    const given = {
      model,
      data: rows,
      objective: 'contrastive',
      maxSteps: 1,
      batchSize: 2,
      ...options,
    } as TrainerOptions;
    expect(() => new Trainer(given)).toThrow(message);
  });

  test.each<[what: string, row: unknown, message: string]>([
    ['no positive', { anchor: 'a' }, 'expected "positive" to be a string but received undefined'],
    [
      'a number',
      { anchor: 'a', positive: 'b', negative: 3 },
      'expected "negative" to be a string or a list of strings but received 3',
    ],
    ['no ids', { anchorIds: [], positiveIds: [1] }, 'expected "anchorIds" to be token ids but received'],
    ['no row', 'a', 'expected a row { anchor, positive, negative? } or'],
  ])('%s in a row is refused', async (_, row, message) => {
    const model = models.find(({ adapters }) => adapters.size > 0)!;
    const data = [rows[0], row] as ContrastiveRow[];
    const trainer = new Trainer({ model, data, objective: 'contrastive', maxSteps: 1, batchSize: 2 });
    await expect(trainer.run()).rejects.toMatchObject({
      code: 'ERR_DATA',
      message: expect.stringContaining(message),
    });
  });
});

describe('files of rows', () => {
  const write = (name: string, data: readonly object[]): string => {
    const path = join(scratch, name);
    writeFileSync(path, data.map((row) => JSON.stringify(row)).join('\n'));
    return path;
  };

  test('contrastive rows are tokens, with the instruction before the anchor; what is too long keeps its end', async () => {
    const { tokenizer } = await tiny();
    const path = write('pairs.jsonl', [
      { q: 'cat', positive: 'dog', instruction: 'find: ' },
      { q: 'a', positive: '123456789', negative: 'b' },
    ]);
    const columns = { anchor: 'q' };
    const data = await loadDataset(path, { objective: 'contrastive', tokenizer, maxLength: 9, columns });
    const text = (ids: readonly number[]): string => tokenizer.decode([...ids]);
    const known = [...data] as { anchorIds: number[]; positiveIds: number[]; negativeIds: number[][] }[];
    expect(known.map(({ anchorIds }) => text(anchorIds))).toEqual(['<s>find: ct', '<s>a']);
    expect(known[1]).toMatchObject({
      positiveIds: tokenizer.encode('12345679'),
      negativeIds: [tokenizer.encode('b')],
    });
    expect(data).toMatchObject({ length: 2, truncated: 2, dropped: 0, maxLength: 9 });
    await expect(loadDataset(path, { objective: 'contrastive', tokenizer })).rejects.toThrow(
      /pairs\.jsonl:1: expected one of/,
    );
    await expect(loadDataset(path, { objective: 'contrastive', columns })).rejects.toThrow(
      /expected a tokenizer/,
    );
  });

  test('questions about documents are whole, or left out', async () => {
    const { tokenizer } = await tiny();
    const path = write('docs.jsonl', [
      { query: 'q', positive: 'a', negative: 'b', instruction: 'Find' },
      { query: 'q', positive: 'a'.repeat(400), negative: 'b' },
    ]);
    const data = await loadDataset(path, { objective: 'rank', tokenizer, maxLength: 600 });
    expect([...data]).toEqual([
      {
        query: 'q',
        positiveIds: relevanceIds(tokenizer, 'q', 'a', 'Find'),
        negativeIds: relevanceIds(tokenizer, 'q', 'b', 'Find'),
      },
    ]);
    expect(data.dropped).toBe(1);
  });
});

describe('figures', () => {
  test('NDCG, recall and reciprocal ranks', () => {
    expect(ndcg([1, 0, 1, 0], 10)).toBeCloseTo((1 + 1 / 2) / (1 + 1 / Math.log2(3)), 12);
    expect(ndcg([0, 0, 1], 2)).toBe(0);
    expect(ndcg([3, 2, 1], 10)).toBe(1);
    expect(ndcg([0, 0], 10)).toBe(0);
    expect(recall([0, 1, 0, 1], 2)).toBe(0.5);
    expect(recall([0, 0], 2)).toBe(0);
    expect([reciprocalRank([0, 0, 1], 10), reciprocalRank([0, 0, 1], 2)]).toEqual([1 / 3, 0]);
  });

  test('Spearman’s correlation, where equal values share their place', () => {
    expect(spearman([1, 2, 3, 4], [10, 20, 30, 45])).toBeCloseTo(1, 12);
    expect(spearman([1, 2, 3], [3, 2, 1])).toBeCloseTo(-1, 12);
    // scipy.stats.spearmanr([1, 2, 2, 4, 5], [5, 6, 7, 8, 7])
    expect(spearman([1, 2, 2, 4, 5], [5, 6, 7, 8, 7])).toBeCloseTo(0.763157894736842, 12);
    expect(spearman([1, 1], [1, 2])).toBeNaN();
  });
});
