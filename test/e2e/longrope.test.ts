/** Texts on both sides of longrope's original length: each by its own factors, whatever stands beside it. */
import { join } from 'node:path';
import { CausalLM, convertModel, noGrad } from '../../lib/index';
import { loadedModels, oneByOne, run, text, together, wishes, type Wish } from '../support/engine_requests';
import { fillAdapter } from '../support/fill_adapter';
import { bits, list, relativeError } from '../support/numbers';

const load = loadedModels();

/** Phi-4-mini in small: 6 of the 8 numbers of a head are rotated. */
const loadPhi = (original: number, device?: string): Promise<CausalLM> =>
  load(
    {
      tokenizer: false,
      config: {
        ...{ model_type: 'phi3', head_dim: 8, partial_rotary_factor: 0.75, max_position_embeddings: 512 },
        original_max_position_embeddings: original,
        rope_scaling: { type: 'longrope', short_factor: [1, 1.1, 1.4], long_factor: [1.5, 3, 7] },
      },
    },
    device,
  );

/** The logits of rows, each [tokens · vocab]. */
async function logitsOf(model: CausalLM, ids: number[][], segmentIds?: number[][]): Promise<number[][]> {
  const { logits } = noGrad(() => model.forward(ids, { segmentIds }));
  const [, width, vocab] = logits.shape as [number, number, number];
  const all = await list(logits);
  logits.dispose();
  return ids.map((row, i) => all.slice(i * width * vocab, (i * width + row.length) * vocab));
}

const rows = [12, 16, 17, 30].map((length, i) => text(length, i));

describe.each(['cpu', 'reference'])('on %s', (device) => {
  test('rows of a call and packed texts have the logits of each alone', async () => {
    const model = await loadPhi(16, device);
    const alone: number[][] = [];
    for (const row of rows) alone.push(...(await logitsOf(model, [row])));
    expect(await logitsOf(model, rows)).toEqual(alone);
    const segments = rows.flatMap((row, i) => row.map(() => i + 1));
    const [packed] = await logitsOf(model, [rows.flat()], [segments]);
    expect(relativeError(packed!, alone.flat())).toBeLessThan(1e-5);
  });
});

test('a block that is computed twice rotates by the same rows', async () => {
  const model = await loadPhi(16);
  const adapter = model.addAdapter({ r: 3, targetModules: 'all-linear' });
  fillAdapter(adapter, 3, 0.3);
  const gradients = [false, true].map((gradientCheckpointing) => {
    model.forward(rows, { labels: rows, gradientCheckpointing }).loss.backward();
    const found = bits(...adapter.parameters().map((p) => p.grad!));
    for (const p of adapter.parameters()) p.grad = null;
    return found;
  });
  expect(gradients[1]).toBe(gradients[0]);
});

test.each([
  ['short', 20, 0],
  ['long', 21, 0],
  ['short', 15, 5],
  ['long', 16, 5],
])(
  'a request goes by its prompt and what it may generate: %s with %i tokens behind 12 and %i vectors',
  async (_, maxNewTokens, vectors) => {
    const model = await loadPhi(32);
    if (vectors > 0) {
      const adapter = model.addAdapter({ method: 'prompt', numVirtualTokens: vectors }, { seed: 1 });
      fillAdapter(adapter, 2, 0.5);
    }
    const prompt = text(12, 1);
    const { ids } = await run(model, { prompt, maxNewTokens, temperature: 0, ignoreEos: true });
    const [logits] = await logitsOf(model, [[...prompt, ...ids]]);
    const { vocabSize } = model.config;
    const best = ids.map((_, i) => {
      const row = logits!.slice((11 + i) * vocabSize, (12 + i) * vocabSize);
      return row.indexOf(Math.max(...row));
    });
    expect(ids).toEqual(best);
  },
);

test('a GGUF file has the window, the rotated part and the factor on cos and sin', async () => {
  const model = await load({
    tokenizer: false,
    config: {
      ...{ model_type: 'phi3', head_dim: 44, partial_rotary_factor: 0.69, sliding_window: 7 },
      original_max_position_embeddings: 16,
      rope_scaling: {
        ...{ type: 'longrope', attention_factor: 1.25 },
        short_factor: Array.from({ length: 15 }, (_, i) => 1 + i / 10),
        long_factor: Array.from({ length: 15 }, (_, i) => 1.5 + i),
      },
    },
  });
  const file = join(model.directory, 'written.gguf');
  await convertModel(model.directory, file, { format: 'f32' });
  const read = await CausalLM.fromPretrained(file);
  expect(read.config.layers).toEqual(model.config.layers);
  expect(read.config.layers[0]).toMatchObject({ window: 7, rope: { width: 30 } });
  await read.dispose();
});

test('requests of both kinds in one step give the texts of each alone', async () => {
  const model = await loadPhi(40);
  const all = wishes(8); // of 13 to 69 positions
  const alone = await oneByOne(model, all);
  model.configureEngine();
  expect(await together(model, all)).toEqual(alone);
});

test('what was computed by the other factors is not read', async () => {
  const model = await loadPhi(160);
  const wish = (maxNewTokens: number): Wish => ({
    ...{ prompt: text(150, 1), maxNewTokens, temperature: 0, ignoreEos: true },
  });
  const cold: number[][] = [];
  for (const count of [10, 11]) {
    model.configureEngine();
    cold.push((await run(model, wish(count))).ids);
  }
  model.configureEngine();
  const found = [];
  for (const count of [10, 11, 10, 11]) {
    const { ids, usage } = await run(model, wish(count));
    found.push([usage.cachedTokens, ids]);
  }
  const wanted = [0, 0, 128, 128].map((cached, i) => [cached, cold[i % 2]]);
  expect(found).toEqual(wanted);
});
