/**
 * Attention over keys and values in pages, for inference. A pool holds pages of 64 positions, and sequences of any length
 * share it: Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention" (2023).
 *
 * Position p of sequence b is position p % 64 of page pageTable[b, p / 64]; lengths[b] is how many positions it has, those
 * of the call included. Both are i32 and read when an op runs: a length or a page out of range fails the op with ERR_DATA.
 * Entries of the table for positions that an op does not use may be anything.
 */
import { call } from '../native/calls';
import { type Tensor, wrap } from '../tensor/tensor';
import { check, checkInteger, checkNumber, checkOneOf, checkOptions, shapeText } from '../validate';
import { checkDims, checkFloat, checkIds, checkSameDevice } from '../tensor/arguments';

/** Positions of a page. */
export const PAGE_SIZE = 64;

/** The shape of a pool of keys, or of values: the positions of a head lie together. */
export const poolShape = (
  pages: number,
  kvHeads: number,
  headDim: number,
): [pages: number, kvHeads: number, positions: number, headDim: number] => [
  pages,
  kvHeads,
  PAGE_SIZE,
  headDim,
];

export interface PagedAttentionOptions {
  scale: number;
  /** How many keys a query sees, itself included; default (0): all before it. */
  window?: number;
  /**
   * `decode`: one query of each sequence. `prefill`: a chunk of each. It chooses the kernel, so a prompt's results
   * have the same bits wherever it is cut into chunks, and a decoded token's whatever runs beside it (on the CPU).
   */
  phase: 'prefill' | 'decode';
}

/**
 * y = softmax(scale·q·kᵀ)·v: q [b, s, heads, d] against pools [pages, kvHeads, 64, d] → [b, s, heads, d], with
 * pageTable [b, maxPages] and lengths [b]. Query i of sequence b is at position lengths[b] − s + i and sees the keys up
 * to its own, which `pageAppend` has written before. No gradient.
 */
export function attentionPaged(
  q: Tensor,
  kPool: Tensor,
  vPool: Tensor,
  pageTable: Tensor,
  lengths: Tensor,
  options: PagedAttentionOptions,
): Tensor {
  const op = 'attention_paged';
  checkOptions(op, options, ['scale', 'window', 'phase']);
  const { scale, window = 0, phase } = options;
  checkNumber(op, 'scale', scale);
  checkInteger(op, 'window', window);
  checkOneOf(op, 'phase', phase, ['prefill', 'decode']);
  checkFloat(op, q, 'q');
  checkDims(op, 'q', q, ['batch', 'seq', 'heads', 'd']);
  const [b, s, heads, d] = q.shape as [number, number, number, number];
  checkPool(op, 'kPool', kPool, q, d);
  const kvHeads = kPool.shape[1]!;
  check(
    kvHeads === 0 ? heads === 0 : heads % kvHeads === 0,
    op,
    () =>
      `expected q [batch, seq, heads, d] with heads a multiple of ${kvHeads} (those of kPool) but received ` +
      shapeText(q.shape),
  );
  check(
    phase === 'prefill' || s === 1,
    op,
    () => `expected q of one query per sequence in phase 'decode' but received ${shapeText(q.shape)}`,
  );
  checkPool(op, 'vPool', vPool, q, d);
  checkDims(op, 'vPool', vPool, kPool.shape, 'that of kPool');
  checkTable(op, pageTable, lengths, b, q.device);
  const y = call().attentionPaged(q.handle, kPool.handle, vPool.handle, pageTable.handle, lengths.handle, {
    window,
    scale,
    phase,
  });
  return wrap(y, q.dtype, q.shape, q.device);
}

/**
 * Writes rows src [b, s, kvHeads, d] into a pool [pages, kvHeads, 64, d], in place: row i of sequence b at position
 * lengths[b] − s + i. No two sequences may write to one page.
 */
export function pageAppend(src: Tensor, pool: Tensor, pageTable: Tensor, lengths: Tensor): void {
  const op = 'page_append';
  checkFloat(op, src, 'src');
  checkDims(op, 'src', src, ['batch', 'seq', 'kvHeads', 'd']);
  const [b, , kvHeads, d] = src.shape as [number, number, number, number];
  checkPool(op, 'pool', pool, src, d, kvHeads);
  checkTable(op, pageTable, lengths, b, src.device);
  call().pageAppend(src.handle, pool.handle, pageTable.handle, lengths.handle);
}

function checkPool(
  op: string,
  name: string,
  pool: Tensor,
  of: Tensor,
  d: number,
  kvHeads: number | string = 'kvHeads',
): void {
  checkFloat(op, pool, name);
  checkSameDevice(op, name, pool.device, of.device);
  check(pool.dtype === of.dtype, op, `expected ${name} of dtype ${of.dtype} but received ${pool.dtype}`);
  checkDims(op, name, pool, ['pages', kvHeads, PAGE_SIZE, d]);
}

function checkTable(op: string, pageTable: Tensor, lengths: Tensor, batch: number, device: string): void {
  for (const [name, t] of [
    ['pageTable', pageTable],
    ['lengths', lengths],
  ] as const) {
    checkIds(op, t, name);
    checkSameDevice(op, name, t.device, device);
  }
  checkDims(op, 'pageTable', pageTable, [batch, 'maxPages'], 'batch, maxPages');
  checkDims(op, 'lengths', lengths, [batch], 'batch');
}
