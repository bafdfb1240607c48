/** The element types of GGUF files: how many values are one block, and its bytes. */
import { blockFormats, type BlockFormat } from '../native/block_formats';

/** By the number in the file: the name, values of a block, bytes of a block. Matrices are kept in the types of blockFormats as well. */
const others = {
  0: ['F32', 1, 4],
  1: ['F16', 1, 2],
  9: ['Q8_1', 32, 36],
  15: ['Q8_K', 256, 292],
  16: ['IQ2_XXS', 256, 66],
  17: ['IQ2_XS', 256, 74],
  18: ['IQ3_XXS', 256, 98],
  24: ['I8', 1, 1],
  25: ['I16', 1, 2],
  26: ['I32', 1, 4],
  27: ['I64', 1, 8],
  28: ['F64', 1, 8],
  29: ['IQ1_M', 256, 56],
  30: ['BF16', 1, 2],
} as const;

/** The name of an element type, as ggml has it. */
export type GgufType = (typeof others)[keyof typeof others][0] | Uppercase<BlockFormat>;

export interface GgufBlock {
  readonly type: GgufType;
  /** Values that are stored together; a row consists of whole blocks. */
  readonly values: number;
  readonly bytes: number;
}

const blocks = new Map<number, GgufBlock>([
  ...Object.entries(others).map(
    ([id, [type, values, bytes]]) => [Number(id), { type, values, bytes }] as const,
  ),
  ...Object.entries(blockFormats).map(
    ([format, { type, values, bytes }]) =>
      [type, { type: format.toUpperCase() as Uppercase<BlockFormat>, values, bytes }] as const,
  ),
]);

/** The type of a number in a file; undefined for one that is not known. */
export const ggufBlock = (id: number): GgufBlock | undefined => blocks.get(id);

const blockTypes = new Set<string>(
  [...blocks.values()].filter(({ values }) => values > 1).map(({ type }) => type),
);
/** Whether values of this type are stored in blocks. */
export const isStoredInBlocks = (name: string): boolean => blockTypes.has(name);

/** The block types of matrices that are read, for messages. */
export const storedBlocks = Object.keys(blockFormats).join(', ').toUpperCase();

const blockIds = Object.fromEntries(
  Object.entries(blockFormats).map(([format, { type }]) => [format.toUpperCase(), type]),
) as Record<Uppercase<BlockFormat>, number>;

/** The numbers of the types that files are written with. */
export const ggufTypeIds = { F32: 0, F16: 1, BF16: 30, ...blockIds } as const;
