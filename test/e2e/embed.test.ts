/** Texts as vectors: the truths of Qwen3-Embedding and of a Gemma that sees in both directions, the files of sentence-transformers, lengths mixed in one call. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CausalLM, noGrad, openSafetensors, type Adapter, type EmbedOptions } from '../../lib/index';
import { floatsOf } from '../../lib/formats/floats';
import { fillAdapter } from '../support/fill_adapter';
import { relativeError } from '../support/numbers';
import { bias, sentenceModel, W1, W2, type SentenceModelOptions } from '../support/sentence_model';
import { describeWithData } from '../support/shared_data';
import { temporaryFolder } from '../support/temporary';
import { tinyModel, type TinyModelOptions } from '../support/tiny_model';

const scratch = temporaryFolder();
const models: CausalLM[] = [];
afterAll(async () => {
  for (const model of models) await model.dispose();
});

async function load(
  dir: string,
  options: Parameters<typeof CausalLM.fromPretrained>[1] = {},
): Promise<CausalLM> {
  const model = await CausalLM.fromPretrained(dir, options);
  models.push(model);
  return model;
}

/** A Gemma 3 whose tokens see both sides, with windows of 2 in most layers. */
const bothSides = {
  model_type: 'gemma3_text',
  hidden_act: null,
  sliding_window: 3,
  use_bidirectional_attention: true,
};

const tiny = async (options: TinyModelOptions = {}): Promise<CausalLM> => load(await tinyModel(options));

const flat = (rows: readonly Float32Array[]): number[] => rows.flatMap((row) => [...row]);
const length = (v: Float32Array): number => Math.hypot(...v);

describe.each(['tiny-qwen3-embed', 'tiny-gemma3-embed'])('%s', (name) => {
  describeWithData('truth of transformers', `golden-families/${name}`, (dir) => {
    const { pooling } = JSON.parse(readFileSync(join(dir, 'record.json'), 'utf8')) as {
      pooling: 'last' | 'mean';
    };
    const batches = JSON.parse(readFileSync(join(dir, 'batches.json'), 'utf8')) as Record<
      'right' | 'left',
      { ids: number[][]; attention_mask: number[][] }
    >;
    const truth = async (key: string): Promise<Float32Array> => {
      const file = await openSafetensors(join(dir, 'embeddings.safetensors'));
      const floats = floatsOf(file.tensors.get(key)!);
      file.close();
      return floats;
    };

    test.each([
      ['cpu', 'right'],
      ['cpu', 'left'],
      ['reference', 'right'],
    ] as const)('on %s, rows padded %s', async (device, side) => {
      const model = await load(join(dir, 'model'), { dtype: 'f32', device });
      const { ids, attention_mask: mask } = batches[side];
      const rows = ids.map((row, i) => row.filter((_, t) => mask[i]![t] === 1));
      const wanted = await truth(`${side}.embedding`);
      const size = wanted.length / rows.length;
      const given = { pool: pooling };
      // Packed in one row, padded in rows of their own, alone; and by what the files say.
      expect(relativeError(flat(await model.embed(rows, given)), wanted)).toBeLessThan(2e-6);
      const padded = await model.embed(rows, { ...given, adapter: rows.map(() => null) });
      expect(relativeError(flat(padded), wanted)).toBeLessThan(2e-6);
      expect(relativeError(flat(await model.embed(rows)), wanted)).toBeLessThan(2e-6);
      for (const [i, row] of rows.entries()) {
        const [alone] = await model.embed([row], given);
        expect(relativeError(alone!, wanted.subarray(i * size, (i + 1) * size))).toBeLessThan(2e-6);
      }
      // Every token of a padded batch, behind the last norm.
      const states = await model.hiddenStates(rows);
      const last = await truth(`${side}.hidden`);
      const width = ids[0]!.length;
      for (const [i, state] of states.entries()) {
        const at = i * width + mask[i]!.indexOf(1);
        const own = last.subarray(at * size, (at + rows[i]!.length) * size);
        expect(relativeError(await state.data(), own)).toBeLessThan(5e-6);
        state.dispose();
      }
    });
  });
});

describe('a model that sees in both directions', () => {
  const rows = [[3, 9, 27, 81, 5, 4, 4, 1, 200], [7], [9, 9, 81, 5], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]];

  test('reads each text as if it were alone, whatever stands beside it', async () => {
    const model = await tiny({ config: bothSides });
    const alone = flat((await Promise.all(rows.map((row) => model.embed([row])))).flat());
    expect(relativeError(flat(await model.embed(rows)), alone)).toBeLessThan(1e-5);
    const padded = await model.embed(rows, { adapter: rows.map(() => null) });
    expect(relativeError(flat(padded), alone)).toBeLessThan(1e-5);
  });

  test('lets the first token see the last one, within its windows', async () => {
    const first = async (model: CausalLM, ids: number[]): Promise<number[]> => {
      const [state] = await model.hiddenStates([ids]);
      const floats = await state!.data();
      state!.dispose();
      return [...floats.subarray(0, model.config.hiddenSize)];
    };
    const sliding = await tiny({ config: { ...bothSides, layer_types: Array(3).fill('sliding_attention') } });
    const [a, b] = [
      [1, 2, 3, 4, 5],
      [1, 2, 3, 4, 6],
    ];
    // Three layers of |i − j| < 2 reach three tokens ahead, and no fourth.
    expect(await first(sliding, a)).toEqual(await first(sliding, b));
    expect(await first(sliding, a.slice(1))).not.toEqual(await first(sliding, b.slice(1)));
  });

  test('has gradients through attention in both directions, also where blocks are computed once more', async () => {
    const model = await tiny({ config: bothSides });
    const adapter = model.addAdapter({ r: 2, targetModules: 'all-linear' });
    fillAdapter(adapter, 5, 0.3);
    const gradients = async (gradientCheckpointing: boolean): Promise<string[]> => {
      const { logits } = model.forward(rows, { gradientCheckpointing });
      const loss = logits.square().mean();
      loss.backward();
      const all = await Promise.all(adapter.parameters().map(async (p) => String(await p.grad!.data())));
      for (const p of adapter.parameters()) {
        p.grad!.dispose();
        p.grad = null;
      }
      for (const t of [loss, logits]) t.dispose();
      return all;
    };
    const kept = await gradients(false);
    expect(kept.every((g) => g.split(',').some((x) => Number(x) !== 0))).toBe(true);
    expect(await gradients(true)).toEqual(kept);
    await model.removeAdapter('default');
  });

  test('continues no text', async () => {
    const model = await tiny({ config: bothSides });
    const sentence = 'this gemma3_text reads texts in both directions, so it predicts no next token';
    await expect(async () => model.generate('a')).rejects.toThrow(`[generate] ${sentence}`);
    expect(() => model.forward([[1, 2]], { labels: [[1, 2]] })).toThrow(`[forward] ${sentence}`);
    const { logits } = noGrad(() => model.forward([[1, 2]]));
    expect(logits.shape).toEqual([1, 2, 262]);
    logits.dispose();
  });
});

/** sentence-transformers' pipeline in f64: the mean of hidden states, tanh(W₁x), W₂x + b. */
async function pipeline(model: CausalLM, ids: number[], skipped = 0): Promise<number[]> {
  const [states] = await model.hiddenStates([ids]);
  const rows = await states!.data();
  states!.dispose();
  const counted = ids.length - skipped;
  const mean = Array.from(
    { length: 24 },
    (_, c) =>
      Array.from({ length: counted }, (_, t) => rows[(skipped + t) * 24 + c]!).reduce((a, b) => a + b, 0) /
      counted,
  );
  const product = (w: number[], x: number[]): number[] =>
    Array.from({ length: w.length / x.length }, (_, o) =>
      x.reduce((sum, v, i) => sum + v * Math.fround(w[o * x.length + i]!), 0),
    );
  return product(W2, product(W1, mean).map(Math.tanh)).map((v, o) => v + Math.fround(bias[o]!));
}

const unit = (v: readonly number[]): number[] => v.map((x) => x / Math.hypot(...v));

describe("sentence-transformers' files", () => {
  test('pooling, dense layers and normalization are those of its formulas', async () => {
    const model = await load(await sentenceModel());
    const texts = ['Hello', 'a much longer text than that', '?'];
    const wanted = await Promise.all(texts.map((text) => pipeline(model, model.tokenizer.encode(text))));
    expect(relativeError(flat(await model.embed(texts, { normalize: false })), wanted.flat())).toBeLessThan(
      1e-5,
    );
    expect(relativeError(flat(await model.embed(texts)), wanted.flatMap(unit))).toBeLessThan(1e-5);
    const cut = await model.embed(texts, { dimensions: 3 });
    expect(
      relativeError(
        flat(cut),
        wanted.flatMap((v) => unit(v.slice(0, 3))),
      ),
    ).toBeLessThan(1e-5);
    expect(length(cut[1]!)).toBeCloseTo(1, 6);
  });

  test('prompts are put before texts by name, as words, and by default', async () => {
    const prompts = { prompts: { query: 'find: ', document: '' }, default_prompt_name: 'query' };
    const model = await load(await sentenceModel({ prompts }));
    const wanted = async (text: string): Promise<number[]> =>
      unit(await pipeline(model, model.tokenizer.encode(text)));
    const made = async (options: EmbedOptions): Promise<number[]> =>
      flat(await model.embed(['cat'], options));
    expect(relativeError(await made({}), await wanted('find: cat'))).toBeLessThan(1e-5);
    expect(relativeError(await made({ instruction: 'query' }), await wanted('find: cat'))).toBeLessThan(1e-5);
    expect(relativeError(await made({ instruction: 'document' }), await wanted('cat'))).toBeLessThan(1e-5);
    expect(relativeError(await made({ instruction: '' }), await wanted('cat'))).toBeLessThan(1e-5);
    expect(relativeError(await made({ instruction: 'as: ' }), await wanted('as: cat'))).toBeLessThan(1e-5);
  });

  test('include_prompt: false leaves the tokens of the prompt out of the mean', async () => {
    const pooling = { pooling_mode_mean_tokens: true, include_prompt: false };
    const model = await load(await sentenceModel({ pooling }));
    const wanted = unit(await pipeline(model, model.tokenizer.encode('find: cat'), 6));
    const [made] = await model.embed(['cat'], { instruction: 'find: ' });
    expect(relativeError(made!, wanted)).toBeLessThan(1e-5);
  });

  test('of a text of nothing behind such a prompt, the last token counts', async () => {
    const modules = [{ path: '1_Pooling', type: 'sentence_transformers.models.Pooling' }];
    const pooling = { pooling_mode_mean_tokens: true, include_prompt: false };
    const model = await load(await sentenceModel({ pooling, modules, more: { tokenizer: true } }));
    const [made] = await model.embed([''], { instruction: 'find: ' });
    const [wanted] = await model.embed([model.tokenizer.encode('find: ')], { pool: 'last' });
    expect(relativeError(made!, wanted!)).toBeLessThan(1e-5);
  });

  test.each([
    ['pooling_mode_lasttoken', { pooling_mode_lasttoken: true }],
    ['the word of newer files', { pooling_mode: 'lasttoken' }],
  ])('the last token is pooled by %s', async (_, pooling) => {
    const modules = [{ path: '1_Pooling', type: 'sentence_transformers.models.Pooling' }];
    const model = await load(await sentenceModel({ pooling, modules }));
    const [made] = await model.embed(['Hello']);
    const [wanted] = await model.embed([model.tokenizer.encode('Hello')], { pool: 'last' });
    expect(made).toEqual(wanted);
    expect(made).toHaveLength(24);
    expect(made).not.toEqual((await model.embed(['Hello'], { pool: 'mean' }))[0]);
  });

  test.each<[what: string, files: SentenceModelOptions, code: string, message: RegExp]>([
    [
      'another pooling',
      { pooling: { pooling_mode_max_tokens: true } },
      'ERR_UNSUPPORTED',
      /pools by pooling_mode_max_tokens; supported are/,
    ],
    [
      'two poolings',
      { pooling: { pooling_mode_mean_tokens: true, pooling_mode_lasttoken: true } },
      'ERR_UNSUPPORTED',
      /pools by pooling_mode_mean_tokens and pooling_mode_lasttoken/,
    ],
    [
      'another module',
      { modules: [{ type: 'x.CNN', path: '1_Pooling' }] },
      'ERR_UNSUPPORTED',
      /names a module 'x\.CNN'/,
    ],
    [
      'a path out of the folder',
      { modules: [{ type: 'x.Pooling', path: '../1_Pooling' }] },
      'ERR_FILE',
      /expected the path of Pooling to be a folder beside it/,
    ],
    ['a parent', { modules: [{ type: 'x.Dense', path: '..' }] }, 'ERR_FILE', /expected the path of Dense/],
    [
      'another activation',
      { dense: { activation_function: 'torch.nn.modules.activation.ELU' } },
      'ERR_UNSUPPORTED',
      /activation_function torch\.nn\.modules\.activation\.ELU; supported are Identity, Tanh/,
    ],
    [
      'other sizes',
      { dense: { out_features: 6 } },
      'ERR_FILE',
      /expected linear\.weight of shape \[6, 24\] but received \[5, 24\]/,
    ],
    [
      'a bias that is not there',
      { dense: { bias: true } },
      'ERR_FILE',
      /expected linear\.bias of shape \[5\] but found none/,
    ],
  ])('%s is refused', async (_, files, code, message) => {
    const dir = await sentenceModel(files);
    await expect(CausalLM.fromPretrained(dir)).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message),
    });
  });

  test('save() writes them beside a merged model, into a new directory', async () => {
    const prompts = { prompts: { query: 'find: ' }, default_prompt_name: 'query' };
    const model = await load(await sentenceModel({ prompts }));
    fillAdapter(model.addAdapter({ r: 2 }), 3, 0.4);
    const out = join(scratch, 'saved');
    await model.save(out, { merge: 'default' });
    const saved = await load(out);
    expect(relativeError(flat(await saved.embed(['cat'])), flat(await model.embed(['cat'])))).toBeLessThan(
      1e-4,
    );
    await expect(model.save(out, { merge: 'default' })).rejects.toThrow(
      /saved is there already: save an embedding model, whose files are in several folders, to a new directory/,
    );
  });

  test('a text beyond max_seq_length is refused', async () => {
    const dir = await sentenceModel();
    writeFileSync(join(dir, 'sentence_bert_config.json'), JSON.stringify({ max_seq_length: 6 }));
    const model = await load(dir);
    await model.embed(['12345']);
    await expect(model.embed(['a', '123456'])).rejects.toThrow(
      '[embed] expected text 1 to have at most 6 tokens, since the max_seq_length of the model is 6, but it has 7',
    );
  });
});

describe('embed', () => {
  test('computes mixed lengths as each text alone, in other passes too, with several adapters', async () => {
    const model = await tiny({ config: { max_position_embeddings: 3000 } });
    const long = Array.from({ length: 2500 }, (_, i) => (i * 7) % 250);
    const rows = [[5], long, [1, 2, 3], long.slice(3, 1900), [9, 9]];
    const alone: Float32Array[] = [];
    for (const row of rows) alone.push((await model.embed([row]))[0]!);
    expect(relativeError(flat(await model.embed(rows)), flat(alone))).toBeLessThan(2e-5);

    const names = ['a', 'b'];
    for (const [i, name] of names.entries()) fillAdapter(model.addAdapter({ r: 2 }, { name }), i + 1, 0.4);
    const texts = ['one', 'another one', '3'];
    const adapter: (string | Adapter | null)[] = ['a', null, model.adapters.get('b')!];
    const each: Float32Array[] = [];
    for (const [i, text] of texts.entries())
      each.push((await model.embed([text], { adapter: adapter[i] }))[0]!);
    expect(relativeError(flat(await model.embed(texts, { adapter })), flat(each))).toBeLessThan(1e-5);
    const base = await model.embed(texts, { adapter: null });
    expect(each[0]).not.toEqual(base[0]);
    // The first adapter of a model is active.
    expect((await model.embed(['one']))[0]).toEqual(each[0]);
  });

  test('counts the vectors of a prompt neither in the mean nor as the last token', async () => {
    const model = await tiny();
    model.addAdapter({ method: 'prompt', numVirtualTokens: 4, promptTuningInit: 'random' }, { seed: 2 });
    const rows = [[1, 2, 3], [4], [5, 6, 7, 8, 9]];
    for (const pool of ['last', 'mean'] as const) {
      const pooled = await model.hiddenStates(rows, { pool });
      const wanted = await pooled.data();
      pooled.dispose();
      const made = await model.embed(rows, { pool, normalize: false });
      expect(relativeError(flat(made), wanted)).toBeLessThan(1e-5);
    }
    const room = { adapter: 'default' };
    // Of several adapters, the one that leaves the least room.
    model.addAdapter({ r: 2 }, { name: 'lora' });
    for (const adapter of [
      ['default', 'lora'],
      ['lora', 'default'],
    ])
      await expect(model.embed([[1], Array(125).fill(1)], { adapter })).rejects.toThrow(
        /at most 124 tokens, since/,
      );
    await expect(model.embed([Array(125).fill(1)], room)).rejects.toThrow(/at most 124 tokens, since/);
  });

  test('reads files that name tensors without the module of the base model', async () => {
    const dir = await tinyModel();
    const whole = await load(dir);
    const bare = await load(
      await tinyModel({
        config: { architectures: ['LlamaModel'] },
        edit: (tensors) => {
          for (const [name, tensor] of [...tensors]) {
            tensors.delete(name);
            tensors.set(name.replace(/^model\./, ''), tensor);
          }
        },
      }),
    );
    expect(await bare.embed(['Hello'])).toEqual(await whole.embed(['Hello']));
  });

  test.each<[what: string, texts: unknown, options: object, message: string]>([
    ['no list', 'Hello', {}, "[embed] expected a list of texts, or of rows of ids, but received 'Hello'"],
    [
      'an unknown pooling',
      [],
      { pool: 'max' },
      "[embed] expected pool to be 'last', 'mean' but received 'max'",
    ],
    ['an unknown option', [], { dims: 3 }, "[embed] unknown option 'dims'"],
    [
      'too many dimensions',
      [],
      { dimensions: 25 },
      '[embed] expected dimensions of at most 24, which the vectors have, but received 25',
    ],
    ['no dimension', [], { dimensions: 0 }, '[embed] expected dimensions'],
    [
      'words before ids',
      [[1]],
      { instruction: 'query' },
      '[embed] expected texts with an instruction but received ids',
    ],
    [
      'an id that there is not',
      [[1], [2, 262]],
      {},
      '[embed] expected ids from 0 to 261 but received 262 in text 1',
    ],
    ['nothing', [[1], []], {}, '[embed] expected text 1 to have a token but it has none'],
    ['a long text', ['a'.repeat(128)], {}, '[embed] expected text 0 to have at most 128 tokens'],
    [
      'too few adapters',
      ['a', 'b'],
      { adapter: [null] },
      '[embed] expected one adapter for each of 2 texts but received 1',
    ],
  ])('%s is refused', async (_, texts, options, message) => {
    const model = await plain;
    await expect(model.embed(texts as string[], options)).rejects.toThrow(message);
  });

  let plain: Promise<CausalLM>;
  beforeAll(() => {
    plain = tiny();
  });

  test('gives nothing for no text, and the reason of a signal', async () => {
    const model = await tiny();
    expect(await model.embed([])).toEqual([]);
    const reason = new Error('enough');
    await expect(model.embed(['a'], { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });
});
