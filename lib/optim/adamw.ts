/** AdamW over flat state. */
import { call } from '../native/calls';
import type { Parameter } from '../tensor/tensor';
import { checkNumber } from '../validate';
import { Optimizer, type OptimizerGroup, type OptimizerOptions } from './optimizer';
import { checkBetas } from './parameters';
import { perElement, type Rule, type Update } from './rule';

const op = 'AdamW';

/** Settings of all parameters, or of a group. */
export interface AdamWOptions extends OptimizerOptions {
  /** β₁ and β₂, how slowly the moments move. Default [0.9, 0.999]. */
  betas?: readonly [number, number] | undefined;
  /** Keeps the denominator from 0. Default 1e-8. */
  eps?: number | undefined;
  /** Decoupled: p ← p·(1 − lr·weightDecay); default 0.01. */
  weightDecay?: number | undefined;
}

/** Parameters with settings of their own. */
export interface ParameterGroup extends AdamWOptions, OptimizerGroup {}

/** All settings beside lr. */
export type AdamWSettings = {
  readonly betas: readonly [number, number];
  readonly eps: number;
  readonly weightDecay: number;
};

/** What AdamW computes, on a state that `update` keeps in its own way. */
export const adamWRule = {
  defaults: { betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0.01 } as AdamWSettings,
  check(name: string, { betas, eps, weightDecay }: { readonly [K in keyof AdamWSettings]?: unknown }): void {
    if (eps !== undefined) checkNumber(name, 'eps', eps, 0);
    if (weightDecay !== undefined) checkNumber(name, 'weightDecay', weightDecay, 0);
    if (betas !== undefined) checkBetas(name, betas);
  },
  options: ({ settings: { betas, eps, weightDecay }, lr, step }: Update<AdamWSettings>) => ({
    lr,
    beta1: betas[0],
    beta2: betas[1],
    eps,
    weightDecay,
    step,
  }),
};

const rule: Rule<AdamWSettings, 'm' | 'v'> = {
  op,
  defaults: adamWRule.defaults,
  check: (settings) => adamWRule.check(op, settings),
  state: () => perElement('m', 'v'),
  update: (update) => call().adamw(update.segments, adamWRule.options(update), update.guard),
};

/**
 * Adam with decoupled weight decay, in f32 (Loshchilov & Hutter, "Decoupled Weight Decay Regularization",
 * 2019). Per parameter with a gradient g, at its t-th update:
 *   p ← p·(1 − lr·decay);  m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;
 *   p ← p − lr/(1−β₁ᵗ) · m / (√(v/(1−β₂ᵗ)) + eps)
 * A parameter without a gradient is left as it is. An update whose gradient failed does not run; the next
 * step() or stateDict() then throws that failure, and zeroGrad() clears it.
 *
 * @example
 * const optimizer = new AdamW(layer.parameters(), { lr: 1e-3 });
 * loss.backward();
 * optimizer.step();
 * optimizer.zeroGrad();
 */
export class AdamW extends Optimizer<AdamWSettings> {
  /**
   * For parameters with one setting, or for groups with settings of their own.
   *
   * @throws ERR_ARGUMENT for an empty list, a parameter that is listed twice, a setting out of range.
   * @example
   * const optimizer = new AdamW([
   *   { params: [layer.up], lr: 1e-3 },
   *   { params: [layer.down], lr: 1e-4, weightDecay: 0 },
   * ]);
   */
  constructor(params: Iterable<Parameter> | readonly ParameterGroup[], options: AdamWOptions = {}) {
    super(rule, params, options);
  }
}
