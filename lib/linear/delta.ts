/** What an adapter changes in one linear layer. A kind of change is one file of this folder; the methods of lib/peft choose among them. */
import type { PartOrder } from './expert_parts';
import type { Device } from '../native/device';
import type { ExpertChange } from '../ops/experts';
import type { LoraBranch } from '../ops/lora_linear';
import type { FrozenWeight } from '../tensor/frozen_weight';
import type { Parameter, Tensor } from '../tensor/tensor';

/** The frozen layer that is changed, y [..., out] of x [..., in]. */
export interface FrozenLayer {
  readonly inFeatures: number;
  readonly outFeatures: number;
  readonly base: FrozenWeight;
  readonly bias?: Tensor | undefined;
}

/** The layer in a call: its weight is W' of another change while that is merged. */
export interface CalledLayer {
  readonly weight: FrozenWeight;
  readonly bias?: Tensor | undefined;
}

/** How one layer is changed. */
export interface DeltaSpec {
  /** The rank. */
  readonly r: number;
  /** α/r, or α/√r. */
  readonly scale: number;
  /** The first of the random streams that its initial values are drawn from. */
  readonly stream: number;
  /** Its number in the dropout masks. */
  readonly layer: number;
}

/** What the initial values depend on. */
export interface DeltaInit {
  readonly seed: number;
  readonly device: Device;
  /** How they begin: true, or 'gaussian', as a change that changes nothing yet, false at random. PEFT's init_lora_weights. */
  readonly initWeights: boolean | 'gaussian';
}

/** How one forward call uses a delta. */
export interface DeltaUse {
  /** A factor on the change; 1 is the whole of it. */
  readonly scale: number;
  /** The probability of the dropout on its input, and the numbers that its mask is drawn with; absent: no dropout. */
  readonly dropout?: { readonly p: number; readonly seed: number; readonly forward: number };
}

/** Operands of the fused op beside those of the frozen layer. */
export type AddedOperands = Omit<LoraBranch, 'weight' | 'bias'>;

interface AnyDelta {
  /** By the names that the kind gives them. */
  readonly parameters: ReadonlyMap<string, Parameter>;
  /** The weight with `scale` times the change in it, row-major, rounded once to the dtype of `weight`; absent where no weight says the same. */
  merged?(weight: FrozenWeight, scale: number): Tensor;
  /** The bias with `scale` times the change in it; absent where the change leaves the bias as it is. */
  mergedBias?(bias: Tensor, scale: number): Tensor;
  /** Frees what it keeps beside its parameters. */
  dispose?(): void;
}

/** A change that the fused op computes with the layer. */
export interface FusedDelta extends AnyDelta {
  /** What it adds to the operands of the op. */
  branch(use: DeltaUse): AddedOperands;
}

/** A change with a way of its own to compute the layer. */
export interface ComputedDelta extends AnyDelta {
  /** y of x. */
  forward(layer: CalledLayer, x: Tensor, use: DeltaUse): Tensor;
  /**
   * Returns what it adds to the operands of the fused op, or undefined where that op cannot compute this call and forward() does. The
   * caller must not dispose of these tensors. Some are derived from the parameters (DoRA's factor): those are computed anew where the
   * parameters have changed since the last call.
   */
  fused?(layer: CalledLayer, use: DeltaUse): AddedOperands | undefined;
}

/** A change of what goes into the frozen layer: y = W·input(x) + bias. */
export interface InputDelta extends AnyDelta {
  input(x: Tensor, use: DeltaUse): Tensor;
}

/** A change of what comes out of it: y = output(W·x + bias). The fused op computes the layer together with others that read the same x. */
export interface OutputDelta extends AnyDelta {
  output(y: Tensor, use: DeltaUse): Tensor;
}

/** Where the matrix of an expert stands in the parameter of all: its expert, and which of equally many rows of it. */
export interface ExpertPlace {
  readonly expert: number;
  readonly part: number;
  readonly parts: number;
  readonly order: PartOrder;
}

/** A change of the matrices of all experts of a block. */
export interface ExpertDelta extends AnyDelta {
  readonly spec: DeltaSpec;
  /** Its operands of the product with each part of the rows of the experts; the caller disposes of them. */
  changes(use: DeltaUse, parts: number, order: PartOrder): ExpertChange[];
  /** The matrix of one expert with `scale` times the change in it, as `merged` of a layer. */
  mergedExpert(weight: FrozenWeight, scale: number, place: ExpertPlace): Tensor;
}

/** The change of one layer: its trainable tensors, and what they do to a call and to the weight. */
export type Delta = FusedDelta | ComputedDelta | InputDelta | OutputDelta | ExpertDelta;

/** A kind of change. */
export interface DeltaKind {
  /** What its tensors are called in adapter_model.safetensors, behind the path of the layer. */
  readonly names: Readonly<Record<string, string>>;
  /** Why it cannot change this layer; undefined: it can. */
  refuses?(layer: FrozenLayer): string | undefined;
  /** The names and shapes of its tensors. */
  tensors(layer: FrozenLayer, spec: DeltaSpec): ReadonlyMap<string, readonly number[]>;
  /** Their initial values in f32, by the same names. */
  initial(layer: FrozenLayer, spec: DeltaSpec, init: DeltaInit): Map<string, Tensor>;
  /** The change that these parameters make. */
  make(spec: DeltaSpec, parameters: ReadonlyMap<string, Parameter>): Delta;
}
