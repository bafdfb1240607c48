/** Adapters combined into one, held against what PEFT made of the same. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { CausalLM, type CombineAdaptersOptions } from '../../lib';
import { floatsOf } from '../../lib/formats/floats';
import { openSafetensors } from '../../lib/formats/safetensors';
import { readAdapter } from '../../lib/peft/adapter_files';
import { combineLayers, combinePlan, type CombinedPart, type LayerParts } from '../../lib/peft/combine';
import { atOnce } from '../../lib/tensor/pace';
import { changeOf, distance } from '../support/adapter_change';
import { describeWithData, sharedData } from '../support/shared_data';
import { temporaryFolder } from '../support/temporary';

interface Recorded {
  adapters: string[];
  weights: number[];
  options: { combination_type: CombineAdaptersOptions['method']; svd_rank?: number; density?: number };
  relative_distance_to_exact_weighted_sum: number;
}

type Change = ReadonlyMap<string, Float64Array>;

describeWithData('combineAdapters', 'golden/merge-adapters', (golden) => {
  const root = temporaryFolder();
  let model: CausalLM;
  let count = 0;
  beforeAll(async () => {
    model = await CausalLM.fromPretrained(join(sharedData, 'models/stories260K'), { dtype: 'f32' });
    for (const name of ['a', 'b', 'c', 'x', 'y', 'z'])
      await model.loadAdapter(join(golden, name), { name, trainable: true });
  });
  afterAll(() => model.dispose());

  const changeIn = async (name: string): Promise<Change> => changeOf(await readAdapter(join(golden, name)));
  /** What a combination adds, read from the files that it saves. */
  async function combined(adapters: readonly string[], options: CombineAdaptersOptions): Promise<Change> {
    const name = `combined ${count++}`;
    const dir = join(root, String(count));
    await (await model.combineAdapters(adapters, { ...options, name })).save(dir);
    await model.removeAdapter(name);
    return changeOf(await readAdapter(dir));
  }
  async function exactSum(adapters: readonly string[], weights: readonly number[]): Promise<Change> {
    const changes = await Promise.all(adapters.map(changeIn));
    const sum = (path: string): Float64Array =>
      changes[0]!
        .get(path)!
        .map((_, i) => changes.reduce((all, one, k) => all + weights[k]! * one.get(path)![i]!, 0));
    return new Map([...changes[0]!.keys()].map((path) => [path, sum(path)]));
  }
  async function recordedChange(file: string): Promise<Change> {
    const opened = await openSafetensors(join(golden, file));
    const all = new Map(
      [...opened.tensors].map(([path, tensor]) => [path, Float64Array.from(floatsOf(tensor))]),
    );
    opened.close();
    return all;
  }

  const record = JSON.parse(readFileSync(join(golden, 'record.json'), 'utf8')) as Record<string, Recorded>;
  test.each(Object.entries(record))(
    '%s gives what PEFT gives',
    async (name, { adapters, weights, options, ...said }) => {
      const { combination_type: method, svd_rank: svdRank, density } = options;
      const ours = await combined(adapters, { weights, method, svdRank, density });
      // PEFT's own decomposition is in f32, ours in double.
      expect(distance(ours, await recordedChange(`delta_${name}.safetensors`))).toBeLessThan(
        method === 'svd' ? 5e-6 : 1e-6,
      );
      const off = distance(ours, await exactSum(adapters, weights));
      expect(Math.abs(off - said.relative_distance_to_exact_weighted_sum)).toBeLessThan(1e-6);
    },
  );

  test('cat and a svd of the full rank are the sum, with weights of any sign', async () => {
    const [names, weights] = [
      ['x', 'y', 'z'],
      [0.5, -2, 0],
    ];
    const sum = await exactSum(names, weights);
    expect(distance(await combined(names, { weights }), sum)).toBeLessThan(2e-7);
    expect(distance(await combined(names, { weights, method: 'svd', svdRank: 11 }), sum)).toBeLessThan(2e-6);
    expect(distance(await combined(names, { weights, method: 'svd', svdRank: 100 }), sum)).toBeLessThan(2e-6);
  });

  test('svd is the best approximation: what it leaves out is orthogonal to it', async () => {
    const [names, weights] = [
      ['x', 'y'],
      [0.6, 0.4],
    ];
    const sum = await exactSum(names, weights);
    const square = (values: Float64Array): number => values.reduce((all, value) => all + value * value, 0);
    for (const svdRank of [1, 5]) {
      const ours = await combined(names, { weights, method: 'svd', svdRank });
      for (const [path, values] of sum) {
        const own = ours.get(path)!;
        const rest = square(values) - square(own);
        expect(rest / square(values)).toBeGreaterThan(0.01);
        expect(
          Math.abs(square(values.map((value, i) => value - own[i]!)) - rest) / square(values),
        ).toBeLessThan(1e-6);
      }
    }
  });

  test('one adapter is itself by every method that keeps all, also against its sign', async () => {
    for (const weight of [1, -0.5])
      for (const method of ['cat', 'svd', 'linear', 'ties', 'magnitude_prune', 'dare_linear'] as const) {
        const density = ['ties', 'magnitude_prune', 'dare_linear'].includes(method) ? { density: 1 } : {};
        const ours = await combined(['y'], { weights: [weight], method, ...density });
        expect(distance(ours, await exactSum(['y'], [weight]))).toBeLessThan(1e-6);
      }
  });

  test('magnitude_prune keeps the largest values of each factor', async () => {
    const kept = await model.combineAdapters(['a'], {
      method: 'magnitude_prune',
      density: 0.3,
      name: 'kept',
    });
    const [whole, pruned] = [model.adapters.get('a')!, kept].map((adapter) => adapter.parameters());
    for (const [i, parameter] of pruned!.entries()) {
      const [before, after] = [await whole![i]!.data(), await parameter.data()].map((values) =>
        [...values].map(Number),
      );
      const order = before!.map(Math.abs).sort((p, q) => q - p);
      const least = order[Math.floor(0.3 * order.length) - 1]!;
      const root = Math.sqrt(2); // α/r of a is 2, half of it in each factor
      for (const [k, value] of before!.entries())
        expect(after![k]).toBeCloseTo(Math.abs(value) >= least ? value * root : 0, 6);
    }
    await model.removeAdapter('kept');
  });

  test('dare_linear keeps a share of the values, scaled up, by its seed', async () => {
    const values = async (seed: number, density = 0.25): Promise<number[]> => {
      const adapter = await model.combineAdapters(['a'], {
        method: 'dare_linear',
        density,
        seed,
        name: 'dare',
      });
      const all = await Promise.all(adapter.parameters().map((parameter) => parameter.data()));
      await model.removeAdapter('dare');
      return all.flatMap((part) => [...part].map(Number));
    };
    const [whole, first] = [await values(0, 1), await values(1)];
    const kept = first.filter((value) => value !== 0).length;
    // Five standard deviations of the count.
    const deviation = Math.sqrt(whole.length * 0.25 * 0.75);
    expect(Math.abs(kept - whole.length / 4)).toBeLessThan(5 * deviation);
    for (const [i, value] of first.entries()) if (value !== 0) expect(value).toBeCloseTo(4 * whole[i]!, 5);
    expect(await values(1)).toEqual(first);
    expect(await values(2)).not.toEqual(first);
  });

  test('the scale of an adapter counts, and the new one is not active', async () => {
    const a = model.adapters.get('a')!;
    a.scale = 0.5;
    try {
      expect(distance(await combined(['a'], {}), await exactSum(['a'], [0.5]))).toBeLessThan(1e-6);
    } finally {
      a.scale = 1;
    }
    const active = model.activeAdapter;
    const made = await model.combineAdapters(['a', 'b']);
    expect([made.name, made.trainable, model.activeAdapter]).toEqual(['combined', false, active]);
    expect(made.config).toMatchObject({
      r: 8,
      loraAlpha: 8,
      targetModules: ['down_proj', 'q_proj', 'v_proj'],
    });
    await model.removeAdapter('combined');
  });

  test('what is refused', async () => {
    const message = async (adapters: readonly string[], options: object): Promise<string> =>
      model.combineAdapters(adapters, options).then(
        () => 'combined',
        (error: Error) => error.message,
      );
    expect(await message(['x', 'y'], { method: 'linear' })).toContain(
      'expected adapters of one rank with linear but received 2, 6',
    );
    expect(await message(['a', 'b'], { weights: [1] })).toContain('2 numbers, one for each adapter');
    expect(await message(['a', 'b'], { method: 'ties' })).toContain('density');
    expect(await message(['a', 'b'], { method: 'ties', density: 0 })).toContain('density');
    expect(await message(['a', 'b'], { density: 0.5 })).toContain('expected density with ties');
    expect(await message(['a', 'b'], { svdRank: 2 })).toContain('expected svdRank with svd');
    expect(await message(['a', 'b'], { method: 'sum' })).toContain('method');
    expect(await message(['a', 'b'], { weigths: [1, 1] })).toContain("did you mean 'weights'?");
    expect(await message(['a', 'other'], {})).toContain('no adapter');
    expect(await message([], {})).toContain('expected a list of adapters');
    expect(await message(['a'], { name: 'b' })).toContain("already has an adapter 'b'");
    model.addAdapter({ r: 2, useDora: true, targetModules: ['q_proj'] }, { name: 'dora' });
    expect(await message(['a', 'dora'], {})).toContain("'dora' is no plain LoRA");
    await model.removeAdapter('dora');
    expect([...model.adapters.keys()].sort()).toEqual(['a', 'b', 'c', 'x', 'y', 'z']);
  });
});

describe('of small adapters', () => {
  type Factors = readonly [up: readonly number[], down: readonly number[]];
  /** What becomes of adapters of a layer of 2 by 2, a rank for each pair of factors. */
  function layerOf(parts: readonly Factors[], options: CombineAdaptersOptions) {
    const plan = combinePlan('test', parts.length, options);
    const part = ([up, down]: Factors): CombinedPart => ({
      ...{ up: Float32Array.from(up), down: Float32Array.from(down), r: up.length / 2, factor: 1 },
    });
    const layer: LayerParts = { path: 'layer', out: 2, in: 2, parts: parts.map(part) };
    const { r, up, down } = atOnce(combineLayers([layer], plan, 'test'))[0]!;
    return { r, up: [...floatsOf(up)], down: [...floatsOf(down)] };
  }

  test('svd takes the largest rank, whichever adapter has it', () => {
    const parts: Factors[] = [
      [
        [1, 0],
        [1, 0],
      ],
      [
        [1, 0, 0, 1],
        [2, 0, 0, 3],
      ],
    ];
    expect(layerOf(parts, { method: 'svd' }).r).toBe(2);
    expect(layerOf(parts.toReversed(), { method: 'svd' }).r).toBe(2);
  });

  test('ties: where signs balance, the positive values win, as in PEFT', () => {
    const parts: Factors[] = [
      [
        [1, 2],
        [3, -4],
      ],
      [
        [-1, -2],
        [-3, 4],
      ],
    ];
    expect(layerOf(parts, { method: 'ties', density: 1 })).toEqual({ r: 1, up: [1, 2], down: [3, 4] });
  });

  test('of equal magnitudes no more stay than the density says', () => {
    const parts: Factors[] = [
      [
        [1, -1, 1, -1],
        [-2, 2, 2, 2],
      ],
    ];
    const { up, down } = layerOf(parts, { method: 'magnitude_prune', density: 0.5 });
    expect([up, down]).toEqual([
      [1, -1, 0, 0],
      [-2, 2, 0, 0],
    ]);
  });
});
