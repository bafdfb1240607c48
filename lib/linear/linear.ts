/** A linear layer: one weight, frozen or trained, and what an adapter changes in it. */
import type { LinearPhase } from '../native/binding';
import { roomInQueue } from '../native/device';
import { loraLinearGroup, type LoraBranch } from '../ops/lora_linear';
import { cast } from '../ops/cast';
import { matmulTransposed } from '../ops/matmul';
import { FrozenWeight } from '../tensor/frozen_weight';
import { gradientIsWanted, moved } from '../tensor/scope';
import type { Parameter, Tensor } from '../tensor/tensor';
import type { AddedOperands, Delta, DeltaUse, FrozenLayer } from './delta';

/**
 * What a layer does in a model, by which methods of adaptation choose their targets. `mixerInput` gives what a convolution or a recurrence in the place of
 * an attention reads; the layer behind that is an `attentionOutput` too. `score` gives the logits of a head of classes.
 */
export type LinearRole =
  | 'query'
  | 'key'
  | 'value'
  | 'queryKeyValue'
  | 'mixerInput'
  | 'attentionOutput'
  | 'gate'
  | 'up'
  | 'gateUp'
  | 'mlpOutput'
  | 'layerInput'
  | 'router'
  | 'outputEmbedding'
  | 'score';

/** The change that a call makes to one layer; absent: the frozen layer alone. */
export interface AppliedDelta {
  readonly delta: Delta;
  readonly use: DeltaUse;
}

/** Weights with a change in them, which take the place of those of their module when commit() is called. */
export interface PreparedMerge {
  commit(): void;
  dispose(): void;
}

/** A weight with a change in it, and the bias where the change is in that too. */
export interface Merged {
  readonly weight: FrozenWeight;
  readonly bias: Tensor | undefined;
}

export function disposeMerged({ weight, bias }: Merged): void {
  weight.dispose();
  bias?.dispose();
}

/**
 * y = W·x + bias, W [out, in]. The weight that calls read is the base, or while a change is merged W' in its place.
 * Layers of LoRALinear and of CausalLM are these.
 */
export class Linear implements FrozenLayer {
  #merged: Merged | null = null;

  /** Takes over the weight and the bias [out]. `path`: as transformers names the module, for messages and files. */
  constructor(
    readonly path: string,
    readonly base: FrozenWeight,
    public baseBias?: Tensor,
    readonly role: LinearRole | null = null,
    /** Whether Hugging Face's files hold W as [in, out], as those of GPT-2 do. */
    readonly fanInFanOut = false,
  ) {}

  get outFeatures(): number {
    return this.base.rows;
  }

  get inFeatures(): number {
    return this.base.cols;
  }

  /** The weight that calls read. */
  get weight(): FrozenWeight {
    return this.#merged?.weight ?? this.base;
  }

  /** The bias that calls add. */
  get bias(): Tensor | undefined {
    return this.#merged?.bias ?? this.baseBias;
  }

  /** Whether a change is in the weight. */
  get merged(): boolean {
    return this.#merged !== null;
  }

  /** The weight that calls read, with a change in it where one is given that a weight can hold, row-major; the caller owns it. */
  rowMajor(applied?: AppliedDelta): Tensor {
    if (!applied) return this.weight.unpack();
    return applied.delta.merged!(this.weight, applied.use.scale);
  }

  /** The bias with a change in it, which the caller owns; undefined where the change leaves the bias as it is. */
  changedBias({ delta, use }: AppliedDelta): Tensor | undefined {
    return this.bias && delta.mergedBias?.(this.bias, use.scale);
  }

  /** The weight with a change in it, in the layout of its device, and the bias where that changes too; the caller owns both. */
  packMerged(applied: AppliedDelta): Merged {
    const matrix = this.rowMajor(applied);
    const weight = FrozenWeight.pack(matrix);
    matrix.dispose();
    return { weight, bias: this.changedBias(applied) };
  }

  async prepareMerge(applied: AppliedDelta): Promise<PreparedMerge> {
    await roomInQueue(this.base.device);
    const merged = this.packMerged(applied);
    return { commit: () => this.setMerged(merged), dispose: () => disposeMerged(merged) };
  }

  /** Takes over a weight with a change in it: calls read it until unmerge(). The base is kept. */
  setMerged(merged: Merged): void {
    this.unmerge();
    this.#merged = merged;
  }

  /** Puts the base back. */
  unmerge(): void {
    if (this.#merged) disposeMerged(this.#merged);
    this.#merged = null;
  }

  /** x [..., in] → y [..., out]. */
  forward(x: Tensor, applied?: AppliedDelta): Tensor {
    return forwardGroup(x, [[this, applied]])[0]!;
  }

  /** The same where the weight is trained: the product is with its master, rounded to the dtype of x, and dW = gᵀ·x. */
  forwardMaster(x: Tensor, master: Parameter): Tensor {
    this.base.forgetPacked();
    const { bias } = this;
    const y =
      master.dtype === x.dtype
        ? matmulTransposed(x, master)
        : moved(cast(master, x.dtype), (weight) => matmulTransposed(x, weight));
    if (!bias) return y;
    const sum = moved(y, (t) => t.add(bias));
    return moved(sum, (t) => t.to({ dtype: x.dtype }));
  }

  dispose(): void {
    this.unmerge();
    this.base.dispose();
    this.baseBias?.dispose();
  }
}

/** What a change adds to the operands of the fused op; undefined where it computes the call itself. */
export function addedOperands(layer: Linear, { delta, use }: AppliedDelta): AddedOperands | undefined {
  if ('branch' in delta) return delta.branch(use);
  return 'forward' in delta ? delta.fused?.(layer, use) : undefined;
}

/** Layers that read one x [..., in], which is read once: query, key and value; gate and up. */
export function forwardGroup(
  x: Tensor,
  layers: readonly (readonly [Linear, AppliedDelta | undefined])[],
  phase?: LinearPhase,
): Tensor[] {
  const results = new Array<Tensor>(layers.length);
  const fused: { at: number; branch: LoraBranch; applied: AppliedDelta | undefined }[] = [];
  layers.forEach(([layer, applied], at) => {
    const { weight, bias } = layer;
    const { master } = weight;
    if (master && gradientIsWanted()) {
      results[at] = layer.forwardMaster(x, master);
      return;
    }
    const added = applied && addedOperands(layer, applied);
    const delta = added ? undefined : applied?.delta;
    if (delta && 'forward' in delta) results[at] = delta.forward(layer, x, applied!.use);
    else if (delta && 'input' in delta) {
      const changed = delta.input(x, applied!.use);
      results[at] = loraLinearGroup(changed, [{ weight, bias }], { phase })[0]!;
      changed.dispose();
    } else fused.push({ at, branch: { weight, bias, ...added }, applied });
  });
  if (fused.length > 0) {
    const outputs = loraLinearGroup(
      x,
      fused.map(({ branch }) => branch),
      { phase },
    );
    fused.forEach(({ at, applied }, i) => {
      const y = outputs[i]!;
      const { delta, use } = applied ?? {};
      results[at] = delta && 'output' in delta ? moved(y, (t) => delta.output(t, use!)) : y;
    });
  }
  return results;
}
