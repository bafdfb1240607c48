/** Element types of tensors. */
export type DType = 'f32' | 'bf16' | 'f16' | 'i32';
export type FloatDType = Exclude<DType, 'i32'>;

/** All of them. */
export const dtypes: readonly DType[] = ['f32', 'bf16', 'f16', 'i32'];

export const bytesPerElement: Readonly<Record<DType, number>> = { f32: 4, bf16: 2, f16: 2, i32: 4 };
