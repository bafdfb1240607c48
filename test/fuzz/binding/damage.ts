/** Damage to the operands of a call: a value of another kind, of another shape, of another device, given back, at the end of its range. */
import type { Dice } from '../random';
import type { Spec, SpecObject } from './plan';

const number = (of: string): Spec => ({ $: 'number', of });
const numbers: readonly Spec[] = [
  0,
  1,
  -1,
  2,
  0.5,
  64,
  255,
  1000,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 32 - 1,
  2 ** 32,
  2 ** 53,
  2 ** 53 + 2,
  1e300,
  -1e300,
  1e-300,
  number('-0'),
  number('NaN'),
  number('Infinity'),
  number('-Infinity'),
];
const dims: readonly number[] = [0, 1, 2, 3, 65, 1000, 2 ** 20, 2 ** 31, 2 ** 32, 2 ** 53, -1, 0.5];
const dtypes = ['f32', 'bf16', 'f16', 'i32', 'i8', 'f64', ''];
const elements: readonly Spec[] = [
  -1,
  -2,
  -100,
  1,
  64,
  1000,
  2 ** 31 - 1,
  -(2 ** 31),
  1e30,
  -1e38,
  1e-40,
  number('NaN'),
  number('Infinity'),
  number('-Infinity'),
];
const devices = ['cpu', 'reference', 'cuda', 'nowhere'];
const guard: Spec = { $: 'guard' };

const isObject = (value: Spec): value is SpecObject =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Anything in the place of anything. */
function junk(dice: Dice): Spec {
  const tensor: SpecObject = {
    $: 'tensor',
    dtype: dice.pick(['f32', 'i32', 'bf16']),
    shape: [dice.below(4), 3],
  };
  return dice.pick<Spec>([
    null,
    true,
    '',
    'f32',
    'add',
    dice.pick(numbers),
    [],
    {},
    [null],
    [dice.pick(dims), dice.pick(dims)],
    { $: 'undefined' },
    { $: 'symbol' },
    { $: 'bigint' },
    { $: 'function' },
    { $: 'list', length: dice.pick([3, 2 ** 22, 2 ** 32 - 1]) },
    { $: 'bytes', dtype: 'i8', shape: [dice.below(64)] },
    { $: 'device', on: dice.pick(['cpu', 'reference']) },
    guard,
    { $: 'file' },
    tensor,
    { ...tensor, gone: true },
    { $: 'same', of: dice.below(4) },
    { $: 'part', of: dice.below(4), offset: dice.below(3), shape: [dice.below(3)] },
    { $: 'weight', dtype: 'f32', values: { $: 'tensor', dtype: 'f32', shape: [3, 2] }, scales: null },
    [tensor, tensor],
  ]);
}

function damagedShape(shape: readonly number[], dice: Dice): number[] {
  const damaged = [...shape];
  const at = dice.below(damaged.length);
  switch (dice.below(6)) {
    case 0:
      damaged.splice(at, 1);
      break;
    case 1:
      damaged.splice(at, 0, dice.pick([0, 1, 2]));
      break;
    case 2:
      if (damaged.length > 0) damaged[at]!++;
      break;
    case 3:
      if (damaged.length > 0) damaged[at] = Math.max(0, damaged[at]! - 1);
      break;
    case 4: // no elements, in a shape that seems to have many
      damaged[at] = 0;
      damaged[dice.below(damaged.length)] = dice.pick(
        dims.filter((dim) => Number.isInteger(dim) && dim >= 0),
      );
      if (!damaged.includes(0)) damaged.push(0);
      break;
    default:
      damaged.reverse();
  }
  return damaged.slice(0, 8);
}

/** A tensor that differs in one thing from what it was. */
function damagedTensor(spec: SpecObject, dice: Dice): Spec {
  switch (dice.below(9)) {
    case 0:
      return { ...spec, dtype: dice.pick(dtypes.slice(0, 5)) };
    case 1:
    case 2:
      return { ...spec, shape: damagedShape(spec['shape'] as number[], dice) };
    case 3:
    case 4: {
      const places = Array.from({ length: 1 + dice.below(3) }, (): Spec => [
        dice.below(100),
        dice.pick(elements),
      ]);
      return { ...spec, set: [...((spec['set'] ?? []) as Spec[]), ...places] };
    }
    case 5:
      return { ...spec, on: dice.pick(['cpu', 'reference']) };
    case 6:
      return { ...spec, gone: true };
    case 7:
      return { $: 'same', of: dice.below(6) };
    default:
      return { $: 'part', of: dice.below(6), offset: dice.below(4), shape: spec['shape']! };
  }
}

function damagedValue(value: Spec, dice: Dice): Spec {
  if (dice.once(5)) return junk(dice);
  if (typeof value === 'number') return dice.once(3) ? value + dice.pick([1, -1]) : dice.pick(numbers);
  if (typeof value === 'boolean') return !value;
  if (typeof value === 'string') return dice.pick([...dtypes, 'decode', 'prefill', 'sqrt', ...devices]);
  if (Array.isArray(value)) {
    if (value.length === 0 || dice.once(3)) return [...value, value[0] ?? junk(dice)];
    return dice.flag() ? value.slice(1) : value.toReversed();
  }
  if (value === null) return junk(dice);
  switch (value['$']) {
    case 'tensor':
      return damagedTensor(value, dice);
    case 'device':
      return { $: 'device', on: dice.pick(devices) };
    case undefined: {
      const copy = { ...value };
      const key = dice.pick(Object.keys(value));
      if (dice.flag()) delete copy[key];
      else copy[key] = junk(dice);
      return copy;
    }
    default:
      return { ...value, gone: true };
  }
}

/** What may be damaged in a value: itself and what is in it. Of a spec, only what makes other values. */
function* places(parent: Record<string | number, Spec>): Generator<[Record<string | number, Spec>, string]> {
  for (const [key, value] of Object.entries(parent)) {
    yield [parent, key];
    if (Array.isArray(value) || (isObject(value) && value['$'] === undefined))
      yield* places(value as Record<string, Spec>);
    else if (isObject(value) && value['$'] === 'weight') {
      yield [value, 'values'];
      if (value['scales'] !== null) yield [value, 'scales'];
    } else if (isObject(value) && value['$'] === 'table')
      for (const change of value['changes'] as Spec[]) yield* places(change as Record<string, Spec>);
  }
}

/** The arguments with one value damaged. Changes them. */
export function damage(args: Spec[], dice: Dice): void {
  const all = [...places(args as unknown as Record<number, Spec>)];
  if (all.length === 0 || dice.once(20)) {
    // One too few or too many.
    if (dice.flag()) args.pop();
    else args.push(junk(dice));
    return;
  }
  // Half the time an argument itself, which may be one of many places.
  const whole = all.filter(([parent]) => parent === (args as unknown));
  const [parent, key] = dice.pick(dice.flag() ? whole : all);
  parent[key] = damagedValue(parent[key]!, dice);
}
