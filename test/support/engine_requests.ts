/** Requests for the engine of tiny models, which are run one by one or together. */
import { rmSync } from 'node:fs';
import {
  CausalLM,
  setThreads,
  type FromPretrainedOptions,
  type GenerateOptions,
  type GenerationResult,
} from '../../lib/index';
import { fillAdapter } from './fill_adapter';
import { tinyModel, type TinyModelOptions } from './tiny_model';

/** What loads tiny models, which are gone after each test. */
export function loadedModels(): (
  options?: TinyModelOptions,
  device?: string,
  loading?: FromPretrainedOptions,
) => Promise<CausalLM> {
  beforeAll(() => setThreads(1)); // tiny matrices
  const made: string[] = [];
  const models: CausalLM[] = [];
  afterEach(async () => {
    await Promise.all(models.splice(0).map((model) => model.dispose()));
    for (const dir of made.splice(0)) rmSync(dir, { recursive: true });
  });
  return async (options = {}, device = 'cpu', loading = {}) => {
    const dir = await tinyModel(options);
    made.push(dir);
    const model = await CausalLM.fromPretrained(dir, { ...loading, device });
    models.push(model);
    return model;
  };
}

/** A prompt. */
export const text = (length: number, seed: number): number[] =>
  Array.from({ length }, (_, i) => (i * 7 + seed * 13) % 256);

export interface Wish extends GenerateOptions {
  prompt: number[];
}
/** Requests that differ in prompt, length and temperature. */
export const wishes = (count: number, more: (i: number) => Partial<Wish> = () => ({})): Wish[] =>
  Array.from({ length: count }, (_, i) => ({
    prompt: text(3 + 5 * i, i),
    maxNewTokens: 10 + 3 * i,
    temperature: i % 2 ? 0.9 : 0,
    seed: i,
    ignoreEos: true,
    ...more(i),
  }));

export const run = async (model: CausalLM, { prompt, ...options }: Wish): Promise<GenerationResult> =>
  model.generate(prompt, options);

export async function oneByOne(model: CausalLM, all: readonly Wish[]): Promise<number[][]> {
  const ids: number[][] = [];
  for (const wish of all) ids.push((await run(model, wish)).ids);
  return ids;
}

export const together = async (model: CausalLM, all: readonly Wish[]): Promise<number[][]> =>
  (await Promise.all(all.map((wish) => run(model, wish)))).map(({ ids }) => ids);

/** Adapters of different ranks and layers. */
export function addAdapters(model: CausalLM): void {
  const configs = [
    { r: 2, targetModules: 'all-linear' },
    { r: 5, targetModules: ['q_proj', 'down_proj'] },
    { r: 3, targetModules: 'all-linear', useDora: true },
    { r: 2, targetModules: ['v_proj'], modulesToSave: ['lm_head'] },
  ] as const;
  for (const [i, config] of configs.entries())
    fillAdapter(model.addAdapter({ ...config }, { name: `a${i}`, seed: i }), i + 1, 0.3);
  model.setAdapter(null);
}

/** For wishes(): the base, or one of those adapters. */
export const adapterOf = (i: number): Partial<Wish> => ({
  adapter: [null, 'a0', 'a1', 'a0', 'a2', 'a3'][i % 6]!,
});
