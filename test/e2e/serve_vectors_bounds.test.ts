/** The bounds of /v1/classify, /v1/embeddings and /v1/rerank, and what of a model their answers are of. */
import { CausalLM, setThreads } from '../../lib/index';
import { fillAdapter } from '../support/fill_adapter';
import { servers } from '../support/serving';
import { byteTokenizer, tinyModel } from '../support/tiny_model';

const serve = servers();
const models: CausalLM[] = [];
beforeAll(() => setThreads(1)); // tiny matrices
afterAll(async () => {
  for (const model of models) await model.dispose();
});

type Head = NonNullable<NonNullable<Parameters<typeof CausalLM.fromPretrained>[1]>['head']>;
async function load(head?: Head): Promise<CausalLM> {
  const tokenizer = byteTokenizer() as { added_tokens: object[]; model: { vocab: Record<string, number> } };
  for (const [i, content] of ['yes', 'no'].entries()) {
    tokenizer.added_tokens.push({ id: 260 + i, content, special: false, normalized: false });
    tokenizer.model.vocab[content] = 260 + i;
  }
  const config = { max_position_embeddings: 640 };
  const model = await CausalLM.fromPretrained(await tinyModel({ tokenizer, config }), head && { head });
  models.push(model);
  return model;
}

describe('/v1/classify', () => {
  const problemType = 'multi_label_classification';
  const head = { type: 'classify', labels: ['a', 'b', 'c'], problemType } as const;

  test('gives every label that a text has, by sigmoids, of the base where that is named', async () => {
    const model = await load(head);
    fillAdapter(model.addAdapter({ r: 2 }, { name: 'active', activate: true }), 3, 0.4);
    const texts = ['one', 'another one', '?', 'much more of this than of that'];
    const wanted = await model.classify(texts, { adapter: null });
    expect(wanted.flatMap(({ labels }) => labels ?? []).length).toBeGreaterThan(0);
    const { post } = await serve(model, { modelName: 'base' });
    const { body } = await post('/v1/classify', { model: 'base', input: texts });
    expect(body['data']).toEqual(
      wanted.map(({ label, labels, scores }, index) => ({
        ...{ index, label, labels, num_classes: 3 },
        probs: scores.map((x) => expect.closeTo(x, 5)),
      })),
    );
    const active = await model.classify(texts);
    expect(Math.abs(active[0]!.scores[0]! - wanted[0]!.scores[0]!)).toBeGreaterThan(1e-3);
  });

  test('takes as many texts, ids and tokens as there may be, and no more', async () => {
    const model = await load(head);
    const { post } = await serve(model, { modelName: 'base' });
    const status = async (input: unknown): Promise<number> => (await post('/v1/classify', { input })).status;
    expect(await status(Array(2048).fill([65]))).toBe(200);
    expect(await status(Array(2049).fill([65]))).toBe(400);
    expect(await status([[261]])).toBe(200);
    const { body } = await post('/v1/classify', { input: [[1], [2, 262]] });
    const message = 'expected ids from 0 to 261 but received 262';
    expect(body['error']).toMatchObject({ message: expect.stringContaining(message), param: 'input' });
    expect(await status([Array(640).fill(65)])).toBe(200);
    expect(await status([Array(641).fill(65)])).toBe(400);
  });
});

test('/v1/embeddings takes 2,048 texts', async () => {
  const { post } = await serve(await load(), { modelName: 'base' });
  const { status, body } = await post('/v1/embeddings', { input: Array(2048).fill([65]) });
  expect([status, (body['data'] as unknown[]).length]).toEqual([200, 2048]);
  expect((await post('/v1/embeddings', { input: Array(2049).fill([65]) })).status).toBe(400);
});

test('/v1/rerank gives the texts that its places are of', async () => {
  const { post } = await serve(await load(), { modelName: 'base' });
  const documents = ['Graz', 'a town with hills', 'x', 'no', 'rivers'];
  const { status, body } = await post('/v1/rerank', { query: 'q', documents, return_documents: true });
  expect(status).toBe(200);
  const results = body['results'] as { index: number; relevance_score: number; document: { text: string } }[];
  expect(results.map(({ index }) => index).sort()).toEqual([0, 1, 2, 3, 4]);
  expect(results.map(({ index }) => index)).not.toEqual([0, 1, 2, 3, 4]); // else this tells nothing
  for (const { index, document } of results) expect(document).toEqual({ text: documents[index] });
  const scores = results.map((one) => one.relevance_score);
  expect(scores).toEqual([...scores].sort((a, b) => b - a));
});
