/** The block formats of ggml, as GGUF files hold them: native/core/maths/block_formats.h says what their values are. */

import { blockSizes, writtenBlocks } from './constants';

export type BlockFormat = keyof typeof blockSizes;

interface BlockLayout {
  /** The number of the type in a GGUF file. */
  readonly type: number;
  /** Neighboring values of a row that are in a block, and its bytes. */
  readonly values: number;
  readonly bytes: number;
}

const types: Readonly<Record<BlockFormat, number>> = {
  ...{ q4_0: 2, q4_1: 3, q5_0: 6, q5_1: 7, q8_0: 8, q2_k: 10, q3_k: 11, q4_k: 12, q5_k: 13, q6_k: 14 },
  ...{ iq1_s: 19, iq4_nl: 20, iq3_s: 21, iq2_s: 22, iq4_xs: 23, tq1_0: 34, tq2_0: 35, mxfp4: 39 },
};

/** A row of a matrix is a sequence of whole blocks, which hold their own scales. */
export const blockFormats = Object.fromEntries(
  Object.entries(types).map(([name, type]) => [name, { type, ...blockSizes[name as BlockFormat] }]),
) as Readonly<Record<BlockFormat, BlockLayout>>;

export const isBlockFormat = (format: string): format is BlockFormat => Object.hasOwn(blockFormats, format);

export type WrittenBlocks = (typeof writtenBlocks)[number];

export const isWrittenBlocks = (format: string): format is WrittenBlocks =>
  (writtenBlocks as readonly string[]).includes(format);

/** Bytes of a matrix [rows, cols], whose rows are whole blocks. */
export function blockBytes(format: BlockFormat, rows: number, cols: number): number {
  const { values, bytes } = blockFormats[format];
  return (rows * cols * bytes) / values;
}
