/** What the engine asks of a model. */
import type { ExpertModule } from '../linear/expert_module';
import type { Linear } from '../linear/linear';
import type { Device } from '../native/device';
import type { Past } from '../ops/attention_paged';
import type { AdapterUse } from '../peft/adapter_use';
import type { DType } from '../native/dtype';
import type { Tensor } from '../tensor/tensor';

/** What the failures of ops show as their caller's stack: the engine calls them for all requests together. */
export const engineStack = '    at generate (a step of the engine)';

/** What a layer keeps of a text: pages of keys and values, or numbers in f32 whose count does not depend on its length. */
export type EngineLayer =
  | {
      readonly kind: 'attention';
      readonly kvHeads: number;
      readonly headDim: number;
      /** The earlier layer whose pages it reads; absent: it has its own. */
      readonly keysOf?: number;
    }
  | { readonly kind: 'state'; readonly states: Readonly<Record<string, readonly number[]>> };

/** A model that the engine runs. */
export interface EngineModel {
  readonly device: Device;
  /** The dtype of activations, keys and values. */
  readonly dtype: DType;
  readonly layers: readonly EngineLayer[];
  /** The layers that adapters may change. */
  readonly linears: readonly Linear[];
  /** The matrices of experts, which adapters may change too. */
  readonly experts: readonly ExpertModule[];
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
