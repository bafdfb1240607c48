/** A linear layer: one frozen weight, and what an adapter changes in it. */
import type { LinearPhase } from '../native/binding';
import { loraLinearGroup, type LoraBranch } from '../ops/lora_linear';
import { FrozenWeight } from '../tensor/frozen_weight';
import type { Tensor } from '../tensor/tensor';
import type { AddedOperands, Delta, DeltaUse, FrozenLayer } from './delta';

/** The change that a call makes to one layer; absent: the frozen layer alone. */
export interface AppliedDelta {
  readonly delta: Delta;
  readonly use: DeltaUse;
}

/**
 * y = W·x + bias, W [out, in] frozen. The weight that calls read is the base, or while a change is merged W' in its place.
 * Layers of LoRALinear and of CausalLM are these.
 */
export class Linear implements FrozenLayer {
  #merged: FrozenWeight | null = null;

  /** Takes over the weight and the bias [out]. `path`: as transformers names the module, for messages and files. */
  constructor(
    readonly path: string,
    readonly base: FrozenWeight,
    readonly bias?: Tensor,
  ) {}

  get outFeatures(): number {
    return this.base.rows;
  }

  get inFeatures(): number {
    return this.base.cols;
  }

  /** The weight that calls read. */
  get weight(): FrozenWeight {
    return this.#merged ?? this.base;
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

  /** The weight with a change in it, in the layout of its device; the caller owns it. */
  packMerged(applied: AppliedDelta): FrozenWeight {
    const matrix = this.rowMajor(applied);
    const packed = FrozenWeight.pack(matrix);
    matrix.dispose();
    return packed;
  }

  /** Takes over a weight with a change in it: calls read it until unmerge(). The base is kept. */
  setMerged(weight: FrozenWeight): void {
    this.#merged?.dispose();
    this.#merged = weight;
  }

  /** Puts the base back. */
  unmerge(): void {
    this.#merged?.dispose();
    this.#merged = null;
  }

  /** x [..., in] → y [..., out]. */
  forward(x: Tensor, applied?: AppliedDelta): Tensor {
    return forwardGroup(x, [[this, applied]])[0]!;
  }

  dispose(): void {
    this.unmerge();
    this.base.dispose();
    this.bias?.dispose();
  }
}

/** What a change adds to the operands of the fused op; undefined where it computes the call itself. */
export function addedOperands(layer: Linear, { delta, use }: AppliedDelta): AddedOperands | undefined {
  return 'branch' in delta ? delta.branch(use) : delta.fused?.(layer, use);
}

/** Layers that read one x [..., in], which is read once: query, key and value; gate and up. */
export function forwardGroup(
  x: Tensor,
  layers: readonly (readonly [Linear, AppliedDelta | undefined])[],
  phase?: LinearPhase,
): Tensor[] {
  const results = new Array<Tensor>(layers.length);
  const fused: { at: number; branch: LoraBranch }[] = [];
  layers.forEach(([layer, applied], at) => {
    const { weight, bias } = layer;
    const added = applied && addedOperands(layer, applied);
    if (applied && 'forward' in applied.delta && !added)
      results[at] = applied.delta.forward(layer, x, applied.use);
    else fused.push({ at, branch: { weight, bias, ...added } });
  });
  if (fused.length > 0) {
    const outputs = loraLinearGroup(
      x,
      fused.map(({ branch }) => branch),
      { phase },
    );
    fused.forEach(({ at }, i) => (results[at] = outputs[i]!));
  }
  return results;
}
