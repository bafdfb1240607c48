/** What methods begin as, which layers they change, what they refuse, and what combinations are made of, value by value. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import {
  CausalLM,
  openSafetensors,
  readAdapter,
  setThreads,
  type Adapter,
  type AdapterConfigInput,
} from '../../lib/index';
import { floatsOf } from '../../lib/formats/floats';
import { combineLayers, combinePlan, type LayerParts } from '../../lib/peft/combine';
import { atOnce } from '../../lib/tensor/pace';
import { expectThrow } from '../support/errors';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

const out = temporaryFolder();
let model: CausalLM;
beforeAll(async () => {
  setThreads(1);
  model = await CausalLM.fromPretrained(await tinyModel());
});
afterAll(async () => {
  await model.dispose();
  rmSync(model.directory, { recursive: true });
});
afterEach(async () => {
  for (const name of [...model.adapters.keys()]) await model.removeAdapter(name);
});

const valuesOf = async (adapter: Adapter, ending: string): Promise<number[][]> =>
  Promise.all(
    adapter
      .parameters()
      .filter(({ name }) => name.endsWith(ending))
      .map(async (parameter) => [...(await parameter.data<Float32Array>())]),
  );

describe('first values', () => {
  test('of a bottleneck lie within 1/√width, and are others in each layer', async () => {
    const config = { method: 'bottleneck', bottleneckSize: 16, placement: 'houlsby' } as const;
    const layers = await valuesOf(model.addAdapter(config), 'down.weight');
    expect(layers).toHaveLength(6);
    const bound = 1 / Math.sqrt(model.config.hiddenSize);
    for (const values of layers) {
      const most = Math.max(...values.map(Math.abs));
      expect(most).toBeLessThanOrEqual(bound);
      expect(most).toBeGreaterThan(0.9 * bound);
    }
    expect(new Set(layers.map(([first]) => first)).size).toBe(6);
  });

  test('of IA³ are 1, or normal numbers that are others in each layer', async () => {
    const ones = await valuesOf(model.addAdapter({ method: 'ia3' }, { name: 'ones' }), 'ia3_l');
    expect(new Set(ones.flat())).toEqual(new Set([1]));
    const config = { method: 'ia3', initIa3Weights: false } as const;
    const layers = await valuesOf(model.addAdapter(config, { name: 'random' }), 'ia3_l');
    expect(new Set(layers.map(([first]) => first)).size).toBe(9);
  });
});

describe('IA³', () => {
  test('leaves out what is excluded', () => {
    const config = { method: 'ia3', excludeModules: ['layers.1.self_attn.k_proj', 'v_proj'] } as const;
    expect(model.addAdapter(config).targets).toEqual([
      'model.layers.0.self_attn.k_proj',
      'model.layers.0.mlp.down_proj',
      'model.layers.1.mlp.down_proj',
      'model.layers.2.self_attn.k_proj',
      'model.layers.2.mlp.down_proj',
    ]);
  });

  test('writes the names that all-linear stood for', async () => {
    const dir = join(out, 'all');
    const config = { method: 'ia3', targetModules: 'all-linear' } as const;
    await model.addAdapter(config).save(dir);
    const kinds = ['down', 'gate', 'k', 'o', 'q', 'up', 'v'].map((name) => `${name}_proj`);
    expect((await readAdapter(dir)).config['target_modules']).toEqual(kinds);
  });
});

test.each([1, -0.1, NaN])('a bottleneck does not drop with the probability %d', (dropout) => {
  const config: AdapterConfigInput = { method: 'bottleneck', dropout };
  expectThrow(
    () => model.addAdapter(config),
    'ERR_ARGUMENT',
    /^\[BottleneckConfig\] expected dropout to be a number from 0 up to, but not, 1 but received/,
  );
});

test('a whole module becomes part of a model of bf16 in bf16', async () => {
  const base = await tinyModel({ dtype: 'BF16', config: { tie_word_embeddings: false } });
  const narrow = await CausalLM.fromPretrained(base, { dtype: 'bf16' });
  narrow.addAdapter({ r: 2, modulesToSave: ['lm_head'] }, { name: 'whole' });
  const dir = join(out, 'merged');
  await narrow.save(dir, { merge: 'whole' });
  await narrow.dispose();
  const file = await openSafetensors(join(dir, 'model.safetensors'));
  expect(new Set([...file.tensors.values()].map(({ dtype }) => dtype))).toEqual(new Set(['BF16']));
  file.close();
  rmSync(base, { recursive: true });
});

describe('a combination', () => {
  /** A layer that adapters of rank 1 change, by their values of the down matrix. */
  const layer = (path: string, downs: readonly (readonly number[])[]): LayerParts => ({
    path,
    out: 1,
    in: downs[0]!.length,
    parts: downs.map((down) => ({
      up: Float32Array.of(1),
      down: Float32Array.from(down),
      r: 1,
      factor: 1,
    })),
  });
  const downs = (layers: readonly LayerParts[], settings: Parameters<typeof combinePlan>[2]): number[][] => {
    const plan = combinePlan('combine', layers[0]!.parts.length, settings);
    return atOnce(combineLayers(layers, plan, 'combine')).map(({ down }) => [...floatsOf(down)]);
  };

  test('weighs every adapter as 1 where no weights are given', () => {
    expect(combinePlan('combine', 3, {}).weights).toEqual([1, 1, 1]);
    expect(
      downs(
        [
          layer('a', [
            [1, 2],
            [10, 20],
          ]),
        ],
        { method: 'linear' },
      ),
    ).toEqual([[11, 22]]);
  });

  test('by ties has the sign of the larger sum, or of more adapters', () => {
    const layers = [layer('a', [[3], [-1], [-1]])];
    const settings = { method: 'ties', density: 1 } as const;
    expect(downs(layers, settings)).toEqual([[3]]);
    expect(downs(layers, { ...settings, majoritySignMethod: 'total' })).toEqual([[3]]);
    expect(downs(layers, { ...settings, majoritySignMethod: 'frequency' })).toEqual([[-1]]);
    expectThrow(
      () => combinePlan('combine', 2, { method: 'linear', majoritySignMethod: 'total' }),
      'ERR_ARGUMENT',
      '[combine] expected majoritySignMethod with ties but received it with linear',
    );
  });

  test('by dare_linear drops other values of each layer', () => {
    const same = Array.from({ length: 64 }, () => 1);
    const [first, second] = downs([layer('a', [same]), layer('b', [same])], {
      method: 'dare_linear',
      density: 0.5,
    });
    expect(first).not.toEqual(second);
  });
});
