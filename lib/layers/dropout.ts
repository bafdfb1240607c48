/** Dropout as a layer, whose masks follow from a seed and a count. */
import { dropout } from '../ops/dropout';
import { reshape } from '../ops/layout';
import { isRecording } from '../tensor/scope';
import { checkForwards, prepare, type StateDict } from '../tensor/state';
import type { Tensor } from '../tensor/tensor';
import { checkFloat } from '../tensor/arguments';
import { check, checkBoolean, checkInteger, checkNumber, checkOptions, isDropout } from '../validate';
import { Module, type LayerOptions } from './module';
import { nextSeed } from './seeds';

const op = 'Dropout';

/** How much a {@link Dropout} drops. */
export interface DropoutOptions {
  /** The probability with which an element becomes 0; the others are divided by 1 − p. Default 0.5. */
  p?: number | undefined;
  /** Of the masks. Default: the number of layers that were made before. */
  seed?: number | undefined;
}

/**
 * In training each element is 0 with probability p, else x/(1 − p); otherwise y = x. Each training forward draws the next mask, the same on
 * every device; checkpoints hold the count, so that a run that continues draws what it would have drawn. Srivastava et al. (2014).
 *
 * @example
 * const layer = new Dropout({ p: 0.1 });
 * const y = layer.forward(x); // drops where gradients are recorded
 * const same = layer.forward(x, { train: false });
 */
export class Dropout extends Module {
  /** The probability of dropping. */
  readonly p: number;
  readonly #seed: number;
  #forwards = 0;

  /** @throws ERR_ARGUMENT for an unknown option and a probability outside of [0, 1). */
  constructor(options: DropoutOptions = {}) {
    super();
    checkOptions(op, options, ['p', 'seed']);
    const { p = 0.5 } = options;
    checkNumber(op, 'p', p, 0);
    check(isDropout(p), op, `expected p to be below 1 but received ${p}`);
    if (options.seed !== undefined) checkInteger(op, 'seed', options.seed);
    this.p = p;
    this.#seed = options.seed ?? nextSeed();
  }

  /** x [..., d] → the same shape and dtype. */
  forward(x: Tensor, options: LayerOptions = {}): Tensor {
    checkFloat(op, x, 'x');
    checkOptions(op, options, ['train']);
    const { train = isRecording() } = options;
    checkBoolean(op, 'train', train);
    if (!train || this.p === 0) return reshape(x, x.shape); // which shares the memory
    const forward = this.#forwards;
    this.#forwards = (forward + 1) % 2 ** 32;
    return dropout(x, { p: this.p, seed: this.#seed, layer: 0, forward });
  }

  /** The count of training forwards. */
  override stateDict(): StateDict {
    return { forwards: this.#forwards };
  }

  /** @internal */
  override [prepare](state: StateDict): () => void {
    checkOptions(op, state, ['forwards']);
    const { forwards } = state;
    checkForwards(op, forwards);
    return () => {
      this.#forwards = forwards;
    };
  }

  protected override get facts(): string {
    return `p ${this.p}`;
  }
}
