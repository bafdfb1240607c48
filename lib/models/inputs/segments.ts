/** The texts of rows: where the keys of each query begin, and end, and the position of each token in its segment. */
import { fromBytes } from '../../tensor/create';
import type { Device } from '../../native/device';
import type { Tensor } from '../../tensor/tensor';
import { check, describe } from '../../validate';
import type { Segments } from '../families/parts';
import type { InputLayout } from './input_layout';

const TAG = 'forward';

/** @throws ERR_ARGUMENT for rows that are not as those of `ids`, and for segments in pieces. */
export function checkSegments(rows: unknown, ids: readonly ArrayLike<number>[]): asserts rows is number[][] {
  check(
    Array.isArray(rows) && rows.length === ids.length,
    TAG,
    `expected segmentIds of ${ids.length} rows, as ids, but received ${describe(rows)}`,
  );
  for (const [i, row] of (rows as unknown[]).entries()) {
    const length = ids[i]!.length;
    check(
      (Array.isArray(row) || ArrayBuffer.isView(row)) && (row as ArrayLike<number>).length === length,
      TAG,
      `expected row ${i} of segmentIds to hold ${length} numbers, as ids, but received ${describe(row)}`,
    );
    const seen = new Set<number>();
    const segments = row as ArrayLike<number>;
    for (let t = 0; t < length; t++) {
      const segment = segments[t]!;
      check(
        Number.isInteger(segment) && segment >= 0,
        TAG,
        `expected segmentIds to be whole numbers, 0 for padding, but received ${describe(segment)} at row ${i}, position ${t}`,
      );
      if (segment === 0 || segments[t - 1] === segment) continue;
      check(
        !seen.has(segment),
        TAG,
        `expected the tokens of a segment to follow each other but segment ${segment} begins again at row ${i}, position ${t}`,
      );
      seen.add(segment);
    }
  }
}

/** Of rows of segments, padded to `width`. `bothDirections`: each token sees its whole segment. */
export function segmentsOf(
  segmentIds: readonly ArrayLike<number>[],
  width: number,
  device: Device,
  bothDirections = false,
): Segments {
  const shape = [segmentIds.length, width];
  const begins = new Int32Array(segmentIds.length * width);
  const positions = new Int32Array(segmentIds.length * width);
  const ends = new Int32Array(segmentIds.length * width);
  for (const [i, row] of segmentIds.entries()) {
    const at = i * width;
    for (let t = 0, begin = 0; t < width; t++) {
      // Padding sees itself.
      if (t >= row.length || row[t] === 0 || row[t] !== row[t - 1]) begin = t;
      begins[at + t] = begin;
      positions[at + t] = t - begin;
      ends.fill(t + 1, at + begin, at + t + 1);
    }
  }
  const tensorOf = (values: Int32Array): Tensor =>
    fromBytes(new Uint8Array(values.buffer), 'i32', shape, device);
  return {
    keyBegin: tensorOf(begins),
    positions: tensorOf(positions),
    ...(bothDirections && { keyEnd: tensorOf(ends) }),
  };
}

/** The rows of tables of angles (InputLayout.tableRows), [b, length]. */
export function tableRowsOf(
  layout: InputLayout,
  start: (positions: number) => number,
  device: Device,
): Tensor | undefined {
  const rows = layout.tableRows(start);
  return rows && fromBytes(new Uint8Array(rows.buffer), 'i32', [layout.plans.length, layout.length], device);
}
