/** Which positions stand for texts, and the hidden states there. */
import { reshape } from '../../ops/layout';
import { joinRows, splitRows } from '../../ops/rows';
import { moved } from '../../tensor/scope';
import { Tensor } from '../../tensor/tensor';
import type { TokenRows } from './batch';

/** A position of a batch. */
export interface Place {
  readonly row: number;
  readonly at: number;
}

/**
 * The last token of each text that is not `pad`; of a text of padding alone, its first, as transformers has it. Of a tensor of ids it is the last
 * position, since nobody waits for its values. `segmentIds`: of rows that hold several texts.
 */
export function lastTokens(
  ids: TokenRows,
  segmentIds: readonly ArrayLike<number>[] | undefined,
  pad: number | undefined,
): Place[] {
  if (ids instanceof Tensor) {
    const [batch, width] = ids.shape as [number, number];
    return Array.from({ length: batch }, (_, row) => ({ row, at: width - 1 }));
  }
  return ids.flatMap((tokens, row) =>
    textsOf(tokens.length, segmentIds?.[row]).map(([begin, end]) => {
      let at = end - 1;
      while (at > begin && tokens[at] === pad) at--;
      return { row, at: tokens[at] === pad ? begin : at };
    }),
  );
}

/** Where the texts of a row begin and end. */
function textsOf(length: number, segments: ArrayLike<number> | undefined): [begin: number, end: number][] {
  if (segments === undefined) return [[0, length]];
  const texts: [number, number][] = [];
  for (let t = 0; t < length; t++) {
    if (segments[t] === 0) continue; // padding
    if (t > 0 && segments[t] === segments[t - 1]) texts.at(-1)![1] = t + 1;
    else texts.push([t, t + 1]);
  }
  return texts;
}

/** x [batch, width, n] → what it has at some places, in their order, which is that of the batch: [places, n]. */
export function atPlaces(x: Tensor, places: readonly Place[]): Tensor {
  const [batch, width, n] = x.shape as [number, number, number];
  const counts: number[] = [];
  const wanted = new Set<number>();
  let next = 0;
  for (const { row, at } of places) {
    const place = row * width + at;
    if (place > next) counts.push(place - next);
    wanted.add(counts.push(1) - 1);
    next = place + 1;
  }
  if (next < batch * width) counts.push(batch * width - next);
  const parts = moved(reshape(x, [batch * width, n]), (flat) => splitRows(flat, counts));
  const joined = joinRows(parts.filter((_, i) => wanted.has(i)));
  for (const part of parts) part.dispose();
  return joined;
}
