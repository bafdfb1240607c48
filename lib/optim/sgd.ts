/** Stochastic gradient descent. */
import { call } from '../native/calls';
import type { Parameter } from '../tensor/tensor';
import { check, checkBoolean, checkNumber, describe } from '../validate';
import { Optimizer, type OptimizerGroup, type OptimizerOptions } from './optimizer';
import { perElement, type Rule } from './rule';

const op = 'SGD';

/** Settings of all parameters, or of a group. */
export interface SGDOptions extends OptimizerOptions {
  /** μ, how slowly the velocity moves; of at least 0 and below 1. Default 0, which keeps no velocity. */
  momentum?: number | undefined;
  /** Looks ahead along the velocity. Needs momentum. Default false. */
  nesterov?: boolean | undefined;
  /** Added to the gradient: g ← g + weightDecay·p; default 0. */
  weightDecay?: number | undefined;
}

/** Parameters with settings of their own. */
export interface SGDParameterGroup extends SGDOptions, OptimizerGroup {}

/** All settings beside lr. */
type SGDSettings = {
  readonly momentum: number;
  readonly nesterov: boolean;
  readonly weightDecay: number;
};

const rule: Rule<SGDSettings, 'velocity'> = {
  op,
  defaults: { momentum: 0, nesterov: false, weightDecay: 0 },
  check({ momentum, nesterov, weightDecay }) {
    if (momentum !== undefined)
      check(
        typeof momentum === 'number' && momentum >= 0 && momentum < 1,
        op,
        `expected momentum to be a number of at least 0 and below 1 but received ${describe(momentum)}`,
      );
    if (nesterov !== undefined) checkBoolean(op, 'nesterov', nesterov);
    if (weightDecay !== undefined) checkNumber(op, 'weightDecay', weightDecay, 0);
  },
  state({ momentum, nesterov }) {
    check(momentum > 0 || !nesterov, op, 'expected momentum above 0, since nesterov is true');
    return momentum > 0 ? perElement('velocity') : [];
  },
  update({ segments, settings, lr, guard }) {
    call().sgd(segments, { lr, ...settings }, guard);
  },
};

/**
 * Stochastic gradient descent, in f32, as PyTorch's SGD computes it. Per parameter with a gradient g:
 *   g ← g + decay·p;  v ← μv + g;  p ← p − lr·v, and with nesterov p ← p − lr·(g + μv)
 * (Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013). Without momentum, v is g. The decay is
 * coupled: it passes through the velocity. A parameter without a gradient is left as it is.
 *
 * @example
 * const optimizer = new SGD(layer.parameters(), { lr: 0.1, momentum: 0.9 });
 * loss.backward();
 * optimizer.step();
 * optimizer.zeroGrad();
 */
export class SGD extends Optimizer<SGDSettings> {
  /**
   * For parameters with one setting, or for groups with settings of their own.
   *
   * @throws ERR_ARGUMENT for an empty list, a parameter that is listed twice, a setting out of range.
   * @example
   * const optimizer = new SGD(layer.parameters(), { lr: 0.1, momentum: 0.9, nesterov: true });
   */
  constructor(params: Iterable<Parameter> | readonly SGDParameterGroup[], options: SGDOptions = {}) {
    super(rule, params, options);
  }
}
