/**
 * Attention over keys and values in pages, for inference. A pool holds pages of 64 positions, and sequences of any length
 * share it: Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention" (2023).
 *
 * Position p of sequence b is position p % 64 of page pageTable[b, p / 64]; lengths[b] is how many positions it has, those
 * of the call included. Both are i32 and read when an op runs: a length or a page out of range fails the op with ERR_DATA.
 * Entries of the table for positions that an op does not use may be anything.
 */
import { call } from '../native/calls';
import { pageSize } from '../native/constants';
import { handleOf, type Tensor, wrap } from '../tensor/tensor';
import { checkOptions } from '../validate';
import type { RopeAngles } from './rope';

/** The shape of a pool of keys, or of values: the positions of a head lie together. */
export const poolShape = (
  pages: number,
  kvHeads: number,
  headDim: number,
): [pages: number, kvHeads: number, positions: number, headDim: number] => [
  pages,
  kvHeads,
  pageSize,
  headDim,
];

/** Keys and values of one layer, [pages, heads, 64, headDim] each. */
export interface LayerPages {
  readonly k: Tensor;
  readonly v: Tensor;
}

/** What a layer without keys keeps of each text, by name: [slots, ...] each, in f32. */
export interface LayerStates {
  readonly states: Readonly<Record<string, Tensor>>;
}

/** The tokens before those of a call, of each of its b sequences. The tensors are read when the ops run. */
export interface Past {
  /** What each layer keeps. A layer that reads the keys of another has the pages of that one. */
  readonly layers: readonly (LayerPages | LayerStates)[];
  /** The pages of each sequence, [b, maxPages] i32. */
  readonly pageTable: Tensor;
  /** Tokens of each sequence, those of the call included, [b] i32. */
  readonly lengths: Tensor;
  /** The slot of each sequence in the tensors of states, [b] i32; absent: no layer has any. */
  readonly slots?: Tensor | undefined;
  /** Where each sequence begins in tables of angles that have rows for several, [b] i32; absent: at 0. */
  readonly tableStart?: Tensor | undefined;
  /** More than any position. */
  readonly maxPositions: number;
  /** A part of one prompt, or a token of each row. */
  readonly phase: 'prefill' | 'decode';
}

/** What a layer with attention keeps. */
export function pagesOf({ layers }: Pick<Past, 'layers'>, index: number): LayerPages {
  const layer = layers[index]!;
  if ('states' in layer) throw new Error(`expected layer ${index} to keep keys and values`);
  return layer;
}

/** What a layer without attention keeps, and in which slots. */
export function statesOf({ layers, slots }: Past, index: number): LayerStates & { readonly slots: Tensor } {
  const layer = layers[index]!;
  if (!('states' in layer) || !slots) throw new Error(`expected layer ${index} to keep states`);
  return { ...layer, slots };
}

export interface PagedAttentionOptions {
  scale: number;
  /** How many keys a query sees, itself included; default (0): all before it. */
  window?: number;
  /**
   * `decode`: one query of each sequence. `prefill`: a chunk of each. It chooses the kernel, so a prompt's results
   * have the same bits wherever it is cut into chunks, and a decoded token's whatever runs beside it (on the CPU).
   */
  phase: 'prefill' | 'decode';
  /** As those of `attention`. */
  sinks?: Tensor | undefined;
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
  checkOptions(op, options, ['scale', 'window', 'phase', 'sinks']);
  const { scale, window = 0, phase, sinks } = options;
  const y = call().attentionPaged(
    handleOf(q, op, 'q'),
    handleOf(kPool, op, 'kPool'),
    handleOf(vPool, op, 'vPool'),
    handleOf(pageTable, op, 'pageTable'),
    handleOf(lengths, op, 'lengths'),
    sinks ? handleOf(sinks, op, 'sinks') : null,
    { window, scale, phase },
  );
  return wrap(y, q.dtype, q.shape, q.device);
}

/**
 * Rotates q [b, s, heads, d] and k [b, s, kvHeads, d] by a table of at least 64·maxPages positions (rope.ts), and writes the rows of k, and of v as
 * they are, into their pools [pages, kvHeads, 64, d], in place: row i of sequence b is at position lengths[b] − s + i. No two sequences may
 * write to one position; tokens of one text may be sequences of lengths n, n + 1, … with the same pages. With `tableStart` [b] i32, position p of sequence b has row tableStart[b] + p of the table, in which several may lie below
 * one another. → q, rotated. No gradient.
 */
export function pageAppend(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { cos, sin }: RopeAngles,
  pools: LayerPages,
  pageTable: Tensor,
  lengths: Tensor,
  tableStart: Tensor | null = null,
): Tensor {
  const op = 'page_append';
  const y = call().pageAppend(
    handleOf(q, op, 'q'),
    handleOf(k, op, 'k'),
    handleOf(v, op, 'v'),
    handleOf(cos, op, 'cos'),
    handleOf(sin, op, 'sin'),
    handleOf(pools.k, op, 'kPool'),
    handleOf(pools.v, op, 'vPool'),
    handleOf(pageTable, op, 'pageTable'),
    handleOf(lengths, op, 'lengths'),
    tableStart && handleOf(tableStart, op, 'tableStart'),
  );
  return wrap(y, q.dtype, q.shape, q.device);
}

/**
 * The positions of the last `count` tokens of each sequence, [b, count] i32: lengths[b] − count + i, as `pageAppend` counts them, and 0 where
 * that is negative. For what is looked up by position, such as learned embeddings, in a step whose lengths change.
 */
export function positions(lengths: Tensor, count: number): Tensor {
  const handle = call().positions(handleOf(lengths, 'positions', 'lengths'), count);
  return wrap(handle, 'i32', [lengths.shape[0]!, count], lengths.device);
}
