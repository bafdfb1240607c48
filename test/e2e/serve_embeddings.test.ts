/** /v1/embeddings as OpenAI has it, /v1/rerank as Jina and Cohere have it. */
import { join } from 'node:path';
import { CausalLM } from '../../lib/index';
import { fillAdapter } from '../support/fill_adapter';
import { servers } from '../support/serving';
import { temporaryFolder } from '../support/temporary';
import { byteTokenizer, tinyModel } from '../support/tiny_model';

const serve = servers();
const folder = temporaryFolder();

let model: CausalLM;
beforeAll(async () => {
  const tokenizer = byteTokenizer() as { added_tokens: object[]; model: { vocab: Record<string, number> } };
  for (const [i, content] of ['yes', 'no'].entries()) {
    tokenizer.added_tokens.push({ id: 260 + i, content, special: false, normalized: false });
    tokenizer.model.vocab[content] = 260 + i;
  }
  const dir = await tinyModel({ tokenizer, config: { max_position_embeddings: 1024 } });
  model = await CausalLM.fromPretrained(dir);
  fillAdapter(model.addAdapter({ r: 2 }, { name: 'made' }), 3, 0.4);
  await model.adapters.get('made')!.save(join(folder, 'sql'));
  await model.removeAdapter('made');
});
afterAll(() => model.dispose());

const texts = ['Hi', 'Hello there'];

describe('/v1/embeddings', () => {
  test('gives vectors in the shape of OpenAI’s', async () => {
    const { post } = await serve(model, { modelName: 'base' });
    const { status, body } = await post('/v1/embeddings', { model: 'base', input: texts });
    const wanted = await model.embed(texts, { adapter: null });
    expect(status).toBe(200);
    expect(body).toEqual({
      object: 'list',
      model: 'base',
      data: wanted.map((vector, index) => ({ object: 'embedding', index, embedding: [...vector] })),
      usage: { prompt_tokens: 15, total_tokens: 15 },
    });
  });

  test('as base64, cut, of ids, of one text, behind an instruction, by an adapter', async () => {
    const { post } = await serve(model, { modelName: 'base', adapters: { sql: join(folder, 'sql') } });
    const asked = async (fields: object): Promise<unknown[]> => {
      const { body } = await post('/v1/embeddings', { input: 'Hi', ...fields });
      return (body['data'] as { embedding: unknown }[]).map(({ embedding }) => embedding);
    };
    const [vector] = await model.embed(['Hi'], { adapter: null });
    const bytes = Buffer.from((await asked({ encoding_format: 'base64' }))[0] as string, 'base64');
    expect(new Float32Array(new Uint8Array(bytes).buffer)).toEqual(vector);
    expect(await asked({ dimensions: 5 })).toEqual([
      [...(await model.embed(['Hi'], { adapter: null, dimensions: 5 }))[0]!],
    ]);
    const ids = model.tokenizer.encode('Hi');
    expect(await asked({ input: ids })).toEqual([[...vector!]]);
    expect(await asked({ input: [ids, ids] })).toEqual(
      [[...vector!], [...vector!]].map((v) => v.map((x) => expect.closeTo(x, 5))),
    );
    expect(await asked({ instruction: 'a ' })).toEqual(await asked({ input: 'a Hi' }));
    expect(await asked({ model: 'sql' })).not.toEqual([[...vector!]]);
  });

  test.each<[what: string, fields: object, status: number, code: string | null, param: string | null]>([
    ['nothing', { input: undefined }, 400, 'missing_required_parameter', 'input'],
    ['no text', { input: [] }, 400, null, 'input'],
    ['an object', { input: { a: 1 } }, 400, null, 'input'],
    ['too many', { input: Array(2049).fill('a') }, 400, null, 'input'],
    ['another encoding', { encoding_format: 'int8' }, 400, null, 'encoding_format'],
    ['no dimension', { dimensions: 0 }, 400, null, 'dimensions'],
    ['too many dimensions', { dimensions: 25 }, 400, null, null],
    ['a long text', { input: 'a'.repeat(2000) }, 400, null, null],
    ['a text that nothing spells', { input: 'a'.repeat(1e6) }, 400, 'context_length_exceeded', 'input'],
    ['an id that there is not', { input: [1, 400] }, 400, null, null],
    ['another model', { model: 'none' }, 404, 'model_not_found', 'model'],
  ])('refuses %s', async (_, fields, status, code, param) => {
    const { post } = await serve(model, { modelName: 'base' });
    const answer = await post('/v1/embeddings', { input: 'a', ...fields });
    expect(answer.status).toBe(status);
    expect(answer.body['error']).toMatchObject({ code, param });
  });
});

describe('/v1/rerank', () => {
  const query = 'capital of Styria';
  const documents = ['A shop.', 'Graz is it.', 'Forests'];

  test.each(['/v1/rerank', '/v2/rerank'])('%s gives documents in their order', async (path) => {
    const { post } = await serve(model, { modelName: 'base' });
    const ranked = await model.rank(query, documents, { adapter: null });
    const { status, body } = await post(path, { model: 'base', query, documents });
    expect(status).toBe(200);
    expect(body).toEqual({
      id: expect.stringMatching(/^req_/),
      object: 'list',
      model: 'base',
      results: ranked.map(({ index, score }) => ({ index, relevance_score: expect.closeTo(score, 6) })),
      usage: { prompt_tokens: expect.any(Number), total_tokens: expect.any(Number) },
      meta: { billed_units: { search_units: 1 } },
    });
    const given = documents.map((text) => ({ text }));
    const top = await post(path, { query, documents: given, top_n: 1, return_documents: true });
    expect(top.body['results']).toEqual([
      {
        index: ranked[0]!.index,
        relevance_score: expect.closeTo(ranked[0]!.score, 6),
        document: { text: documents[ranked[0]!.index] },
      },
    ]);
  });

  test.each<[what: string, fields: object, status: number, code: string | null, param: string | null]>([
    ['no query', { query: undefined }, 400, 'missing_required_parameter', 'query'],
    ['no documents', { documents: [] }, 400, null, 'documents'],
    ['numbers', { documents: [1] }, 400, null, 'documents'],
    ['too many', { documents: Array(1001).fill('a') }, 400, null, 'documents'],
    ['fields', { rank_fields: ['a'] }, 400, 'unsupported_parameter', 'rank_fields'],
    ['none of the best', { top_n: 0 }, 400, null, 'top_n'],
    ['another model', { model: 'none' }, 404, 'model_not_found', 'model'],
  ])('refuses %s', async (_, fields, status, code, param) => {
    const { post } = await serve(model, { modelName: 'base' });
    const answer = await post('/v1/rerank', { query, documents, ...fields });
    expect(answer.status).toBe(status);
    expect(answer.body['error']).toMatchObject({ code, param });
  });
});
