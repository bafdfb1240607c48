/** Several adapters as one: PEFT's add_weighted_adapter, computed in double and rounded once to f32. */
import { loraError } from '../errors';
import { Random } from '../data/random';
import { check, checkInteger, checkNumber, checkOneOf, describe, isListOf } from '../validate';
import { f32Tensor, type AdapterLayer } from './adapter_layers';
import type { AddAdapterOptions } from './adapter_set';
import { truncatedProduct } from './truncated_svd';

export const combineMethods = ['cat', 'svd', 'linear', 'ties', 'magnitude_prune', 'dare_linear'] as const;

/** How adapters become one. */
export type CombineMethod = (typeof combineMethods)[number];

/** The options of {@link CausalLM.combineAdapters}. */
export interface CombineAdaptersOptions extends AddAdapterOptions {
  /** The weight of each adapter, of any sign. Default: 1 for each. */
  weights?: readonly number[] | undefined;
  /**
   * How they become one. With sᵢ = α/r of adapter i and its `scale`:
   *
   *     cat, svd          Σ wᵢ·sᵢ·upᵢ·downᵢ, the sum itself, of rank Σ rᵢ; its best approximation of rank `svdRank`
   *     linear            (Σ √|wᵢ·sᵢ|·upᵢ)·(Σ ±√|wᵢ·sᵢ|·downᵢ): each factor is summed separately, which is not the sum
   *     magnitude_prune   the same, of the `density` largest magnitudes of each factor
   *     dare_linear       the same, of values kept with probability `density` and divided by it (Yu et al., 2024)
   *     ties              for each value, the mean over the adapters with the majority sign (Yadav et al., 2023)
   *
   * The last four give what PEFT's add_weighted_adapter gives; 'dare_linear' with its own random numbers. docs/guides/adapters.md says how far
   * each is from the sum. Of adapters that change experts only 'cat' and 'linear', for each expert. Default 'cat'.
   */
  method?: CombineMethod | undefined;
  /** The rank of 'svd'. Default: the largest of the adapters. */
  svdRank?: number | undefined;
  /** The share of values that 'ties', 'magnitude_prune' and 'dare_linear' keep, above 0 and at most 1. */
  density?: number | undefined;
  /** What 'ties' elects the sign of a value by: the sum of the values, or how many have it. Default 'total'. */
  majoritySignMethod?: 'total' | 'frequency' | undefined;
  /** Decides which values 'dare_linear' keeps, and the masks of dropout. Default 0. */
  seed?: number | undefined;
  /** Whether its parameters get gradients. Default false. */
  trainable?: boolean | undefined;
}

/** What an adapter adds to a layer: factor · up · down; to experts, as linear/expert_lora.ts has it. */
export interface CombinedPart {
  /** [out, r], or [out, r·experts] */
  readonly up: Float32Array;
  /** [r, in], or [experts·r, in] */
  readonly down: Float32Array;
  readonly r: number;
  /** The weight of the adapter, times its α/r. */
  readonly factor: number;
}

/** A layer, and the adapters that change it. */
export interface LayerParts {
  readonly path: string;
  readonly out: number;
  readonly in: number;
  /** How many experts have such a layer each; absent: it is none of experts. */
  readonly experts?: number;
  readonly parts: readonly CombinedPart[];
}

/** The methods that make of each expert what they make of a layer. */
export const methodsOfExperts: readonly CombineMethod[] = ['cat', 'linear'];

/** The settings of a combination, checked. */
export interface CombinePlan {
  readonly method: CombineMethod;
  readonly weights: readonly number[];
  readonly svdRank: number | undefined;
  readonly density: number;
  readonly majoritySignMethod: 'total' | 'frequency';
  readonly seed: number;
}

const pruning: readonly CombineMethod[] = ['ties', 'magnitude_prune', 'dare_linear'];

/** What of the options says how adapters are combined, without the seed. */
export const combineOptions = ['weights', 'method', 'svdRank', 'density', 'majoritySignMethod'] as const;
type CombineSettings = Pick<CombineAdaptersOptions, (typeof combineOptions)[number] | 'seed'>;

/** @throws ERR_ARGUMENT, also for a setting that the method does not read. */
export function combinePlan(op: string, count: number, settings: CombineSettings): CombinePlan {
  const { method = 'cat', svdRank, density, majoritySignMethod, seed } = settings;
  const { weights = new Array<number>(count).fill(1) } = settings;
  checkOneOf(op, 'method', method, combineMethods);
  const numbers = isListOf(weights, (weight) => typeof weight === 'number' && Number.isFinite(weight));
  check(
    numbers && weights.length === count,
    op,
    () => `expected weights to be ${count} numbers, one for each adapter, but received ${describe(weights)}`,
  );
  const only = (name: string, value: unknown, methods: readonly CombineMethod[]): void =>
    check(
      value === undefined || methods.includes(method),
      op,
      () => `expected ${name} with ${methods.join(', ')} but received it with ${method}`,
    );
  only('svdRank', svdRank, ['svd']);
  only('density', density, pruning);
  only('majoritySignMethod', majoritySignMethod, ['ties']);
  if (svdRank !== undefined) checkInteger(op, 'svdRank', svdRank, 1);
  if (pruning.includes(method)) {
    checkNumber(op, 'density', density);
    check(
      density > 0 && density <= 1,
      op,
      `expected density to be above 0 and at most 1 but received ${density}`,
    );
  }
  checkOneOf(op, 'majoritySignMethod', majoritySignMethod ?? 'total', ['total', 'frequency']);
  if (seed !== undefined) checkInteger(op, 'seed', seed);
  return {
    method,
    weights,
    svdRank,
    density: density ?? 1,
    majoritySignMethod: majoritySignMethod ?? 'total',
    seed: seed ?? 0,
  };
}

/** Zeroes all but the `keep` largest magnitudes; of equal ones the first stay. */
function largest(values: Float32Array, keep: number): Float64Array {
  const sizes = values.map(Math.abs).sort();
  const least = keep === 0 ? Infinity : sizes[sizes.length - keep]!;
  let equal = keep - sizes.reduce((count, size) => count + (size > least ? 1 : 0), 0);
  return Float64Array.from(values, (value) => {
    const size = Math.abs(value);
    return size > least || (size === least && equal-- > 0) ? value : 0;
  });
}

/** Keeps each value with the probability `density`, divided by it. */
const dropped = (values: Float32Array, density: number, random: Random): Float64Array =>
  Float64Array.from(values, (value) => (random.below(2 ** 32) < density * 2 ** 32 ? value / density : 0));

/** The values of several adapters in the place of one: Σ factors · pruned values, of 'ties' the mean over those with the sign of most. */
function mixed(
  values: readonly Float32Array[],
  factors: readonly number[],
  { method, density, majoritySignMethod }: CombinePlan,
  random: Random,
): Float32Array {
  const pruned = values.map((each) => {
    if (method === 'linear' || density === 1) return Float64Array.from(each);
    return method === 'dare_linear'
      ? dropped(each, density, random)
      : largest(each, Math.floor(density * each.length));
  });
  return Float32Array.from(pruned[0]!, (_, i) => {
    let sum = 0;
    if (method !== 'ties') {
      for (const [k, each] of pruned.entries()) sum += factors[k]! * each[i]!;
      return sum;
    }
    let sign = 0;
    for (const each of pruned) sign += majoritySignMethod === 'total' ? each[i]! : Math.sign(each[i]!);
    let count = 0;
    for (const [k, each] of pruned.entries())
      if (Math.sign(each[i]!) === (sign >= 0 ? 1 : -1)) {
        sum += factors[k]! * each[i]!;
        count++;
      }
    return sum / Math.max(count, 1);
  });
}

/** Column k of `up`, or row k of `down`. */
const columnOf = ({ up, r }: CombinedPart, k: number, factor: number): Float64Array =>
  Float64Array.from({ length: up.length / r }, (_, i) => factor * up[i * r + k]!);
const rowOf = ({ down, r }: CombinedPart, k: number): Float64Array =>
  Float64Array.from(down.subarray((k * down.length) / r, ((k + 1) * down.length) / r));

function layerOf(
  { path, out, in: inside, experts }: Omit<LayerParts, 'parts'>,
  r: number,
  up: Float32Array,
  down: Float32Array,
): AdapterLayer {
  const rows = r * (experts ?? 1);
  return {
    ...{ path, r, scale: 1, ...(experts !== undefined && { experts }) },
    up: f32Tensor(up, [out, rows]),
    down: f32Tensor(down, [rows, inside]),
  };
}

/** 'cat': all factors side by side, the sum itself. */
function concatenated(layer: LayerParts): AdapterLayer {
  const { out, in: inside, experts = 1, parts } = layer;
  const r = parts.reduce((sum, part) => sum + part.r, 0);
  const up = new Float32Array(out * r * experts);
  const down = new Float32Array(experts * r * inside);
  let at = 0;
  for (const part of parts) {
    const width = part.r * experts; // the ranks of up are outside of the experts, those of down inside
    for (let i = 0; i < out; i++)
      up.set(part.up.subarray(i * width, (i + 1) * width), (i * r + at) * experts);
    const size = part.r * inside;
    for (let e = 0; e < experts; e++)
      // PEFT scales this one of the two.
      down.set(
        part.down.subarray(e * size, (e + 1) * size).map((value) => value * part.factor),
        (e * r + at) * inside,
      );
    at += part.r;
  }
  return layerOf(layer, r, up, down);
}

/** 'svd': the best approximation of that sum with a given rank. */
function* approximated(layer: LayerParts, svdRank: number | undefined): Generator<void, AdapterLayer, void> {
  const { out, in: inside, parts } = layer;
  const left: Float64Array[] = [];
  const right: Float64Array[] = [];
  for (const part of parts)
    for (let k = 0; k < part.r; k++) {
      left.push(columnOf(part, k, part.factor));
      right.push(rowOf(part, k));
    }
  const { u, v } = yield* truncatedProduct(left, right, svdRank ?? Math.max(...parts.map(({ r }) => r)));
  const r = u.length;
  const up = new Float32Array(out * r);
  const down = new Float32Array(r * inside);
  for (let k = 0; k < r; k++) {
    for (let i = 0; i < out; i++) up[i * r + k] = u[k]![i]!;
    down.set(v[k]!, k * inside);
  }
  return layerOf(layer, r, up, down);
}

/** The rest: up and down are mixed each for itself, with √|weight · α/r|, and the sign in down. */
function mixedFactors(layer: LayerParts, plan: CombinePlan, random: Random, op: string): AdapterLayer {
  const { path, parts } = layer;
  const { r } = parts[0]!;
  if (parts.some((part) => part.r !== r))
    throw loraError(
      op,
      'ERR_ARGUMENT',
      `expected adapters of one rank with ${plan.method} but received ${parts.map((part) => part.r).join(', ')} in ${path}: take 'cat' or 'svd'`,
    );
  const roots = parts.map(({ factor }) => Math.sqrt(Math.abs(factor)));
  const signed = parts.map(({ factor }, i) => Math.sign(factor) * roots[i]!);
  const down = mixed(
    parts.map((part) => part.down),
    signed,
    plan,
    random,
  );
  const up = mixed(
    parts.map((part) => part.up),
    roots,
    plan,
    random,
  );
  return layerOf(layer, r, up, down);
}

/** The layers of the combination. Yields where it may be interrupted. */
export function* combineLayers(
  layers: readonly LayerParts[],
  plan: CombinePlan,
  op: string,
): Generator<void, AdapterLayer[], void> {
  const random = new Random(plan.seed);
  const all: AdapterLayer[] = [];
  for (const layer of layers) {
    if (plan.method === 'cat') all.push(concatenated(layer));
    else if (plan.method === 'svd') all.push(yield* approximated(layer, plan.svdRank));
    else all.push(mixedFactors(layer, plan, random, op));
    yield;
  }
  return all;
}
