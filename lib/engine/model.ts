/** What the engine asks of a model, and what a forward pass takes beside the ids of its tokens. */
import type { Linear } from '../linear/linear';
import type { LinearPhase } from '../native/binding';
import type { Device } from '../native/device';
import type { Adapter } from '../peft/adapter';
import type { DType } from '../tensor/dtype';
import type { Tensor } from '../tensor/tensor';

/** What the failures of ops show as their caller's stack: the engine calls them for all requests together. */
export const engineStack = '    at generate (a step of the engine)';

/** The adapter of one forward pass, and the number its dropout masks are drawn with (undefined: no dropout). */
export interface AdapterUse {
  readonly adapter: Adapter | null;
  readonly dropoutForward?: number | undefined;
  /** Adapters of the rows of the batch, in the place of one for all. */
  readonly rows?: RowDeltas | undefined;
  /** What the call is part of, where its bits may not depend on the number of its rows. */
  readonly phase?: LinearPhase | undefined;
}

/** The changes that the rows of a batch make to layers. */
export interface RowDeltas {
  /** The adapters whose changes are recorded for backward(), each once. */
  readonly distinct: readonly Adapter[];
  /** x [b, .., in] → y [b, .., out] of each layer. */
  forward(x: Tensor, linears: readonly Linear[]): Tensor[];
}

/** Keys and values of one layer, [pages, heads, 64, headDim] each. */
export interface LayerPages {
  readonly k: Tensor;
  readonly v: Tensor;
}

/** The tokens before those of a call, of each of its b sequences. The tensors are read when the ops run. */
export interface Past {
  /** Keys and values of each layer. */
  readonly layers: readonly LayerPages[];
  /** The pages of each sequence, [b, maxPages] i32. */
  readonly pageTable: Tensor;
  /** Tokens of each sequence, those of the call included, [b] i32. */
  readonly lengths: Tensor;
  /** The position of each token of the call, [b, s] i32. */
  readonly positions: Tensor;
  /** More than any position. */
  readonly mostPositions: number;
  /** A part of one prompt, or one token of each sequence. */
  readonly phase: 'prefill' | 'decode';
}

/** A model that the engine runs. */
export interface EngineModel {
  readonly device: Device;
  /** The dtype of activations, keys and values. */
  readonly dtype: DType;
  readonly layers: number;
  /** Heads of keys and values, and numbers of a head. */
  readonly kvHeads: number;
  readonly headDim: number;
  /** The layers that adapters may change. */
  readonly linears: readonly Linear[];
  /** Prepares positions below this one, outside of a recording. */
  prepare(positions: number): void;
  /** ids [b, s] → hidden states [b, s, hidden], with a pause after each block. */
  hiddenStates(ids: Tensor, use: AdapterUse, past: Past): Generator<void, Tensor, void>;
  /** Hidden states of m tokens [m, hidden] → logits [m, vocab]. Consumes them. */
  logits(hidden: Tensor, use: AdapterUse): Tensor;
}
