/** A frozen matrix in the layout that the kernels of its device read. */
import type { NativeWeight } from '../native/binding';
import { binding, call } from '../native/calls';
import { nativeDevice, type Device } from '../native/device';
import type { DType } from './dtype';
import { LoRAError } from '../errors';
import { checkFloat } from './arguments';
import { type Tensor, wrap } from './tensor';
import { check, shapeText } from '../validate';

/**
 * W [rows, cols] = [out, in], packed once for activations of `dtype`, in which ops see its values whatever its format. Counted:
 * a recorded graph keeps it alive after dispose().
 */
export class FrozenWeight {
  #refs = 1;
  #disposed = false;

  private constructor(
    readonly handle: NativeWeight,
    readonly rows: number,
    readonly cols: number,
    readonly dtype: DType,
    readonly device: Device,
  ) {}

  /** The dtype in which a matrix of `stored` is kept for activations of `dtype`: its own where the device reads it so, else theirs. */
  static keptDType(stored: DType, dtype: DType, device: Device): DType {
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
    const packed = call().pack(rowMajor.handle, null, dtype);
    return new FrozenWeight(packed, rows, cols, dtype, rowMajor.device);
  }

  /**
   * Packs W = q·s of int8 `values` [rows, cols] and f32 `scales` [rows] for activations of `dtype`.
   *
   * @throws ERR_UNSUPPORTED where the device of the scales does not read int8 rows.
   */
  static packInt8(values: Uint8Array, scales: Tensor, cols: number, dtype: DType): FrozenWeight {
    const { device } = scales;
    const rows = scales.shape[0]!;
    const matrix = binding().fromBytes(nativeDevice(device), 'i8', [rows, cols], values);
    try {
      const packed = call().pack(matrix, scales.handle, dtype);
      return new FrozenWeight(packed, rows, cols, dtype, device);
    } finally {
      binding().release(matrix);
    }
  }

  /** The row-major matrix [rows, cols] in `dtype`. */
  unpack(): Tensor {
    this.check('unpack');
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
    if (this.#disposed) throw new LoRAError('ERR_DISPOSED', `[${op}] the weight has been disposed`, { op });
  }

  /** @internal One more holder, which calls release() when it is done. */
  retain(): this {
    this.#refs++;
    return this;
  }

  /** @internal */
  release(): void {
    if (--this.#refs === 0) binding().release(this.handle);
  }
}
