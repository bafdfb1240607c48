/** Many requests at once on the GPU: constraints, penalties, draws and adapters of rows, held against the CPU and against each alone. */
import { pagesOf } from '../../lib/ops/attention_paged';
import { rmSync } from 'node:fs';
import {
  CausalLM,
  noGrad,
  setThreads,
  type Device,
  type GenerateOptions,
  type Tensor,
} from '../../lib/index';
import { PagePool } from '../../lib/engine/pages';
import { binding } from '../../lib/native/calls';
import { writeBytes } from '../../lib/tensor/create';
import { rawView } from '../../lib/tensor/raw';
import { gpu, onGpu } from '../support/emulated';
import { expectReject } from '../support/errors';
import { fillAdapter } from '../support/fill_adapter';
import { relativeError } from '../support/numbers';
import { tinyModel } from '../support/tiny_model';

const directories: string[] = [];
const models: CausalLM[] = [];
afterEach(async () => {
  for (const model of models.splice(0)) await model.dispose();
  for (const dir of directories.splice(0)) rmSync(dir, { recursive: true });
});

/** Adapters of different ranks, kinds and layers; `whole` has rows of its own. */
const adapters = {
  a: { r: 2, targetModules: 'all-linear' },
  b: { r: 5, targetModules: ['q_proj', 'down_proj'] },
  dora: { r: 3, targetModules: 'all-linear', useDora: true },
  wide: { r: 9, targetModules: ['v_proj', 'o_proj', 'gate_proj'], useDora: true },
  whole: { r: 2, targetModules: ['v_proj'], modulesToSave: ['lm_head'] },
} as const;

/** The same model on each device. */
async function load(dtype: 'f32' | 'bf16', ...devices: Device[]): Promise<CausalLM[]> {
  const dir = await tinyModel({ config: { tie_word_embeddings: false, num_hidden_layers: 2 } });
  directories.push(dir);
  const loaded: CausalLM[] = [];
  setThreads(1); // tiny matrices
  for (const device of devices) {
    const model = await CausalLM.fromPretrained(dir, { device, dtype });
    models.push(model);
    loaded.push(model);
    for (const [i, [name, config]] of Object.entries(adapters).entries())
      fillAdapter(model.addAdapter({ ...config, loraAlpha: 8 }, { name, seed: i }), i + 1, 0.3);
    model.setAdapter(null);
  }
  return loaded;
}

const text = (length: number, seed: number): number[] =>
  Array.from({ length }, (_, i) => (i * 7 + seed * 13) % 256);
const jsonSchema = {
  type: 'object',
  properties: { n: { type: 'integer', minimum: 0, maximum: 99 }, s: { type: 'string', maxLength: 3 } },
  required: ['n', 's'],
} as const;

/** What a server is asked at once: every option of a draw, and every kind of adapter. One text passes the end of a page of 64. */
const wishes: ({ prompt: number[] } & GenerateOptions)[] = [
  { prompt: text(5, 1), adapter: null, temperature: 0, ignoreEos: true },
  { prompt: text(6, 2), adapter: 'a', temperature: 0, jsonSchema },
  {
    prompt: text(3, 3),
    adapter: 'b',
    temperature: 0.8,
    topK: 20,
    topP: 0.9,
    minP: 0.02,
    seed: 3,
    logprobs: 3,
    ignoreEos: true,
  },
  {
    prompt: text(9, 4),
    adapter: 'dora',
    temperature: 0,
    repetitionPenalty: 1.3,
    logitBias: new Map([
      [7, 1.5],
      [98, -Infinity],
    ]),
    logprobs: 2,
    ignoreEos: true,
  },
  {
    prompt: text(62, 5),
    adapter: 'wide',
    temperature: 1,
    presencePenalty: 0.5,
    frequencyPenalty: 0.25,
    seed: 5,
    logprobs: 0,
    ignoreEos: true,
  },
  { prompt: text(4, 6), adapter: 'dora', temperature: 1, topP: 0.95, seed: 6, jsonSchema, logprobs: 1 },
  { prompt: text(7, 7), adapter: 'whole', temperature: 0, logprobs: 1, ignoreEos: true },
  {
    prompt: text(5, 8),
    adapter: 'a',
    temperature: 1.2,
    minP: 0.1,
    seed: 8,
    n: 2,
    logprobs: 0,
    ignoreEos: true,
  },
];

const maxNewTokens = 6;

interface Texts {
  /** By the index of the text. */
  ids: number[][];
  /** Those that were asked for, of the tokens drawn and of the likeliest. */
  logprobs: number[];
  tops: number[];
}

async function ask(model: CausalLM, { prompt, ...options }: (typeof wishes)[number]): Promise<Texts> {
  const seen: Texts = { ids: [], logprobs: [], tops: [] };
  const events = [];
  for await (const event of model.generate(prompt, { maxNewTokens, ...options })) events.push(event);
  events.sort((a, b) => (a.index ?? 0) - (b.index ?? 0)); // texts of one call come as they are made
  for (const { id, index = 0, logprob, topLogprobs = [] } of events) {
    (seen.ids[index] ??= []).push(id);
    if (logprob !== undefined) seen.logprobs.push(logprob);
    for (const top of topLogprobs) {
      seen.logprobs.push(top.logprob);
      seen.tops.push(top.id);
    }
  }
  return seen;
}
const together = (model: CausalLM, all = wishes): Promise<Texts[]> =>
  Promise.all(all.map((wish) => ask(model, wish)));

onGpu('requests of every kind at once give the ids of the CPU', async () => {
  const [cuda, cpu] = (await load('f32', gpu, 'cpu')) as [CausalLM, CausalLM];
  const [got, wanted] = [await together(cuda), await together(cpu)];
  for (const [i, { ids, tops, logprobs }] of got.entries()) {
    expect([i, ids, tops]).toEqual([i, wanted[i]!.ids, wanted[i]!.tops]);
    logprobs.forEach((value, j) => expect(Math.abs(value - wanted[i]!.logprobs[j]!)).toBeLessThan(1e-5));
  }
});

onGpu('tokens are not proposed, since a text would have other roundings with them', async () => {
  const [model] = (await load('f32', gpu)) as [CausalLM];
  await expectReject(
    model.generate(text(5, 1), { speculate: true }),
    'ERR_UNSUPPORTED',
    /^\[generate\] speculate is for models on the CPU, .*; this one is on cuda/,
  );
});

const rows = [text(3, 1), text(4, 2), text(18, 3), text(2, 4), text(3, 5)];
const who = ['a', 'dora', 'wide', null, 'b'];

for (const [dtype, bound] of [
  ['f32', 1e-6],
  ['bf16', 2e-2],
] as const)
  onGpu(
    `rows with LoRA, DoRA and other ranks share a call in ${dtype}, and are what they are alone`,
    async () => {
      const [model] = (await load(dtype, gpu)) as [CausalLM];
      const logitsOf = async (ids: number[][], adapter: string | null | (string | null)[]) =>
        noGrad(() => model.forward(ids, { logits: true, adapter })).logits.data();
      const made = jest.spyOn(binding(), 'createDeltaTable');
      const all = await logitsOf(rows, who);
      expect(made).toHaveBeenCalledTimes(1);
      jest.restoreAllMocks();
      const width = all.length / rows.length;
      for (const [i, row] of rows.entries()) {
        const alone = await logitsOf([row], who[i]!);
        const error = relativeError(all.subarray(i * width, i * width + alone.length), alone);
        expect(error).toBeLessThan(bound);
      }
    },
  );

onGpu('requests in company are what they are alone, bit for bit', async () => {
  const [model] = (await load('bf16', gpu)) as [CausalLM];
  // How the keys of a longer text are cut depends on the number of rows.
  const short = wishes.filter(({ prompt }) => prompt.length + maxNewTokens <= 32);
  const alone: Texts[] = [];
  for (const wish of short) alone.push(await ask(model, wish));
  expect(await together(model, short)).toEqual(alone);
});

onGpu('the pool of keys and values grows, though most of it was never written', async () => {
  const pool = new PagePool(
    { layers: [{ kind: 'attention', kvHeads: 2, headDim: 6 }], dtype: 'f32', device: gpu },
    2 ** 20,
  );
  const row = [1, 2, 3, 4, 5, 6];
  const rowOfPage3 = (): Tensor => rawView(pagesOf(pool, 0).v, 3 * 64 * 2 * 6, [6]);
  pool.take(4);
  writeBytes(rowOfPage3(), new Uint8Array(Float32Array.from(row).buffer));
  const before = pool.capacity;
  pool.take(before);
  expect(pool.capacity).toBeGreaterThan(before);
  expect([...(await rowOfPage3().data())]).toEqual(row);
  pool.clear();
});
