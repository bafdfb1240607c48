/** Batches of token ids: ragged rows are padded on the right, where causal attention never looks. */
import { ignoredLabel } from '../../data/example';
import { binding } from '../../native/calls';
import { fromBytes } from '../../tensor/create';
import type { Device } from '../../native/device';
import { loraError } from '../../errors';
import { view } from '../../ops';
import { Tensor } from '../../tensor/tensor';
import { check, describe, isListOf, shapeText } from '../../validate';
import type { InputLayout } from './input_layout';

/** Rows of ids, possibly of different lengths, or an i32 Tensor [batch, seq]. */
export type TokenRows = readonly (readonly number[] | Int32Array)[] | Tensor;

const TAG = 'forward';

function fromRows(rows: readonly ArrayLike<number>[], width: number, pad: number, device: Device): Tensor {
  const shape = [rows.length, width];
  const flat = new Int32Array(rows.length * width).fill(pad);
  for (const [i, row] of rows.entries()) flat.set(row, i * width);
  return fromBytes(new Uint8Array(flat.buffer), 'i32', shape, device);
}

/** A Tensor of the caller: checked, on the model's device, under a handle of our own. */
function fromTensor(x: Tensor, what: string, device: Device): Tensor {
  check(
    x.dtype === 'i32' && x.shape.length === 2,
    TAG,
    `expected ${what} to be an i32 tensor [batch, seq] but received ${describe(x)}`,
  );
  check(x.numel > 0, TAG, `expected ${what} of at least one token but received shape ${shapeText(x.shape)}`);
  return x.device === device ? view(x, 0, x.shape) : x.to({ device });
}

function checkRows(rows: unknown, what: string): asserts rows is readonly (readonly number[] | Int32Array)[] {
  check(
    isListOf(rows, (row) => Array.isArray(row) || ArrayBuffer.isView(row)),
    TAG,
    `expected ${what} to be number[][] or an i32 tensor [batch, seq] but received ${describe(rows)}`,
  );
}

function dataError(message: string): never {
  throw loraError(TAG, 'ERR_DATA', message);
}

/** ids [batch, longest row] on the device. @throws ERR_ARGUMENT for empty rows, ERR_DATA for ids outside the vocabulary. */
export function idsTensor(ids: TokenRows, vocab: number, device: Device): Tensor {
  if (ids instanceof Tensor) return fromTensor(ids, 'ids', device);
  checkRows(ids, 'ids');
  check(ids.length > 0, TAG, 'expected ids of at least one row but received none');
  for (const [i, row] of ids.entries()) {
    check(row.length > 0, TAG, `expected every row of ids to hold a token but row ${i} is empty`);
    for (let t = 0; t < row.length; t++)
      if (!(Number.isInteger(row[t]) && row[t]! >= 0 && row[t]! < vocab))
        dataError(
          `expected ids from 0 to ${vocab - 1} but received ${describe(row[t])} at row ${i}, position ${t}`,
        );
  }
  return fromRows(ids, Math.max(...ids.map((row) => row.length)), 0, device);
}

export interface Targets {
  /** [batch · seq] i32: the label of the next position, −100 where nothing counts. */
  labels: Tensor;
  /** How many count, where that is known without reading the device. */
  count?: number;
  /** The labels of each row, where they are known without reading the device; padding follows. */
  rows?: readonly (readonly number[])[];
}

/** The rows of ids that labels belong to. */
export interface LabeledRows {
  readonly ids: TokenRows;
  /** [batch, seq] */
  readonly shape: readonly number[];
  readonly segmentIds: readonly ArrayLike<number>[] | undefined;
  /** Where the tokens lie. */
  readonly layout: InputLayout;
  readonly vocab: number;
  readonly device: Device;
}

/** Labels shifted so that position t holds what t predicts. @throws ERR_DATA when none counts. */
export function targetsTensor(
  labels: TokenRows,
  { ids, shape, segmentIds, layout, vocab, device }: LabeledRows,
): Targets {
  const [batch, width] = shape as [number, number];
  const { length } = layout;
  if (labels instanceof Tensor) {
    check(
      shapeText(labels.shape) === shapeText(shape),
      TAG,
      `expected labels of shape ${shapeText(shape)}, as ids, but received ${shapeText(labels.shape)}`,
    );
    const own = fromTensor(labels, 'labels', device);
    const shifted = fromRows(
      Array.from({ length: batch }, () => []),
      length,
      ignoredLabel,
      device,
    );
    for (let i = 0; i < batch; i++) {
      const { vectors, firstPredicted: skipped } = layout.plans[i]!;
      if (width === skipped) continue;
      const from = view(own, i * width + skipped, [width - skipped]);
      const to = view(shifted, i * length + vectors + skipped - 1, [width - skipped]);
      binding().copyInto(from.handle, to.handle);
      from.dispose();
      to.dispose();
    }
    own.dispose();
    const flat = view(shifted, 0, [batch * length]);
    shifted.dispose();
    return { labels: flat };
  }
  checkRows(labels, 'labels');
  check(
    labels.length === batch,
    TAG,
    `expected labels of ${batch} rows, as ids, but received ${labels.length}`,
  );
  let count = 0;
  const rows = labels.map((row, i) => {
    const own = ids instanceof Tensor ? width : ids[i]!.length;
    check(
      row.length === own,
      TAG,
      `expected row ${i} of labels to hold ${own} tokens, as ids, but received ${row.length}`,
    );
    const counted = new Int32Array(row.length).fill(ignoredLabel);
    for (let t = 0; t < row.length; t++) {
      if (!layout.plans[i]!.counts(row, t, segmentIds?.[i])) continue;
      const label = row[t]!;
      if (!Number.isInteger(label) || label < 0 || label >= vocab)
        dataError(
          `expected labels from 0 to ${vocab - 1}, or ${ignoredLabel} for none, but received ${describe(label)} at row ${i}, position ${t}`,
        );
      counted[t] = label;
      count++;
    }
    return layout.placed(counted, i, ignoredLabel).slice(1);
  });
  if (count === 0)
    dataError(
      `no label counts: all are ${ignoredLabel}, or each row has a single token (position t predicts the label of t + 1)`,
    );
  const padded = fromRows(rows, length, ignoredLabel, device);
  const flat = view(padded, 0, [batch * length]);
  padded.dispose();
  return { labels: flat, count, rows };
}
