/** A matrix in the layout that the kernels of its device read: frozen, or the rounded copy of a master that is trained. */
import type { Activations, NativeTensor, NativeWeight, StoredDType, WeightFormat } from '../native/binding';
import { binding, call } from '../native/calls';
import { nativeDevice, type Device } from '../native/device';
import type { DType, FloatDType } from '../native/dtype';
import { loraError } from '../errors';
import { blockBytes, isBlockFormat, type BlockFormat } from '../native/block_formats';
import { blockValues } from '../native/constants';
import { checkFloat } from './arguments';
import { adoptParameter } from './create';
import { rawCast } from './raw';
import { computed, runDetached } from './scope';
import { type Parameter, type Tensor, wrap } from './tensor';
import { check, shapeText } from '../validate';

export type QuantizedFormat = Extract<WeightFormat, 'int8' | 'nf4' | 'fp4'>;

/** Formats that matrices are kept in as a file has them: those, and GGUF's blocks. */
export type PackedFormat = QuantizedFormat | BlockFormat;

/** Formats that weights can be quantized to. */
export const quantizedFormats = ['nf4', 'fp4', 'int8'] as const satisfies readonly QuantizedFormat[];

/** The scale of int8 values of a row whose largest magnitude this is. */
export const scaleOfInt8 = (magnitude: number): number => Math.fround(magnitude * Math.fround(1 / 127));

/** Whether a weight is kept in a format whose values are computed from what is stored. */
export const isPacked = (format: FloatDType | PackedFormat): format is PackedFormat =>
  isBlockFormat(format) || (quantizedFormats as readonly string[]).includes(format);

/** Formats whose codes are whole numbers, which int8 activations are multiplied by (core/maths/int8_activations.h). */
const wholeFormats: readonly (FloatDType | PackedFormat)[] = [
  ...['int8', 'q8_0', 'q4_0', 'q4_1', 'q5_0', 'q5_1', 'q4_k', 'q5_k', 'q6_k'],
] as const;

export const hasWholeCodes = (format: FloatDType | PackedFormat): boolean => wholeFormats.includes(format);

/** Bytes of a quantized matrix in memory: its codes, and its scales in f32; or its blocks. */
export function quantizedBytes(format: PackedFormat, rows: number, cols: number): number {
  if (isBlockFormat(format)) return blockBytes(format, rows, cols);
  if (format === 'int8') return rows * cols + 4 * rows;
  return Math.ceil((rows * cols) / 2) + 4 * Math.ceil((rows * cols) / blockValues);
}

/** The magnitudes that were read of quantize(). @throws `code`, naming `where`, for values that are not finite. */
export function finiteMagnitudes(
  op: string,
  code: 'ERR_ARGUMENT' | 'ERR_FILE',
  where: string,
  bytes: ArrayBuffer,
): Float32Array {
  const magnitudes = new Float32Array(bytes);
  if (magnitudes.every(Number.isFinite)) return magnitudes;
  throw loraError(op, code, `expected finite weights to quantize but received NaN or an infinity${where}`);
}

/** The scales of values with these largest magnitudes, in the place of which they are written. */
export function scalesOf(format: QuantizedFormat, magnitudes: Float32Array): Float32Array {
  if (format === 'int8') magnitudes.forEach((x, row) => (magnitudes[row] = scaleOfInt8(x)));
  return magnitudes;
}

/**
 * W [rows, cols] = [out, in], packed once for activations of `dtype`, in which ops see its values whatever its format. Counted:
 * a recorded graph keeps it alive after dispose().
 */
export class FrozenWeight {
  #refs = 1;
  #disposed = false;
  /** How generation takes what it multiplies by this weight: 'int8' where the format has whole codes. */
  activations: Activations = 'exact';
  /** null: it is packed when it is read. */
  #handle: NativeWeight | null;
  #format: FloatDType | PackedFormat;
  #master: Parameter | undefined;
  /** The version of the master that is packed. */
  #packed = 0;

  private constructor(
    handle: NativeWeight,
    readonly rows: number,
    readonly cols: number,
    readonly dtype: DType,
    readonly device: Device,
    format: FloatDType | PackedFormat,
  ) {
    this.#handle = handle;
    this.#format = format;
  }

  /** What ops read; while it is trained, the values of the master at the time of the call. */
  get handle(): NativeWeight {
    const master = this.#master;
    if (master && master.version !== this.#packed) this.forgetPacked();
    return (this.#handle ??= this.#pack(master!));
  }

  /** How its values are kept. */
  get format(): FloatDType | PackedFormat {
    return this.#format;
  }

  #pack(master: Parameter): NativeWeight {
    this.#packed = master.version;
    this.#format = this.dtype as FloatDType;
    return runDetached(null, () => {
      const rounded = master.dtype === this.dtype ? master : rawCast(master, this.dtype);
      const shape = [this.rows, this.cols];
      const handle = call().pack(rounded.handle, null, this.dtype as FloatDType, shape, this.dtype);
      if (rounded !== master) rounded.dispose();
      return handle;
    });
  }

  /** The master that it follows while it is trained. */
  get master(): Parameter | undefined {
    return this.#master;
  }

  /** Makes a master of its values, row-major [rows, cols], in f32 or in `dtype`; ops read them rounded to that until freeze(). */
  train(name: string, kept: DType = 'f32'): Parameter {
    const values = computed(() => {
      const own = this.unpack();
      return own.dtype === kept ? own : rawCast(own, kept);
    });
    this.#master = adoptParameter(values, name);
    this.#packed = 0;
    return this.#master;
  }

  /** Frees the packed copy of a master: where the master itself is multiplied, its memory is of better use. */
  forgetPacked(): void {
    if (!this.#master || !this.#handle) return;
    binding().release(this.#handle);
    this.#handle = null;
  }

  /** Keeps the values of the master, rounded, and frees it. */
  freeze(): void {
    if (!this.#master) return;
    void this.handle; // packs the last values
    this.#master.dispose();
    this.#master = undefined;
  }

  /** The dtype in which a matrix of floats is kept for activations of `dtype`: its own where the device reads it so, else theirs. */
  static keptDType(stored: FloatDType, dtype: FloatDType, device: Device): FloatDType {
    return binding().reads(nativeDevice(device), stored, dtype) ? stored : dtype;
  }

  /**
   * Packs a row-major matrix for activations of `dtype`; it is no longer needed afterwards. `unpack` gives its values back bit for bit.
   *
   * @throws ERR_UNSUPPORTED where its device does not read such a matrix for these activations; see keptDType.
   */
  static pack(rowMajor: Tensor, dtype: DType = rowMajor.dtype): FrozenWeight {
    checkFloat('pack', rowMajor, 'the matrix');
    check(
      rowMajor.shape.length === 2,
      'pack',
      () => `expected a matrix [out, in] but received ${shapeText(rowMajor.shape)}`,
    );
    const [rows, cols] = rowMajor.shape as [number, number];
    const packed = call().pack(rowMajor.handle, null, rowMajor.dtype as FloatDType, [rows, cols], dtype);
    return new FrozenWeight(packed, rows, cols, dtype, rowMajor.device, rowMajor.dtype as FloatDType);
  }

  /**
   * Packs W = q·s [rows, cols] for activations of `dtype`: of int8 values [rows, cols] and f32 scales [rows], or of the bytes of 4-bit
   * codes (value 2n of the flattened matrix in the high bits of byte n) and f32 scales, one for each 64 values of it. Or of GGUF's
   * blocks, row after row as in the file, which hold their scales: then `scales` is null.
   *
   * @throws ERR_ARGUMENT for other sizes, among them rows that are not whole blocks; ERR_UNSUPPORTED where the device does not read the
   * format.
   */
  static packQuantized(
    format: PackedFormat,
    values: Uint8Array | NativeTensor,
    scales: Float32Array | null,
    [rows, cols]: readonly [number, number],
    dtype: DType,
    device: Device,
  ): FrozenWeight {
    const on = nativeDevice(device);
    const made: NativeTensor[] = [];
    const upload = (type: StoredDType, shape: readonly number[], bytes: Uint8Array): NativeTensor => {
      const tensor = binding().fromBytes(on, type, shape, bytes);
      made.push(tensor);
      return tensor;
    };
    try {
      const stored =
        values instanceof Uint8Array
          ? upload('i8', format === 'int8' ? [rows, cols] : [values.byteLength], values)
          : values;
      const uploaded =
        scales &&
        upload('f32', [scales.length], new Uint8Array(scales.buffer, scales.byteOffset, scales.byteLength));
      const packed = call().pack(stored, uploaded, format, [rows, cols], dtype);
      return new FrozenWeight(packed, rows, cols, dtype, device, format);
    } finally {
      for (const tensor of made) binding().release(tensor);
    }
  }

  /**
   * The values of a row-major matrix in a format with scales, as packQuantized takes them, and the largest magnitude of each group of values
   * that share a scale: NaN where one of them is not finite. The caller releases both.
   */
  static quantize(
    rowMajor: Tensor,
    format: QuantizedFormat,
  ): { values: NativeTensor; magnitudes: NativeTensor } {
    checkFloat('quantize', rowMajor, 'the matrix');
    const [values, magnitudes] = call().quantize(rowMajor.handle, format);
    return { values, magnitudes };
  }

  /**
   * Quantizes a row-major matrix and packs the result for activations of `dtype`, for constructors: it blocks until the magnitudes are
   * read. Models await them (codesOf in models).
   *
   * @throws ERR_UNSUPPORTED as packQuantized; ERR_ARGUMENT for values that are not finite.
   */
  static packQuantizing(
    op: string,
    rowMajor: Tensor,
    format: QuantizedFormat,
    dtype: FloatDType,
  ): FrozenWeight {
    const { device, shape } = rowMajor;
    FrozenWeight.checkReads(op, format, dtype, device);
    const { values, magnitudes } = FrozenWeight.quantize(rowMajor, format);
    try {
      const found = finiteMagnitudes(op, 'ERR_ARGUMENT', '', binding().readSync(magnitudes));
      const scales = scalesOf(format, found);
      return FrozenWeight.packQuantized(format, values, scales, shape as [number, number], dtype, device);
    } finally {
      binding().release(values);
      binding().release(magnitudes);
    }
  }

  /** @throws ERR_UNSUPPORTED where the device does not read the format for activations of `dtype`. */
  static checkReads(op: string, format: PackedFormat, dtype: FloatDType, device: Device): void {
    if (binding().reads(nativeDevice(device), format, dtype)) return;
    throw loraError(
      op,
      'ERR_UNSUPPORTED',
      `${device} does not read ${format} weights for ${dtype} activations`,
    );
  }

  /** The row-major matrix [rows, cols] in `dtype`. */
  unpack(): Tensor {
    this.check('unpack');
    if (this.#master) return rawCast(this.#master, this.dtype); // packed copies are for products
    return wrap(call().unpack(this.handle), this.dtype, [this.rows, this.cols], this.device);
  }

  get disposed(): boolean {
    return this.#disposed;
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.release();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** @internal ERR_DISPOSED when it is gone. */
  check(op: string): void {
    if (this.#disposed) throw loraError(op, 'ERR_DISPOSED', 'the weight has been disposed');
  }

  /** @internal One more holder, which calls release() when it is done. */
  retain(): this {
    this.#refs++;
    return this;
  }

  /** @internal */
  release(): void {
    if (--this.#refs > 0) return;
    this.#master?.dispose();
    if (this.#handle) binding().release(this.#handle);
  }
}
