/** What the engine asks of a model. */
import type { Linear } from '../linear/linear';
import type { Device } from '../native/device';
import type { Past } from '../ops/attention_paged';
import type { AdapterUse } from '../peft/adapter_use';
import type { DType } from '../native/dtype';
import type { Tensor } from '../tensor/tensor';

/** What the failures of ops show as their caller's stack: the engine calls them for all requests together. */
export const engineStack = '    at generate (a step of the engine)';

/** A model that the engine runs. */
export interface EngineModel {
  readonly device: Device;
  /** The dtype of activations, keys and values. */
  readonly dtype: DType;
  /** What each layer keeps of a token: heads of keys and values, and numbers of a head. */
  readonly layers: readonly { readonly kvHeads: number; readonly headDim: number }[];
  /** The layers that adapters may change. */
  readonly linears: readonly Linear[];
  /** Counts the changes of weights that are trained. */
  revision(): number;
  /** Prepares positions below this one, outside of a recording. */
  prepare(positions: number): void;
  /**
   * Where a text of so many positions, at the most that it may have, begins in the tables of its angles (`Past`): the numbers of one text come
   * from one start. Absent: all begin at 0.
   */
  readonly tableStart?: ((positions: number) => number) | undefined;
  /**
   * ids [b, s] → hidden states [b, s, hidden], with a pause after each block. `input` puts vectors among the embeddings of the tokens, which
   * it consumes.
   */
  hiddenStates(
    ids: Tensor,
    use: AdapterUse,
    past: Past,
    input?: (embeddings: Tensor) => Tensor,
  ): Generator<void, Tensor, void>;
  /** Hidden states of m tokens [m, hidden] → logits [m, vocab]. Consumes them. */
  logits(hidden: Tensor, use: AdapterUse): Tensor;
}
