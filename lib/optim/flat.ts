/** Updates that are a few ops of the tape, over all parameters of a group at once. */
import { call } from '../native/calls';
import { rawBinary, rawEmpty, rawUnary, rawView } from '../tensor/raw';
import { temporaries } from '../tensor/scope';
import type { Tensor } from '../tensor/tensor';
import type { Settings, Update } from './optimizer';

/** Gives what the parameters and their state become; all are flat, and none may be changed. */
export type FlatRule = (p: Tensor, g: Tensor, state: readonly Tensor[]) => readonly [Tensor, ...Tensor[]];

/** Elements that are updated together, so that the temporaries stay small beside a model. */
const most = 1 << 20;

/** A part of a parameter. */
interface Piece {
  readonly at: number;
  readonly offset: number;
  readonly count: number;
}

/** Runs `rule` over copies of the operands, end to end, and writes back what it gives. */
export function updateFlat<S extends Settings>(update: Update<S>, rule: FlatRule): void {
  const { params, grads, state, guard } = update;
  const names = state[0]!.map((_, i) => i);
  for (const pieces of batches(params.map(({ numel }) => numel)))
    temporaries(() => {
      const joined = (of: (at: number) => Tensor): Tensor => concatenated(pieces, of);
      const after = rule(
        joined((at) => params[at]!),
        joined((at) => grads[at]!),
        names.map((i) => joined((at) => state[at]![i]!)),
      );
      let begin = 0;
      for (const { at, offset, count } of pieces) {
        [params[at]!, ...state[at]!].forEach((target, i) => {
          const [from, to] = [rawView(after[i]!, begin, [count]), rawView(target, offset, [count])];
          call().copyInto(from.handle, to.handle, guard);
        });
        begin += count;
      }
    });
}

/** Cuts parameters into pieces, as many together as stay within the bound. */
function batches(sizes: readonly number[]): Piece[][] {
  const all: Piece[][] = [];
  let free = 0;
  sizes.forEach((size, at) => {
    for (let offset = 0; offset < size;) {
      if (free === 0) {
        all.push([]);
        free = most;
      }
      const count = Math.min(free, size - offset);
      all.at(-1)!.push({ at, offset, count });
      offset += count;
      free -= count;
    }
  });
  return all;
}

function concatenated(pieces: readonly Piece[], of: (at: number) => Tensor): Tensor {
  const total = pieces.reduce((sum, { count }) => sum + count, 0);
  const out = rawEmpty([total], 'f32', of(pieces[0]!.at).device);
  let begin = 0;
  for (const { at, offset, count } of pieces) {
    const [from, to] = [rawView(of(at), offset, [count]), rawView(out, begin, [count])];
    call().copyInto(from.handle, to.handle);
    begin += count;
  }
  return out;
}

export const add = (a: Tensor, b: Tensor): Tensor => rawBinary('add', a, b, 'f32', a.shape);
export const sub = (a: Tensor, b: Tensor): Tensor => rawBinary('sub', a, b, 'f32', a.shape);
export const scale = (x: Tensor, factor: number): Tensor => rawUnary('scale', factor, x);
export const relu = (x: Tensor): Tensor => rawUnary('relu', 1, x);
