// model.logProbs and model.hiddenStates: against TRL's numbers, against forward(), and with heads and vectors of adapters.
import { join } from 'node:path';
import { readFileSync } from 'node:fs';
import { CausalLM, tensor, type Adapter, type ErrorCode, type Tensor } from '../../lib/index';
import { labelLogProbs } from '../../lib/models/running/log_probs';
import { rowSums } from '../../lib/ops/rows';
import { noGrad } from '../../lib/tensor/scope';
import { expectReject } from '../support/errors';
import { fillAdapter } from '../support/fill_adapter';
import { relativeError } from '../support/numbers';
import { describeWithData } from '../support/shared_data';

// So that an adapted head computes ten positions at a time.
jest.mock('../../lib/ops/cross_entropy', () => ({
  ...jest.requireActual<object>('../../lib/ops/cross_entropy'),
  maxLogits: 3000,
}));

interface Score {
  adapter: boolean;
  temperature: number;
  log_probs: number[][];
}

describeWithData('of texts', 'models/stories260K', (folder) => {
  test('a completion is what a text has more than its prompt', async () => {
    const model = await CausalLM.fromPretrained(folder);
    const { tokenizer } = model;
    const [prompt, completion] = ['Once upon a t', 'ime, there was'];
    const before = tokenizer.encode(prompt);
    const after = tokenizer.encode(prompt + completion).slice(before.length);
    const of = await model.logProbs(prompt, completion);
    expect(of).toEqual(await model.logProbs(before, after));
    expect(of.ids).toEqual(after);
    const pieces = tokenizer.encode(completion, { addSpecialTokens: false });
    expect((await model.logProbs(before, completion)).ids).toEqual(pieces);
    expect(await model.logProbs([prompt, before], [completion, after])).toHaveLength(2);
    await model.dispose();
  });
});

const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);

describeWithData('log-probabilities', 'golden-objectives', (folder) => {
  const read = (name: string): unknown =>
    JSON.parse(readFileSync(join(folder, 'log-probs', name), 'utf8')) as unknown;
  const rows = read('rows.json') as { prompt_ids: number[]; completion_ids: number[] }[];
  const { scores } = read('record.json') as { scores: Score[] };
  const prompts = rows.map((row) => row.prompt_ids);
  const completions = rows.map((row) => row.completion_ids);
  const ids = rows.map((row) => [...row.prompt_ids, ...row.completion_ids]);
  const labels = rows.map((row) => [...row.prompt_ids.map(() => -100), ...row.completion_ids]);

  const opened = (device = 'cpu'): Promise<CausalLM> =>
    CausalLM.fromPretrained(join(folder, 'model'), { dtype: 'f32', device });

  test.each(['cpu', 'reference'])("of completions are TRL's, on %s", async (device) => {
    const model = await opened(device);
    const adapter = await model.loadAdapter(join(folder, 'log-probs', 'adapter_init'));
    for (const { adapter: on, temperature, log_probs: want } of scores) {
      const options = { adapter: on ? adapter : null, temperature };
      const all = await model.logProbs(prompts, completions, options);
      expect(all.map((one) => one.ids)).toEqual(completions);
      for (const [i, { logProbs, sum: total, mean }] of all.entries()) {
        expect(relativeError(logProbs, want[i]!)).toBeLessThan(1e-5);
        expect(Math.abs(total - sum(want[i]!))).toBeLessThan(1e-3);
        expect(mean).toBeCloseTo(total / want[i]!.length, 12);
      }
      const alone = await model.logProbs(prompts[1]!, completions[1]!, options);
      expect(relativeError(alone.logProbs, want[1]!)).toBeLessThan(1e-5);
    }
    await model.dispose();
  });

  describe('that objectives ask for', () => {
    let model: CausalLM;
    beforeAll(async () => {
      model = await opened();
    });
    afterAll(() => model.dispose());

    /** The same from logits that are held whole, in double. */
    const fromLogits = async (
      temperature: number,
      adapter: Adapter | null,
    ): Promise<{ logProbs: number[]; entropies: number[] }> => {
      const logProbs: number[] = [];
      const entropies: number[] = [];
      for (const [i, row] of ids.entries()) {
        const { logits } = noGrad(() => model.forward([row], { logits: true, adapter, train: false }));
        const values = await logits.data();
        const vocab = logits.shape[2]!;
        for (let t = prompts[i]!.length; t < row.length; t++) {
          const x = Array.from(values.subarray((t - 1) * vocab, t * vocab), (logit) => logit / temperature);
          const lse = Math.log(sum(x.map(Math.exp)));
          logProbs.push(x[row[t]!]! - lse);
          entropies.push(sum(x.map((logit) => Math.exp(logit - lse) * (lse - logit))));
        }
      }
      return { logProbs, entropies };
    };

    const gradients = (adapter: Adapter): Promise<ArrayLike<number>[]> =>
      Promise.all(
        adapter.parameters().map(async (p) => {
          const values = await p.grad!.data();
          p.grad = null;
          return values;
        }),
      );

    test.each([
      ['a plain head', 'plain', ['q_proj', 'down_proj']],
      ['an adapted head', 'adapted', ['q_proj', 'lm_head']],
    ])('%s: values, entropies and gradients are those of whole logits', async (_, name, targetModules) => {
      const adapter = model.addAdapter({ r: 4, targetModules }, { name });
      fillAdapter(adapter, 3, 0.3);
      const got = labelLogProbs(model.core, ids, labels, { adapter, temperature: 0.7, entropies: true });
      expect(got.counts).toEqual(completions.map((row) => row.length));
      const want = await fromLogits(0.7, adapter);
      expect(relativeError(await got.logProbs.data(), want.logProbs)).toBeLessThan(1e-5);
      expect(relativeError(await got.entropies!.data(), want.entropies)).toBeLessThan(1e-5);

      const expectSame = async (one: () => Tensor, other: () => Tensor): Promise<void> => {
        one().backward();
        const [a, b] = [await gradients(adapter), (other().backward(), await gradients(adapter))];
        for (const [i, gradient] of a.entries()) expect(relativeError(gradient, b[i]!)).toBeLessThan(1e-4);
      };
      await expectSame(
        () => labelLogProbs(model.core, ids, labels, { adapter }).logProbs.sum().mul(-1),
        () => model.forward(ids, { labels, adapter, reduction: 'sum' }).loss,
      );
      const { logProbs, counts } = labelLogProbs(model.core, ids, labels, { adapter });
      await expectSame(
        () =>
          rowSums(logProbs, counts)
            .mul(tensor(counts.map((_, i) => (i === 2 ? -3 : 0))))
            .sum(),
        () => model.forward([ids[2]!], { labels: [labels[2]!], adapter, reduction: 'sum' }).loss.mul(3),
      );
      await model.removeAdapter(name);
    });

    test('vectors of an adapter take no place, and predict the first token', async () => {
      const adapter = model.addAdapter({ method: 'prompt', numVirtualTokens: 3 }, { name: 'prompt' });
      const { logProbs, counts } = labelLogProbs(model.core, ids, ids, { adapter });
      expect(counts).toEqual(ids.map((row) => row.length));
      const loss = model.forward(ids, { labels: ids, adapter, reduction: 'sum' }).loss;
      expect(-(await logProbs.sum().item())).toBeCloseTo(await loss.item(), 2);
      const [first] = await model.logProbs([[]], [ids[0]!], { adapter });
      expect(
        relativeError(first!.logProbs, (await logProbs.data()).subarray(0, ids[0]!.length)),
      ).toBeLessThan(1e-5);
      await model.removeAdapter('prompt');
    });

    test('a row without labels takes no place', async () => {
      const own = labels.map((row, i) => (i === 1 ? row.map(() => -100) : row));
      const { logProbs, counts } = noGrad(() => labelLogProbs(model.core, ids, own));
      expect(counts[1]).toBe(0);
      const sums = await rowSums(logProbs, counts).data();
      expect(sums[1]).toBe(0);
      expect(sums[2]).toBeCloseTo((await model.logProbs(prompts[2]!, completions[2]!)).sum, 3);
    });

    test('what is wrong is said', async () => {
      const refused = async (
        call: () => Promise<unknown>,
        ...[code, text]: [ErrorCode, RegExp]
      ): Promise<void> => void (await expectReject(call(), code, text));
      await refused(() => model.logProbs([], [5]), 'ERR_ARGUMENT', /a prompt of at least one token/);
      await refused(() => model.logProbs([5], []), 'ERR_DATA', /a completion of at least one token/);
      await refused(
        () => model.logProbs([[5]], [[6], [7]]),
        'ERR_ARGUMENT',
        /a prompt for each of 2 completions/,
      );
      await refused(() => model.logProbs([5], [6], { temperature: 0 }), 'ERR_ARGUMENT', /temperature/);
      await refused(() => model.logProbs([5], [300000]), 'ERR_DATA', /ids from 0/);
      await refused(() => model.logProbs('a', 'b'), 'ERR_UNSUPPORTED', /tokenizer/);
      await refused(() => model.hiddenStates(ids, { layer: 99 }), 'ERR_ARGUMENT', /layer/);
      await refused(() => model.hiddenStates(ids, { pool: 'max' as never }), 'ERR_ARGUMENT', /pool/);
    });

    test('hidden states of a layer: of tokens, and pooled', async () => {
      const all = await model.hiddenStates(ids);
      expect(all.map((x) => x.shape[0])).toEqual(ids.map((row) => row.length));
      const size = all[0]!.shape[1]!;
      const mean = await (await model.hiddenStates(ids, { pool: 'mean' })).data();
      const last = await (await model.hiddenStates(ids, { layer: -1, pool: 'last' })).data();
      for (const [i, row] of ids.entries()) {
        const alone = await (
          await model.hiddenStates([row], { layer: model.config.layers.length })
        )[0]!.data();
        expect(relativeError(await all[i]!.data(), alone)).toBeLessThan(1e-5);
        const of = (values: ArrayLike<number>): number[] =>
          Array.from(values).slice(i * size, (i + 1) * size);
        expect(relativeError(of(last), alone.subarray(-size))).toBeLessThan(1e-5);
        const means = Array.from(
          { length: size },
          (_, c) => sum(row.map((_, t) => alone[t * size + c]!)) / row.length,
        );
        expect(relativeError(of(mean), means)).toBeLessThan(1e-5);
      }
    });

    test('hidden states of tokens are what they are behind vectors, layer by layer', async () => {
      const adapter = model.addAdapter({ method: 'prompt', numVirtualTokens: 3 }, { name: 'prompt' });
      const states = async (layer: number, of: Adapter | null): Promise<ArrayLike<number>> =>
        (await model.hiddenStates([ids[0]!], { layer, adapter: of }))[0]!.data();
      // The embeddings do not see what comes before them; the first block does.
      expect(relativeError(await states(0, adapter), await states(0, null))).toBe(0);
      expect(relativeError(await states(1, adapter), await states(1, null))).toBeGreaterThan(0.01);
      const layers = model.config.layers.length;
      expect(relativeError(await states(-layers - 1, null), await states(0, null))).toBe(0);
      expect(relativeError(await states(-2, null), await states(layers - 1, null))).toBe(0);
      // The head reads what the last norm gives.
      const [last] = await model.hiddenStates([ids[0]!], { adapter: null });
      const head = model.core.decoder.weights.head.output.weight.unpack();
      const { logits } = noGrad(() => model.forward([ids[0]!], { adapter: null }));
      expect(relativeError(await last!.matmul(head.transpose()).data(), await logits.data())).toBeLessThan(
        1e-5,
      );
      await model.removeAdapter('prompt');
    });
  });
});
