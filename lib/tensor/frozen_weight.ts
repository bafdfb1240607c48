/** A frozen matrix in the layout that the kernels of its device read. */
import type { NativeWeight } from '../native/binding';
import { binding, call } from '../native/calls';
import type { Device } from '../native/device';
import type { DType } from './dtype';
import { LoRAError } from '../errors';
import { checkFloat } from './arguments';
import { type Tensor, wrap } from './tensor';
import { check, shapeText } from '../validate';

/**
 * W [rows, cols] = [out, in], packed once; the layout for the gradient is made at its first use. Counted:
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

  /** Packs a row-major matrix, which is no longer needed afterwards. `unpack` gives it back bit for bit. */
  static pack(rowMajor: Tensor): FrozenWeight {
    checkFloat('pack', rowMajor, 'the matrix');
    check(
      rowMajor.shape.length === 2,
      'pack',
      `expected a matrix [out, in] but received ${shapeText(rowMajor.shape)}`,
    );
    const [rows, cols] = rowMajor.shape as [number, number];
    return new FrozenWeight(call().pack(rowMajor.handle), rows, cols, rowMajor.dtype, rowMajor.device);
  }

  /** The row-major matrix [rows, cols]. */
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
