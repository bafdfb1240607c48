/** Logits are changed before a token is drawn from them; each row is drawn by rules of its own; and log-probabilities are reported. */
import { loraError } from '../errors';
import type { NativeTensor } from '../native/binding';
import { call } from '../native/calls';
import { fromBytes } from '../tensor/create';
import { handleOf, type Tensor, wrap } from '../tensor/tensor';
import { check } from '../validate';

/** How one row is drawn. */
export interface SampleRow {
  /** 0 is greedy: the first of the largest. */
  temperature: number;
  /** Draws from the k largest; 0: from all. */
  topK: number;
  /** Draws from the smallest set of at least this mass; 1: from all. */
  topP: number;
  /** Draws from what has at least this share of the largest probability; 0: from all. */
  minP: number;
  /** An integer below 2⁵³. */
  seed: number;
}

/** The operands of {@link sample} on the host. */
export interface SampleRows {
  /** [m, 3]: temperature, topP, minP. */
  reals: Float32Array<ArrayBuffer>;
  /** [m, 4]: topK, step, low and high word of the seed. */
  wholes: Int32Array<ArrayBuffer>;
}

/** Makes the operands for m rows, each greedy. */
export function sampleRows(m: number): SampleRows {
  const rows = { reals: new Float32Array(3 * m), wholes: new Int32Array(4 * m) };
  for (let i = 0; i < m; i++)
    writeSampleRow(rows, i, { temperature: 0, topK: 0, topP: 1, minP: 0, seed: 0 }, 0);
  return rows;
}

/** Writes how row i is drawn; the draw depends on (row.seed, step) alone. Its numbers must have been checked. */
export function writeSampleRow({ reals, wholes }: SampleRows, i: number, row: SampleRow, step: number): void {
  reals[3 * i] = row.temperature;
  reals[3 * i + 1] = row.topP;
  reals[3 * i + 2] = row.minP;
  wholes[4 * i] = Math.min(row.topK, 0x7fffffff); // no vocabulary is larger
  wholes[4 * i + 1] = step;
  wholes[4 * i + 2] = row.seed % 2 ** 32;
  wholes[4 * i + 3] = Math.floor(row.seed / 2 ** 32);
}

/**
 * One id per row of logits [m, vocab], i32 [m]: temperature, then top-k, top-p and min-p, in the order of transformers.
 * reals f32 [m, 3] and wholes i32 [m, 4] are those of {@link SampleRows}; they are read when the op runs. A row's id depends on its logits and its
 * (seed, step) alone, not on its place. A row from which nothing can be drawn gets a negative id, which {@link drawnId} explains.
 */
export function sample(logits: Tensor, reals: Tensor, wholes: Tensor): Tensor {
  const ids = call().sample(
    handleOf(logits, 'sample', 'logits'),
    handleOf(reals, 'sample', 'reals'),
    handleOf(wholes, 'sample', 'wholes'),
  );
  return wrap(ids, 'i32', [logits.shape[0]!], logits.device);
}

/** Returns a row's id. @throws ERR_NON_FINITE where nothing could be drawn from the row. */
export function drawnId(id: number): number {
  if (id >= 0) return id;
  const why =
    id === -0x80000000
      ? 'expected a finite logit but all are -Infinity'
      : `logits hold NaN or Infinity at token ${-1 - id}`;
  throw loraError('sample', 'ERR_NON_FINITE', why);
}

/** Entries of {@link adjustLogits}, in arrays of one length. No two may have the same row and id. */
export interface LogitEntries {
  rows: Int32Array<ArrayBuffer>;
  ids: Int32Array<ArrayBuffer>;
  factors: Float32Array<ArrayBuffer>;
  addends: Float32Array<ArrayBuffer>;
}

/**
 * In place on logits [m, vocab]: z ← (z > 0 ? z / factor : z · factor) + addend, entry by entry. The factor is the repetition penalty of
 * CTRL (Keskar et al., 2019). A row or id out of range fails with ERR_DATA.
 */
export function adjustLogits(logits: Tensor, { rows, ids, factors, addends }: LogitEntries): void {
  const handle = handleOf(logits, 'adjust_logits', 'logits');
  const n = rows.length;
  check(
    ids.length === n && factors.length === n && addends.length === n,
    'adjust_logits',
    () =>
      `expected arrays of one length but received ${[n, ids.length, factors.length, addends.length].join(', ')}`,
  );
  if (n === 0) return;
  const { device } = logits;
  const made = [rows, ids, factors, addends].map((array) => {
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    return fromBytes(bytes, array instanceof Int32Array ? 'i32' : 'f32', [n], device);
  });
  const [r, i, f, a] = made.map(({ handle }) => handle) as [
    NativeTensor,
    NativeTensor,
    NativeTensor,
    NativeTensor,
  ];
  call().adjustLogits(handle, r, i, f, a);
  for (const tensor of made) tensor.dispose();
}

/** In place on logits [m, vocab]: −∞ where bit v % 32 of bits[i, v / 32] is 0; bits is i32 [m, ⌈vocab / 32⌉]. */
export function maskLogits(logits: Tensor, bits: Tensor): void {
  call().maskLogits(handleOf(logits, 'mask_logits', 'logits'), handleOf(bits, 'mask_logits', 'bits'));
}

/**
 * The log softmax of each row of logits [m, vocab]: at ids[i], and then at its n largest logits, of equals at the first.
 * @returns values f32 [m, 1 + n], in nats, and ids i32 [m, 1 + n]. The value at an id outside the vocabulary is NaN.
 */
export function logProbs(logits: Tensor, ids: Tensor, n: number): [values: Tensor, ids: Tensor] {
  const [values, topIds] = call().logProbs(
    handleOf(logits, 'log_probs', 'logits'),
    handleOf(ids, 'log_probs', 'ids'),
    n,
  );
  const shape = [logits.shape[0]!, 1 + n];
  return [wrap(values, 'f32', shape, logits.device), wrap(topIds, 'i32', shape, logits.device)];
}
