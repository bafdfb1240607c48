/** Lion: the sign of a momentum. */
import { call } from '../native/calls';
import type { Parameter } from '../tensor/tensor';
import { checkNumber } from '../validate';
import { Optimizer, type OptimizerGroup, type OptimizerOptions } from './optimizer';
import { perElement, type Rule } from './rule';
import { checkBetas } from './parameters';

const op = 'Lion';

/** Settings of all parameters, or of a group. */
export interface LionOptions extends OptimizerOptions {
  /** β₁ of the direction and β₂ of the momentum. Default [0.9, 0.99]. */
  betas?: readonly [number, number] | undefined;
  /** Decoupled: p ← p·(1 − lr·weightDecay); default 0. */
  weightDecay?: number | undefined;
}

/** Parameters with settings of their own. */
export interface LionParameterGroup extends LionOptions, OptimizerGroup {}

/** All settings beside lr. */
type LionSettings = { readonly betas: readonly [number, number]; readonly weightDecay: number };

const rule: Rule<LionSettings, 'm'> = {
  op,
  defaults: { betas: [0.9, 0.99], weightDecay: 0 },
  check({ betas, weightDecay }) {
    if (betas !== undefined) checkBetas(op, betas);
    if (weightDecay !== undefined) checkNumber(op, 'weightDecay', weightDecay, 0);
  },
  state: () => perElement('m'),
  update({ segments, settings, lr, guard }) {
    const { betas, weightDecay } = settings;
    call().lion(segments, { lr, beta1: betas[0], beta2: betas[1], weightDecay }, guard);
  },
};

/**
 * Lion, in f32 (Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023), with decoupled weight decay. Per parameter with a
 * gradient g:
 *   p ← p·(1 − lr·decay) − lr·sign(β₁m + (1−β₁)g);  m ← β₂m + (1−β₂)g
 * Every element moves by lr, so that a good lr is 3 to 10 times below AdamW's, and a good decay as many times above. It keeps one
 * number per parameter, where AdamW keeps two. A parameter without a gradient is left as it is.
 *
 * @example
 * const optimizer = new Lion(layer.parameters(), { lr: 1e-4 });
 * loss.backward();
 * optimizer.step();
 * optimizer.zeroGrad();
 */
export class Lion extends Optimizer<LionSettings> {
  /**
   * For parameters with one setting, or for groups with settings of their own.
   *
   * @throws ERR_ARGUMENT for an empty list, a parameter that is listed twice, a setting out of range.
   * @example
   * const optimizer = new Lion(layer.parameters(), { lr: 1e-4, weightDecay: 0.1 });
   */
  constructor(params: Iterable<Parameter> | readonly LionParameterGroup[], options: LionOptions = {}) {
    super(rule, params, options);
  }
}
