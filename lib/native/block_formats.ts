/** The block formats of ggml, as GGUF files hold them: native/core/maths/block_formats.h says what their values are. */

interface BlockLayout {
  /** The number of the type in a GGUF file. */
  readonly type: number;
  /** Neighboring values of a row that are in a block, and its bytes. */
  readonly values: number;
  readonly bytes: number;
}

/** A row of a matrix is a sequence of whole blocks, which hold their own scales. */
export const blockFormats = {
  q4_0: { type: 2, values: 32, bytes: 18 },
  q4_1: { type: 3, values: 32, bytes: 20 },
  q5_0: { type: 6, values: 32, bytes: 22 },
  q5_1: { type: 7, values: 32, bytes: 24 },
  q8_0: { type: 8, values: 32, bytes: 34 },
  q2_k: { type: 10, values: 256, bytes: 84 },
  q3_k: { type: 11, values: 256, bytes: 110 },
  q4_k: { type: 12, values: 256, bytes: 144 },
  q5_k: { type: 13, values: 256, bytes: 176 },
  q6_k: { type: 14, values: 256, bytes: 210 },
  iq1_s: { type: 19, values: 256, bytes: 50 },
  iq4_nl: { type: 20, values: 32, bytes: 18 },
  iq3_s: { type: 21, values: 256, bytes: 110 },
  iq2_s: { type: 22, values: 256, bytes: 82 },
  iq4_xs: { type: 23, values: 256, bytes: 136 },
  tq1_0: { type: 34, values: 256, bytes: 54 },
  tq2_0: { type: 35, values: 256, bytes: 66 },
  mxfp4: { type: 39, values: 32, bytes: 17 },
} as const satisfies Readonly<Record<string, BlockLayout>>;

export type BlockFormat = keyof typeof blockFormats;

export const isBlockFormat = (format: string): format is BlockFormat => Object.hasOwn(blockFormats, format);

/** Those that files are written in: native/core/maths/quantize_blocks.h rounds to them. */
export const writtenBlocks = ['q8_0', 'q5_0', 'q4_0', 'q4_k'] as const satisfies readonly BlockFormat[];

export type WrittenBlocks = (typeof writtenBlocks)[number];

export const isWrittenBlocks = (format: string): format is WrittenBlocks =>
  (writtenBlocks as readonly string[]).includes(format);

/** Bytes of a matrix [rows, cols], whose rows are whole blocks. */
export function blockBytes(format: BlockFormat, rows: number, cols: number): number {
  const { values, bytes } = blockFormats[format];
  return (rows * cols * bytes) / values;
}
