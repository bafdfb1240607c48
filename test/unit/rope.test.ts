import { attentionLayers } from '../../lib/models/config/model_config';
import { parseModelConfig } from '../../lib/models/families';
import { inverseFrequencies, type RopeConfig, type RopeScaling } from '../../lib/models/config/rope';
import { RopeTable } from '../../lib/models/core/rope_tables';
import { memoryUsage } from '../../lib/index';
import { collectGarbage } from '../support/garbage';
import { tinyConfig } from '../support/tiny_model';

const plain: RopeConfig = { theta: 10000, scaling: { type: 'default' } };
const parse = (rope: object, changes: object = {}): RopeConfig =>
  attentionLayers(parseModelConfig({ ...tinyConfig, rope_scaling: rope, ...changes }))[0]!.rope;
const expectClose = (got: ArrayLike<number>, want: readonly number[]): void => {
  expect(got).toHaveLength(want.length);
  want.forEach((f, i) => expect(Math.abs(got[i]! / f - 1)).toBeLessThan(1e-14));
};

test('default and linear frequencies', () => {
  expectClose(inverseFrequencies(plain, 8), [1, 0.1, 0.01, 0.001]);
  const linear: RopeConfig = { theta: 10000, scaling: { type: 'linear', factor: 4 } };
  expectClose(inverseFrequencies(linear, 8), [0.25, 0.025, 0.0025, 0.00025]);
});

test('a proportional rope has the fast frequencies of the whole head, and no others', () => {
  const rope = parse({ rope_type: 'proportional', partial_rotary_factor: 0.5, factor: 4 });
  expect(rope).toEqual({ theta: 10000, scaling: { type: 'proportional', part: 0.5, factor: 4 } });
  expect([...inverseFrequencies(rope, 8)]).toEqual([0.25, 0.1 / 4, 0, 0]);
});

test('llama3 keeps short wavelengths, stretches long ones and blends those between', () => {
  const scaling = { type: 'llama3', factor: 8, lowFreqFactor: 1, highFreqFactor: 4 } as const;
  const at = (originalLength: number): Float64Array =>
    inverseFrequencies({ theta: 10000, scaling: { ...scaling, originalLength } }, 8);
  // Wavelengths 6.28, 62.8, 628, 6283 against 64 (kept below) and 256 (stretched above).
  expectClose(at(256), [1, 0.1, 0.01 / 8, 0.001 / 8]);
  // 628 lies between 250 and 1000.
  const smooth = (1000 / (2 * Math.PI * 100) - 1) / 3;
  expectClose(at(1000), [1, 0.1, ((1 - smooth) * 0.01) / 8 + smooth * 0.01, 0.001 / 8]);
});

describe('yarn', () => {
  type Yarn = Extract<RopeScaling, { type: 'yarn' }>;
  const scaling: Yarn = {
    type: 'yarn',
    factor: 4,
    attentionFactor: 1,
    betaFast: 32,
    betaSlow: 1,
    originalLength: 2048,
    truncate: true,
  };

  // The frequencies come from a Python program that was written from the paper: pair i turns original_length / wavelength(i)
  // times; above beta_fast turns it keeps its frequency, below beta_slow turns it is divided by the factor, between it is blended.
  const cases: [string, number, Partial<Yarn>, number[]][] = [
    ['the borders 1.008 and 2.513 are rounded outwards', 10000, {}, [1, 0.1, 0.00625, 0.00025]],
    [
      'without truncate they are taken as they are',
      10000,
      { truncate: false },
      [1, 0.1, 0.005056971521129434, 0.00025],
    ],
    [
      'an upper border beyond the last pair',
      100,
      { originalLength: 1000 },
      [1, 0.31622776601683794, 0.08125, 0.019764235376052375],
    ],
    ['a lower border before the first pair', 10000, { originalLength: 64 }, [1, 0.0625, 0.0025, 0.00025]],
    [
      'both borders before the first pair: a step instead of a ramp',
      10000,
      { originalLength: 60, betaSlow: 12 },
      [1, 0.025, 0.0025, 0.00025],
    ],
    [
      'an upper border beyond the head: it ends at the last dimension',
      10,
      { originalLength: 10000, betaFast: 1000 },
      [1, 0.5020904689199546, 0.24846467329894406, 0.12066895996692688],
    ],
  ];
  test.each(cases)('%s', (_, theta, changes, want) => {
    expectClose(inverseFrequencies({ theta, scaling: { ...scaling, ...changes } }, 8), want);
  });

  const yarn = { rope_type: 'yarn', factor: 4 };
  const scalingOf = (rope: object, changes: object = {}): Yarn => {
    const { scaling: found } = parse({ ...yarn, ...rope }, changes);
    if (found.type !== 'yarn') throw new Error(`parsed as ${found.type}`);
    return found;
  };

  test('has the defaults of transformers', () => {
    expect(scalingOf({}, { max_position_embeddings: 777 })).toEqual({
      ...scaling,
      attentionFactor: 0.1 * Math.log(4) + 1,
      originalLength: 777,
    });
    const rope = { factor: null, original_max_position_embeddings: 64 };
    expect(scalingOf(rope, { max_position_embeddings: 160 }).factor).toBe(2.5);
    expect(scalingOf({ beta_fast: 16, beta_slow: 2 })).toMatchObject({ betaFast: 16, betaSlow: 2 });
  });

  test.each([
    [false, false],
    [true, true],
    [null, true],
  ])('truncate %p counts as %p', (truncate, want) => {
    expect(scalingOf({ truncate }).truncate).toBe(want);
  });

  const magnitude = (mscale: number): number => 0.1 * mscale * Math.log(4) + 1;
  test.each<[object, number]>([
    [{}, magnitude(1)],
    [{ factor: 0.5 }, 1],
    [{ factor: 1 }, 1],
    [{ attention_factor: 1.5, mscale: 2, mscale_all_dim: 1 }, 1.5],
    [{ mscale: 0.7, mscale_all_dim: 0.7 }, 1],
    [{ mscale: 2, mscale_all_dim: 1 }, magnitude(2) / magnitude(1)],
    // One alone, or a zero, counts as none.
    [{ mscale: 2 }, magnitude(1)],
    [{ mscale_all_dim: 2 }, magnitude(1)],
    [{ mscale: 0, mscale_all_dim: 2 }, magnitude(1)],
    [{ mscale: 2, mscale_all_dim: 0 }, magnitude(1)],
  ])('%j scales cos and sin by %d', (rope, want) => {
    expect(scalingOf(rope).attentionFactor).toBeCloseTo(want, 14);
  });
});

describe('the table', () => {
  const config: RopeConfig = {
    theta: 50,
    scaling: {
      type: 'yarn',
      factor: 2,
      attentionFactor: 1.25,
      betaFast: 32,
      betaSlow: 1,
      originalLength: 64,
      truncate: true,
    },
  };
  const rows = (table: { cos: { shape: readonly number[] } }): number => table.cos.shape[0]!;

  test('holds cos and sin of position × frequency, times the attention factor', async () => {
    const table = new RopeTable(config, 6, 'cpu');
    const { cos, sin } = table.upTo(1);
    expect([cos.shape, sin.shape, cos.dtype]).toEqual([[256, 3], [256, 3], 'f32']);
    const inv = inverseFrequencies(config, 6);
    const angles = Array.from({ length: 256 }, (_, p) => [...inv].map((f) => p * f)).flat();
    expect([...(await cos.data())]).toEqual(angles.map((a) => Math.fround(1.25 * Math.cos(a))));
    expect([...(await sin.data())]).toEqual(angles.map((a) => Math.fround(1.25 * Math.sin(a))));
    table.dispose();
  });

  test('of longrope has the rows of short texts, then those of long ones', async () => {
    const [shortFactors, longFactors] = [[2], [8]];
    const scaling = {
      type: 'longrope',
      shortFactors,
      longFactors,
      attentionFactor: 1.5,
      originalLength: 3,
    } as const;
    const table = new RopeTable({ theta: 1, scaling, width: 2 }, 6, 'cpu');
    const { cos } = table.upTo(1);
    const positions = Array.from({ length: 256 }, (_, p) => p);
    const angles = [...[0, 1, 2].map((p) => p / 2), ...positions.map((p) => p / 8)];
    expect([...(await cos.data())]).toEqual(angles.map((a) => Math.fround(1.5 * Math.cos(a))));
    table.dispose();
  });

  test.each([
    [256, 256],
    [257, 512],
    [512, 512],
    [513, 1024],
    [5000, 8192],
  ])('for %i positions has %i rows', (positions, want) => {
    const table = new RopeTable(plain, 6, 'cpu');
    expect(rows(table.upTo(positions))).toBe(want);
    table.dispose();
  });

  test('is made once for as many rows as it has, grows when more are asked for, and frees what it had', async () => {
    await collectGarbage(); // of other tests
    const before = memoryUsage().bytes;
    const table = new RopeTable(plain, 6, 'cpu');
    const first = table.upTo(10);
    expect(table.upTo(256)).toBe(first);
    const start = await first.cos.data();
    const grown = table.upTo(257);
    expect(grown).not.toBe(first);
    expect([first.cos.disposed, first.sin.disposed]).toEqual([true, true]);
    expect((await grown.cos.data()).subarray(0, start.length)).toEqual(start);
    expect(table.upTo(3)).toBe(grown);
    table.dispose();
    expect(memoryUsage().bytes).toBe(before);
    expect(rows(table.upTo(3))).toBe(256);
    table.dispose();
  });
});
