/** Trained vectors of ids. */
import { deviceName, type Device } from '../native/device';
import { randomNormal } from '../ops/random';
import { take } from '../ops/take';
import { adoptParameter } from '../tensor/create';
import { runUntracked } from '../tensor/scope';
import type { NestedNumbers, Parameter, Tensor } from '../tensor/tensor';
import { checkInteger, checkOptions } from '../validate';
import { Module } from './module';
import { nextSeed } from './seeds';

const op = 'Embedding';

/** Sizes of an {@link Embedding}, and how it begins. */
export interface EmbeddingOptions {
  /** How many ids there are. */
  numEmbeddings: number;
  /** The length of the vector of each. */
  embeddingDim: number;
  /** Where the vectors lie. Default 'cpu'. */
  device?: Device | undefined;
  /** Of the initial vectors. Default: the number of layers that were made before. */
  seed?: number | undefined;
}

/**
 * y[i] = weight[ids[i]] with weight [ids, dim], f32 and trained; it begins at N(0, 1), as PyTorch's does.
 *
 * @example
 * const words = new Embedding({ numEmbeddings: 1000, embeddingDim: 32 });
 * const y = words.forward([[1, 2, 3]]); // [1, 3, 32]
 */
export class Embedding extends Module {
  /** How many ids there are. */
  readonly numEmbeddings: number;
  /** The length of the vector of each. */
  readonly embeddingDim: number;
  /** [ids, dim]. */
  readonly weight: Parameter;

  /** @throws ERR_ARGUMENT for an unknown option and a size below 1. */
  constructor(options: EmbeddingOptions) {
    super();
    checkOptions(op, options, ['numEmbeddings', 'embeddingDim', 'device', 'seed']);
    const { numEmbeddings, embeddingDim } = options;
    checkInteger(op, 'numEmbeddings', numEmbeddings, 1);
    checkInteger(op, 'embeddingDim', embeddingDim, 1);
    if (options.seed !== undefined) checkInteger(op, 'seed', options.seed);
    const device = deviceName(op, options.device ?? 'cpu');
    const { seed = nextSeed() } = options;
    this.numEmbeddings = numEmbeddings;
    this.embeddingDim = embeddingDim;
    this.weight = runUntracked(() =>
      adoptParameter(randomNormal([numEmbeddings, embeddingDim], { seed, device }), 'weight'),
    );
  }

  /**
   * ids [...], numbers or an i32 tensor → [..., dim].
   *
   * @throws ERR_DATA (when it runs) for an id outside of [0, ids).
   */
  forward(ids: Tensor | NestedNumbers): Tensor {
    return take(this.weight, ids);
  }

  protected override get facts(): string {
    return `${this.numEmbeddings} × ${this.embeddingDim}`;
  }
}
