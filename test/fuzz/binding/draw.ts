/** Operands of the native binding with the dtypes, shapes and values that ops take. */
import type { WeightFormat } from '../../../lib/native/binding';
import { blockBytes, blockFormats, isBlockFormat, type BlockFormat } from '../../../lib/native/block_formats';
import type { Dice } from '../random';
import type { Call, Spec, SpecObject } from './plan';

export type Act = 'f32' | 'bf16';
export const storedDtypes = ['f32', 'bf16', 'f16', 'i32'];
const blocks = Object.keys(blockFormats) as BlockFormat[];
const floats: WeightFormat[] = ['f32', 'bf16', 'f16'];
export const weightFormats: WeightFormat[] = [...floats, 'int8', 'nf4', 'fp4', ...blocks];
export const device: Spec = { $: 'device' };
export const guard: Spec = { $: 'guard' };

/** Makes the arguments of a function that accepts them, and what is called before. */
export type Builder = (d: Draw) => Spec[] | { args: Spec[]; before: Call[] };

/** Draws operands. Sizes are small: none, one, odd, and around the widths of vectors. */
export class Draw {
  readonly dice: Dice;
  constructor(dice: Dice) {
    this.dice = dice;
  }

  size(): number {
    const { dice } = this;
    if (dice.once(12)) return 0;
    return dice.once(6)
      ? dice.pick([31, 32, 33, 63, 64, 65, 70])
      : dice.pick([1, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17]);
  }
  some(): number {
    return Math.max(1, this.size());
  }
  /** Of a weight: a size, or whole blocks of any format. */
  columns(): number {
    return this.dice.once(6) ? 256 : this.size();
  }
  flag(): boolean {
    return this.dice.once(2);
  }
  act(): Act {
    return this.dice.once(3) ? 'bf16' : 'f32';
  }
  float(): string {
    return this.dice.pick(['f32', 'f32', 'bf16', 'f16']);
  }
  shape(most = 4): number[] {
    return Array.from({ length: this.dice.below(most + 1) }, () => this.dice.pick([0, 1, 1, 2, 3, 5, 9]));
  }
  tensor(dtype: string, shape: number[], low = -2, high = 2): SpecObject {
    return { $: 'tensor', dtype, shape, low, high, seed: this.dice.below(2 ** 31) };
  }
  f32(...shape: number[]): SpecObject {
    return this.tensor('f32', shape);
  }
  ids(shape: number[], end: number, low = 0): SpecObject {
    return this.tensor('i32', shape, low, Math.max(low, end));
  }
  weight(dtype: Act, rows: number, cols: number): SpecObject {
    const others: WeightFormat[] = dtype === 'f32' ? floats : ['bf16', 'bf16'];
    const whole = blocks.filter((format) => cols % blockFormats[format].values === 0);
    const format = this.dice.pick([...others, 'int8', 'nf4', 'fp4', ...whole]);
    const shape = [rows, cols];
    if (isBlockFormat(format)) {
      const values = this.tensor('i8', [blockBytes(format, rows, cols)], -128, 127);
      return { $: 'weight', dtype, format, shape, values, scales: null };
    }
    const coded = format === 'nf4' || format === 'fp4';
    const values = coded
      ? this.tensor('i8', [Math.ceil((rows * cols) / 2)], -128, 127)
      : this.tensor(format === 'int8' ? 'i8' : format, shape);
    const count = coded ? Math.ceil((rows * cols) / 64) : rows;
    const scales = coded || format === 'int8' ? this.tensor('f32', [count], 0.01, 1) : null;
    return { $: 'weight', dtype, format, shape, values, scales };
  }
  dropout(): SpecObject {
    return { p: this.dice.pick([0, 0.1, 0.9]), seed: 7, layer: this.dice.below(9), forward: 3 };
  }
  /** Leading dimensions and their product. */
  leading(): { lead: number[]; rows: number } {
    const lead = this.dice.pick([[this.size()], [2, this.size()], [], [1, 3, 2], [3, 0]]);
    return { lead, rows: lead.reduce((all, dim) => all * dim, 1) };
  }
}

/** A table of changes with a shape for each site; some slots are empty. */
export function deltaTable(d: Draw, sites: { out: number; inner: number }[], dtype: Act): SpecObject {
  const slots = 1 + d.dice.below(3);
  const maxRank = 1 + d.dice.below(8);
  const change = ({ out, inner }: { out: number; inner: number }): Spec => {
    if (d.dice.once(4)) return null;
    const rank = 1 + d.dice.below(maxRank);
    const up = d.tensor(dtype, [out, rank]);
    return {
      up:
        dtype === 'f32'
          ? up
          : { $: 'weight', dtype, format: dtype, shape: [out, rank], values: up, scales: null },
      down: d.tensor(dtype, [rank, inner]),
      scale: 0.5,
      factor: d.flag() ? d.f32(out) : null,
    };
  };
  const changes = Array.from({ length: slots }, (_, slot): Spec => [
    slot,
    d.flag() ? sites.map(change) : null,
  ]);
  return { $: 'table', sites: sites.map(({ out, inner }) => [out, inner]), slots, maxRank, dtype, changes };
}
