/** The codes of a model's matrices in memory, with what is merged into them, for saving them quantized. */
import { binding } from '../../native/calls';
import { roomInQueue } from '../../native/device';
import { runDetached, tidy } from '../../tensor/scope';
import type { Tensor } from '../../tensor/tensor';
import { nest } from './double_quant';
import type { QuantizePlan } from './quantize_options';
import type { Codes, CodeSource } from './quantized_planes';
import { codesOf, packCodes } from './codes';

const op = 'save';

export class Requantizer implements CodeSource {
  readonly #matrices = new Map<string, () => Tensor>();
  readonly #measured = new Set<string>();
  #last: Codes | undefined;
  #errors = 0;
  #squares = 0;

  constructor(private readonly plan: QuantizePlan) {}

  /** `make` gives the matrix row-major; it is disposed of afterwards. */
  add(name: string, make: () => Tensor): void {
    this.#matrices.set(name, make);
  }

  /** ‖Q(W) − W‖ / ‖W‖ over all matrices whose codes were asked for, in the Frobenius norm; 0 where all are zeros. */
  get error(): number {
    return this.#squares === 0 ? 0 : Math.sqrt(this.#errors / this.#squares);
  }

  async codes(name: string): Promise<Codes> {
    if (this.#last?.name === name) return this.#last;
    this.dispose();
    const x = runDetached(null, this.#matrices.get(name)!);
    try {
      await roomInQueue(x.device);
      const { values, magnitudes } = await codesOf(op, name, x, this.plan.format);
      this.#last = { name, values, magnitudes, nested: undefined };
      if (this.plan.doubleQuant) this.#last = { ...this.#last, nested: await nest(magnitudes) };
      if (!this.#measured.has(name)) await this.#measure(x, this.#last);
      this.#measured.add(name);
      return this.#last;
    } finally {
      x.dispose();
    }
  }

  async #measure(x: Tensor, { values, magnitudes }: Codes): Promise<void> {
    const codes = { values, magnitudes: Float32Array.from(magnitudes) };
    const kept = await packCodes(codes, this.plan, x.shape, 'f32', x.device);
    const [error, square] = runDetached(null, () =>
      tidy(() => {
        const back = kept.unpack();
        kept.dispose();
        const whole = x.to({ dtype: 'f32' });
        return [back.sub(whole).square().sum(), whole.square().sum()] as const;
      }),
    );
    try {
      this.#errors += await error.item();
      this.#squares += await square.item();
    } finally {
      error.dispose();
      square.dispose();
    }
  }

  dispose(): void {
    if (this.#last) binding().release(this.#last.values);
    this.#last = undefined;
  }
}
