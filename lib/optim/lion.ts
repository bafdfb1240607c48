/** Lion: the sign of a momentum. */
import { rawBinary, rawFilled } from '../tensor/raw';
import type { Parameter, Tensor } from '../tensor/tensor';
import { checkNumber } from '../validate';
import { add, relu, scale, sub, updateFlat } from './flat';
import { Optimizer, type OptimizerGroup, type OptimizerOptions, type Rule } from './optimizer';
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

const rule: Rule<LionSettings> = {
  op,
  defaults: { betas: [0.9, 0.99], weightDecay: 0 },
  check({ betas, weightDecay }) {
    if (betas !== undefined) checkBetas(op, betas);
    if (weightDecay !== undefined) checkNumber(op, 'weightDecay', weightDecay, 0);
  },
  state: () => ['m'],
  update(update) {
    const { lr } = update;
    const { betas, weightDecay } = update.settings;
    updateFlat(update, (p, g, [m]) => {
      const blend = (beta: number): Tensor => add(scale(m!, beta), scale(g, 1 - beta));
      const kept = weightDecay === 0 ? p : scale(p, 1 - lr * weightDecay);
      return [sub(kept, scale(sign(blend(betas[0])), lr)), blend(betas[1])];
    });
  },
};

/** The largest power of two in f32: it takes every normal number to 2 or more. */
const huge = 2 ** 127;

/** −1, 0 or 1: the part below 0 and that above, each blown up and cut at 1. A number below 2⁻¹²⁷ gives a part of 1. */
function sign(x: Tensor): Tensor {
  const one = rawFilled([], 1, 'f32', x.device);
  const left = (part: Tensor): Tensor => relu(rawBinary('sub', one, part, 'f32', x.shape));
  const [above, below] = [relu(scale(x, huge)), relu(scale(x, -huge))];
  return sub(left(below), left(above));
}

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
