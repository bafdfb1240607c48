/** Layers one after the other. */
import type { Tensor } from '../tensor/tensor';
import { check, checkOptions, describe } from '../validate';
import { Module, type LayerOptions } from './module';

const op = 'Sequential';

/** A step of a {@link Sequential}: a layer, or a function such as `(x) => x.relu()`. */
export type SequentialStep = { forward(x: Tensor, options?: LayerOptions): Tensor } | ((x: Tensor) => Tensor);

/**
 * The output of each step is the input of the next.
 *
 * @example
 * const network = new Sequential([
 *   new Linear({ inFeatures: 4, outFeatures: 16 }),
 *   (x) => x.relu(),
 *   new Dropout({ p: 0.1 }),
 *   new Linear({ inFeatures: 16, outFeatures: 3 }),
 * ]);
 * const y = network.forward(x);
 */
export class Sequential extends Module {
  /** The steps, by whose numbers checkpoints name their states. */
  readonly layers: readonly SequentialStep[];

  /** @throws ERR_ARGUMENT for what is neither a layer nor a function. */
  constructor(layers: readonly SequentialStep[]) {
    super();
    const steps: readonly SequentialStep[] = layers;
    check(Array.isArray(layers), op, () => `expected a list of layers but received ${describe(layers)}`);
    layers.forEach((step, i) =>
      check(
        typeof step === 'function' || typeof (step as Partial<Module> | null)?.forward === 'function',
        op,
        () => `expected layer ${i} to have forward(), or to be a function, but received ${describe(step)}`,
      ),
    );
    this.layers = [...steps];
  }

  /** x → the output of the last step; `train` goes to each layer. */
  forward(x: Tensor, options: LayerOptions = {}): Tensor {
    checkOptions(op, options, ['train']);
    let y = x;
    for (const step of this.layers) y = typeof step === 'function' ? step(y) : step.forward(y, options);
    return y;
  }
}
