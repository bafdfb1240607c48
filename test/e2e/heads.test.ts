/** Heads of classes: transformers' models and PEFT's adapters of golden-families, and what a model with such a head does and refuses. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  CausalLM,
  openSafetensors,
  readAdapter,
  setThreads,
  writeAdapter,
  type Adapter,
  type LoRAError,
} from '../../lib/index';
import { fillAdapter } from '../support/fill_adapter';
import { sharedData } from '../support/shared_data';
import { tinyModel, type TinyModelOptions } from '../support/tiny_model';

const scratch = mkdtempSync(join(tmpdir(), 'lora-heads-'));
const models: CausalLM[] = [];
beforeAll(() => setThreads(1)); // tiny matrices
afterAll(async () => {
  await Promise.all(models.map((model) => model.dispose()));
  rmSync(scratch, { recursive: true });
});

type Head = NonNullable<Parameters<typeof CausalLM.fromPretrained>[1]>['head'];

async function open(dir: string, head?: Head): Promise<CausalLM> {
  const model = await CausalLM.fromPretrained(dir, { dtype: 'f32', ...(head && { head }) });
  models.push(model);
  return model;
}
const tiny = async (head: Head, options: TinyModelOptions = {}): Promise<CausalLM> =>
  open(await tinyModel(options), head);

/** The error of a call, at once or later. */
async function errorOf(call: Promise<unknown> | (() => unknown)): Promise<LoRAError> {
  try {
    await (typeof call === 'function' ? call() : call);
  } catch (error) {
    return error as LoRAError;
  }
  throw new Error('nothing was thrown');
}

const json = (...path: string[]) =>
  JSON.parse(readFileSync(join(...path), 'utf8')) as Record<string, unknown>;

async function floatsOf(path: string, name: string): Promise<Float32Array> {
  const file = await openSafetensors(path);
  const { bytes } = file.tensors.get(name)!;
  const floats = new Float32Array(bytes.slice().buffer);
  file.close();
  return floats;
}

function softmax(logits: readonly number[]): number[] {
  const powers = logits.map(Math.exp);
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((p) => p / sum);
}

const largestGap = (a: readonly number[], b: readonly number[]): number =>
  Math.max(...a.map((x, i) => Math.abs(x - b[i]!)), a.length === b.length ? 0 : Infinity);

const labels = ['refund', 'question', 'praise'];
const classify = { type: 'classify', labels } as const;
const texts = ['money back', 'hi', 'where is it, and how long does it take to come here?', 'good'];

describe.each(['tiny-llama-seqcls', 'tiny-qwen3-seqcls'])('%s', (name) => {
  const folder = join(sharedData, 'golden-families', name);
  const present = existsSync(folder);
  const run = present ? test : test.skip;

  /** Rows without their padding, and what the truth says of them. */
  async function rowsAnd(file: string): Promise<{ rows: number[][]; truth: number[][] }> {
    const batches = json(folder, 'batches.json') as { ids: number[][][]; attention_mask: number[][][] };
    const rows = batches.ids.flatMap((batch, b) =>
      batch.map((row, r) => row.filter((_, t) => batches.attention_mask[b]![r]![t])),
    );
    const logits = await floatsOf(join(folder, file), 'logits');
    return { rows, truth: rows.map((_, i) => [...logits.subarray(3 * i, 3 * i + 3)]) };
  }

  run('the head that config.json names gives the logits of the base', async () => {
    const model = await open(join(folder, 'model'));
    expect(model.config.head).toEqual({
      type: 'classify',
      labels: ['LABEL_0', 'LABEL_1', 'LABEL_2'],
      problemType: 'single_label_classification',
    });
    const { rows, truth } = await rowsAnd('base_logits.safetensors');
    const { logits } = model.forward(rows);
    expect(logits.shape).toEqual([rows.length, 3]);
    const values = await logits.data();
    for (const [i, want] of truth.entries())
      expect(largestGap([...values.subarray(3 * i, 3 * i + 3)], want)).toBeLessThan(1e-4);
    const found = await model.classify(rows);
    for (const [i, { scores, label }] of found.entries()) {
      expect(largestGap(scores, softmax(truth[i]!))).toBeLessThan(1e-4);
      expect(label).toBe(`LABEL_${truth[i]!.indexOf(Math.max(...truth[i]!))}`);
    }
  });

  run("PEFT's adapter gives its logits, merged too, and comes back as it was", async () => {
    const model = await open(join(folder, 'model'));
    const dir = join(folder, 'adapter_final');
    const adapter = await model.loadAdapter(dir);
    const { rows, truth } = await rowsAnd('final_logits.safetensors');
    const check = async (one: CausalLM): Promise<void> => {
      const found = await one.classify(rows);
      for (const [i, { scores }] of found.entries())
        expect(largestGap(scores, softmax(truth[i]!))).toBeLessThan(2e-4);
    };
    await check(model);

    const saved = join(scratch, `${name}-saved`);
    await adapter.save(saved);
    const [was, is] = [await readAdapter(dir), await readAdapter(saved)];
    expect(is.config).toEqual(was.config);
    expect([...is.tensors.keys()].sort()).toEqual([...was.tensors.keys()].sort());
    for (const [key, { bytes }] of was.tensors) expect(is.tensors.get(key)!.bytes).toEqual(bytes);
    expect(is.head).toEqual({
      type: 'classify',
      labels: ['LABEL_0', 'LABEL_1', 'LABEL_2'],
      problemType: 'single_label_classification',
    });

    const merged = join(scratch, `${name}-merged`);
    await model.save(merged, { merge: 'default' });
    const config = json(merged, 'config.json');
    expect(config['architectures']).toEqual(json(folder, 'model', 'config.json')['architectures']);
    expect(config['id2label']).toEqual({ 0: 'LABEL_0', 1: 'LABEL_1', 2: 'LABEL_2' });
    const [own, theirs] = await Promise.all(
      [join(merged, 'model.safetensors'), join(folder, 'merged.safetensors')].map((path) =>
        floatsOf(path, 'score.weight'),
      ),
    );
    expect(own).toEqual(theirs);
    await check(await open(merged));
  });
});

describe('a head that a program asks for', () => {
  test('begins with normal numbers of its seed, and ignores the head of the language model', async () => {
    const dir = await tinyModel({ config: { tie_word_embeddings: false, initializer_range: 0.1 } });
    const [a, again, other] = [
      await open(dir, classify),
      await open(dir, classify),
      await open(dir, { ...classify, seed: 7 }),
    ];
    const scoreOf = async (model: CausalLM): Promise<number[]> => {
      const score = model.core.linears().at(-1)!;
      expect([score.path, score.outFeatures, score.inFeatures]).toEqual(['score', 3, 24]);
      return [...(await score.rowMajor().data())];
    };
    const values = await scoreOf(a);
    expect(await scoreOf(again)).toEqual(values);
    expect(await scoreOf(other)).not.toEqual(values);
    const deviation = Math.sqrt(values.reduce((sum, x) => sum + x * x, 0) / values.length);
    expect(deviation).toBeGreaterThan(0.07);
    expect(deviation).toBeLessThan(0.13);
    expect(a.parameterCount).toBe(again.parameterCount);
    expect(a.config.head).toMatchObject({ labels, problemType: 'single_label_classification' });
  });

  test('is saved as the class of transformers, and read back from its config.json', async () => {
    const model = await tiny({ ...classify, problemType: 'multi_label_classification' });
    const dir = join(scratch, 'saved');
    await model.save(dir);
    expect(json(dir, 'config.json')).toMatchObject({
      architectures: ['LlamaForSequenceClassification'],
      id2label: { 0: 'refund', 1: 'question', 2: 'praise' },
      label2id: { refund: 0, question: 1, praise: 2 },
      problem_type: 'multi_label_classification',
      tie_word_embeddings: true,
    });
    const again = await open(dir);
    expect(again.config.head).toEqual({
      type: 'classify',
      labels,
      problemType: 'multi_label_classification',
    });
    expect(await again.classify(texts)).toEqual(await model.classify(texts));
  });

  test('gives names to labels of a file, and keeps its matrix', async () => {
    const dir = join(scratch, 'renamed');
    await (await tiny({ type: 'classify', labels: ['a', 'b'] })).save(dir);
    const [was, is] = [await open(dir), await open(dir, { type: 'classify', labels: ['no', 'yes'] })];
    const [own] = await is.classify(['text']);
    const [before] = await was.classify(['text']);
    expect(own!.scores).toEqual(before!.scores);
    expect(own!.label).toBe(before!.label === 'a' ? 'no' : 'yes');
    const error = await errorOf(open(dir, classify));
    expect(error.code).toBe('ERR_FILE');
    expect(error.message).toContain('score.weight of shape [3, 24] but received [2, 24]');
  });

  test('is refused with a sentence where it makes no sense', async () => {
    const dir = await tinyModel();
    const cases: [unknown, string][] = [
      [{ type: 'classify' }, 'expected labels with head'],
      [{ type: 'classify', labels: [] }, 'expected head.labels to be a list of names'],
      [{ type: 'classify', labels: ['a', 'a'] }, "expected each of head.labels once but received 'a' twice"],
      [
        { type: 'classify', labels: ['a'], problemType: 'single_label_classification' },
        'expected two labels',
      ],
      [{ type: 'classify', labels, problemType: 'multi' }, 'head.problemType'],
      [{ type: 'tokens', labels }, 'head.type'],
      [{ type: 'classify', label: labels }, "did you mean 'labels'"],
      ['classify', "expected head to be { type: 'classify', labels }"],
    ];
    for (const [head, sentence] of cases) {
      const error = await errorOf(open(dir, head as Head));
      expect(error.code).toBe('ERR_ARGUMENT');
      expect(error.message).toContain(sentence);
    }
  });

  test.each([
    [{ id2label: { 0: 'a', 2: 'b' } }, 'ERR_FILE', 'a name for each id'],
    [{ id2label: { 0: 'a', 1: 5 } }, 'ERR_FILE', 'a name for each id'],
    [{ problem_type: 'tokens' }, 'ERR_UNSUPPORTED', 'problem_type'],
  ])('config.json with %j is refused', async (config, code, sentence) => {
    const dir = join(
      scratch,
      `broken-${Object.keys(config)[0]}-${sentence.length}-${JSON.stringify(config).length}`,
    );
    await (await tiny({ type: 'classify', labels: ['a', 'b'] })).save(dir);
    writeFileSync(join(dir, 'config.json'), JSON.stringify({ ...json(dir, 'config.json'), ...config }));
    const error = await errorOf(open(dir));
    expect(error.code).toBe(code);
    expect(error.message).toContain(sentence);
  });

  test('names that config.json lacks are those of transformers', async () => {
    const dir = join(scratch, 'unnamed');
    await (await tiny({ type: 'classify', labels: ['a', 'b'] })).save(dir);
    const { id2label: _, label2id: __, problem_type: ___, ...rest } = json(dir, 'config.json');
    writeFileSync(join(dir, 'config.json'), JSON.stringify(rest));
    expect((await open(dir)).config.head).toMatchObject({
      labels: ['LABEL_0', 'LABEL_1'],
      problemType: 'single_label_classification',
    });
  });
});

describe('scores', () => {
  test('of a text are the same alone, padded among others, and in a packed row', async () => {
    const model = await tiny(classify);
    fillAdapter(model.addAdapter({ r: 4 }), 3, 0.3);
    const together = await model.classify(texts);
    for (const [i, text] of texts.entries()) {
      const [alone] = await model.classify([text]);
      expect(largestGap(alone!.scores, together[i]!.scores)).toBeLessThan(1e-5);
    }
    const ids = texts.map((text) => model.tokenizer.encode(text));
    const row = [...ids.flat(), 0, 0];
    const segments = [...ids.flatMap((own, i) => own.map(() => i + 1)), 0, 0];
    const { logits } = model.forward([row], { segmentIds: [segments] });
    expect(logits.shape).toEqual([4, 3]);
    const values = await logits.data();
    for (const [i, { scores }] of together.entries())
      expect(largestGap(softmax([...values.subarray(3 * i, 3 * i + 3)]), scores)).toBeLessThan(1e-5);
  });

  test('are read at the last token that is no padding', async () => {
    const model = await tiny(classify, { config: { pad_token_id: 0 } });
    const [bare, padded, within, nothing] = await model.classify([
      [256, 72, 101],
      [256, 72, 101, 0, 0],
      [256, 0, 72, 101],
      [0, 0, 0],
    ]);
    expect(padded!.scores).toEqual(bare!.scores);
    expect(largestGap(within!.scores, bare!.scores)).toBeGreaterThan(1e-4);
    const [first] = await model.classify([[0]]);
    expect(largestGap(nothing!.scores, first!.scores)).toBeLessThan(1e-6);
    const other = await tiny(classify);
    const [a, b] = await other.classify([
      [256, 72, 101],
      [256, 72, 101, 0, 0],
    ]);
    expect(largestGap(a!.scores, b!.scores)).toBeGreaterThan(1e-4);
  });

  test('of several adapters in one batch are those of each alone', async () => {
    const model = await tiny(classify);
    const one = model.addAdapter({ r: 4 }, { name: 'one' });
    const two = model.addAdapter({ r: 2, targetModules: ['q_proj', 'down_proj'] }, { name: 'two', seed: 5 });
    [one, two].forEach((adapter, i) => fillAdapter(adapter, 3 + i, 0.5));
    const adapter = ['one', two, null, 'one'];
    const mixed = await model.classify(texts, { adapter });
    for (const [i, text] of texts.entries()) {
      const [alone] = await model.classify([text], { adapter: adapter[i]! });
      expect(largestGap(alone!.scores, mixed[i]!.scores)).toBeLessThan(1e-5);
    }
    expect(
      largestGap(mixed[0]!.scores, (await model.classify([texts[0]!], { adapter: null }))[0]!.scores),
    ).toBeGreaterThan(1e-3);
  });

  test('follow from the logits by the type of the problem', async () => {
    const dir = await tinyModel();
    const logitsOf = async (model: CausalLM): Promise<number[]> => [
      ...(await model.forward([model.tokenizer.encode('text')]).logits.data()),
    ];
    const single = await open(dir, classify);
    const logits = await logitsOf(single);
    const [one] = await single.classify(['text']);
    expect(largestGap(one!.scores, softmax(logits))).toBeLessThan(1e-12);
    expect(one!.label).toBe(labels[logits.indexOf(Math.max(...logits))]);
    expect(one!.labels).toBeUndefined();

    const multi = await open(dir, { ...classify, problemType: 'multi_label_classification' });
    const [several] = await multi.classify(['text']);
    expect(
      largestGap(
        several!.scores,
        logits.map((x) => 1 / (1 + Math.exp(-x))),
      ),
    ).toBeLessThan(1e-12);
    expect(several!.labels).toEqual(labels.filter((_, i) => logits[i]! >= 0));
    expect(several!.label).toBe(one!.label);

    const number = await open(dir, { type: 'classify', labels: ['stars'] });
    expect(number.config.head!.problemType).toBe('regression');
    const [stars] = await number.classify(['text']);
    expect(stars).toEqual({ label: 'stars', scores: await logitsOf(number) });
  });

  test('of no text are none; what is no text is refused', async () => {
    const model = await tiny(classify);
    expect(await model.classify([])).toEqual([]);
    for (const [given, code] of [
      ['text', 'ERR_ARGUMENT'],
      [[5], 'ERR_ARGUMENT'],
      [[['a']], 'ERR_ARGUMENT'],
      [[[]], 'ERR_DATA'],
      [[[9999]], 'ERR_DATA'],
    ] as const)
      expect((await errorOf(model.classify(given as never))).code).toBe(code);
    expect((await errorOf(model.classify(['a'], { adapter: [null, null] }))).message).toContain(
      'one adapter for each of 1 texts',
    );
    expect((await errorOf(model.classify(['a'], { adapter: 'none' }))).code).toBe('ERR_ARGUMENT');
    const reason = new Error('enough');
    await expect(model.classify(['a'], { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });
});

describe('adapters beside a head', () => {
  const keyOfScore = 'base_model.model.score.weight';
  const scoreOf = (adapter: Adapter) => adapter.parameters().find(({ name }) => name === keyOfScore);

  test.each([[{ r: 2 }], [{ method: 'ia3' as const }]])(
    '%j trains score, and says so as PEFT does',
    async (config) => {
      const model = await tiny(classify);
      const before = await model.classify(texts);
      const adapter = model.addAdapter(config as { r: number });
      expect(scoreOf(adapter)!.shape).toEqual([3, 24]);
      for (const [i, { scores }] of (await model.classify(texts)).entries())
        expect(largestGap(scores, before[i]!.scores)).toBeLessThan(1e-6);
      expect(adapter.targets).toContain('score');
      const dir = join(scratch, `adapter-${JSON.stringify(config).length}`);
      await adapter.save(dir);
      const { config: saved, tensors } = await readAdapter(dir);
      expect(saved).toMatchObject({ task_type: 'SEQ_CLS', modules_to_save: ['classifier', 'score'] });
      expect(saved['target_modules']).not.toContain('score');
      expect(tensors.get(keyOfScore)!.shape).toEqual([3, 24]);
    },
  );

  test('a file may hold score without naming it, or name one of both', async () => {
    const model = await tiny(classify);
    const adapter = model.addAdapter({ r: 2 }, { name: 'was' });
    fillAdapter(adapter, 9, 0.5);
    const dir = join(scratch, 'unnamed-score');
    await adapter.save(dir);
    const want = await model.classify(texts, { adapter });
    const { config, tensors } = await readAdapter(dir);
    for (const [i, modules] of [null, [], ['score'], ['classifier']].entries()) {
      const found = await model.loadAdapter(
        { config: { ...config, modules_to_save: modules }, tensors },
        { name: `read-${i}` },
      );
      expect(await model.classify(texts, { adapter: found })).toEqual(want);
      await found.save(join(scratch, `again-${i}`));
      const again = await readAdapter(join(scratch, `again-${i}`));
      expect(again.config['modules_to_save']).toEqual(i === 2 ? ['score'] : ['classifier', 'score']);
    }
    tensors.delete(keyOfScore);
    const error = await errorOf(model.loadAdapter({ config, tensors }, { name: 'less' }));
    expect([error.code, error.message]).toEqual([
      'ERR_ADAPTER',
      expect.stringContaining(`it lacks ${keyOfScore}`),
    ]);
    // One that names none and holds none leaves the score of the base.
    const plain = await model.loadAdapter(
      { config: { ...config, modules_to_save: null }, tensors },
      { name: 'plain' },
    );
    expect(scoreOf(plain)).toBeUndefined();
  });

  test('one of other labels, or for a head that the model lacks, is refused', async () => {
    const dir = await tinyModel();
    const model = await open(dir, classify);
    const saved = join(scratch, 'of-labels');
    await model.addAdapter({ r: 2 }).save(saved);
    const other = await open(dir, { type: 'classify', labels: ['question', 'refund', 'praise'] });
    const swapped = await errorOf(other.loadAdapter(saved));
    expect(swapped.code).toBe('ERR_ADAPTER');
    expect(swapped.message).toContain(
      'trained for the labels refund, question, praise, and the model has question, refund, praise',
    );
    const plain = await open(dir);
    const headless = await errorOf(plain.loadAdapter(saved));
    expect(headless.code).toBe('ERR_ADAPTER');
    expect(headless.message).toContain(`head: { type: 'classify', labels: ["refund","question","praise"] }`);
    // A copy keeps the labels, and what they are written as is checked.
    await writeAdapter(join(scratch, 'copy'), await readAdapter(saved));
    expect((await readAdapter(join(scratch, 'copy'))).head).toEqual((await readAdapter(saved)).head);
    expect((await errorOf(other.loadAdapter(join(scratch, 'copy')))).code).toBe('ERR_ADAPTER');
  });

  test.each(['bottleneck', 'prompt'] as const)(
    '%s, which trains no module whole, is refused',
    async (method) => {
      const model = await tiny(classify);
      const error = await errorOf(async () =>
        model.addAdapter({ method, ...(method === 'prompt' && { numVirtualTokens: 2 }) } as never),
      );
      expect(error.code).toBe('ERR_UNSUPPORTED');
      expect(error.message).toContain("expected method 'lora' or 'ia3'");
    },
  );

  test('all-linear leaves score out, and merging puts it into the weights and back', async () => {
    const model = await tiny(classify);
    const before = await model.classify(texts);
    const adapter = model.addAdapter({ r: 2, targetModules: 'all-linear' });
    fillAdapter(adapter, 4, 0.4);
    const with_ = await model.classify(texts);
    await model.merge('default');
    for (const [i, { scores }] of (await model.classify(texts)).entries())
      expect(largestGap(scores, with_[i]!.scores)).toBeLessThan(1e-5);
    await model.unmerge();
    expect(await model.classify(texts, { adapter: null })).toEqual(before);
  });
});

test('what needs the head of a language model is refused', async () => {
  const model = await tiny(classify);
  const row = { inputIds: [256, 72, 101] };
  const calls: [string, () => unknown][] = [
    ['generate', () => model.generate('text')],
    ['forward', () => model.forward([row.inputIds], { labels: [row.inputIds] })],
    ['logProbs', () => model.logProbs('a', 'b')],
    ['evaluate', () => model.evaluate([row])],
  ];
  for (const [name, call] of calls) {
    const error = await errorOf(async () => call());
    expect([name, error.code]).toEqual([name, 'ERR_UNSUPPORTED']);
    expect(error.message).toContain('a head of classes');
  }
  const language = await open(await tinyModel());
  const error = await errorOf(language.classify(['text']));
  expect([error.code, error.message]).toEqual([
    'ERR_UNSUPPORTED',
    expect.stringContaining("load it with head: { type: 'classify', labels }"),
  ]);
});
