/** Element types of safetensors files. */
import { dtypes, type DType, type FloatDType } from '../native/dtype';

/** Bits of one element, in the order by which the official writer sorts tensors (last first). */
export const safetensorsBits = {
  BOOL: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  F8_E4M3FNUZ: 8,
  F8_E5M2FNUZ: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
} as const;

/** Element types that a safetensors file can hold. */
export type SafetensorsDType = keyof typeof safetensorsBits;

/** How a tensor's element type is called in a file. */
export const storedDType = { f32: 'F32', bf16: 'BF16', f16: 'F16', i32: 'I32' } as const satisfies Record<
  DType,
  SafetensorsDType
>;

/** How PyTorch calls it, in the files of models. */
export const torchNames = { f32: 'float32', bf16: 'bfloat16', f16: 'float16' } as const satisfies Record<
  FloatDType,
  string
>;

const tensorDTypes: ReadonlyMap<string, DType> = new Map(dtypes.map((dtype) => [storedDType[dtype], dtype]));

/** The element type of a tensor that holds what a file calls `stored`; undefined where there is none. */
export const dtypeOfStored = (stored: string): DType | undefined => tensorDTypes.get(stored);

/** The floats among them; undefined for everything else. */
export function floatOfStored(stored: string): FloatDType | undefined {
  const dtype = dtypeOfStored(stored);
  return dtype === 'i32' ? undefined : dtype;
}

/** Their names in a file, for messages. */
export const storedFloats = 'F32, BF16, F16';

const ranks = new Map(Object.keys(safetensorsBits).map((name, rank) => [name, rank]));

export function isSafetensorsDType(name: unknown): name is SafetensorsDType {
  return typeof name === 'string' && ranks.has(name);
}

/** Position in the official order: wider types have higher ranks. */
export function dtypeRank(dtype: SafetensorsDType): number {
  return ranks.get(dtype) ?? -1;
}

/**
 * Bytes of a tensor, or a sentence that says why there is no such size. A shape of [] is one element.
 */
export function tensorBytes(dtype: SafetensorsDType, shape: readonly number[]): number | string {
  let elements = 1;
  for (const size of shape) {
    elements *= size;
    if (!Number.isSafeInteger(elements)) return `the shape [${shape.join(', ')}] has too many elements`;
  }
  const bits = elements * safetensorsBits[dtype];
  if (!Number.isSafeInteger(bits)) return `the shape [${shape.join(', ')}] has too many bytes`;
  if (bits % 8 !== 0) return `${elements} elements of ${dtype} do not fill whole bytes`;
  return bits / 8;
}
