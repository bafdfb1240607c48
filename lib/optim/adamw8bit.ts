/** AdamW whose state takes a quarter of the memory. */
import { call } from '../native/calls';
import { momentBlock as block } from '../native/constants';
import type { Parameter } from '../tensor/tensor';
import { adamWRule, type AdamWOptions, type AdamWSettings, type ParameterGroup } from './adamw';
import { Optimizer } from './optimizer';
import type { Rule, StateTensor } from './rule';

const op = 'AdamW8bit';

const blocksOf = (numel: number): number => Math.ceil(numel / block);
/** Codes are bytes, four in an i32, of whole blocks. */
const codes = <Name extends string>(name: Name): StateTensor<Name> => ({
  name,
  dtype: 'i32',
  length: (numel) => (blocksOf(numel) * block) / 4,
});
const scales = <Name extends string>(name: Name): StateTensor<Name> => ({
  name,
  dtype: 'f32',
  length: blocksOf,
});

const rule: Rule<AdamWSettings, 'mCodes' | 'vCodes' | 'mScales' | 'vScales'> = {
  op,
  defaults: adamWRule.defaults,
  check: (settings) => adamWRule.check(op, settings),
  state: () => [codes('mCodes'), codes('vCodes'), scales('mScales'), scales('vScales')],
  update: (update) => call().adamw8bit(update.segments, adamWRule.options(update), update.guard),
};

/**
 * {@link AdamW} with moments of 8 bits, in 2 bytes per parameter instead of 8 (Dettmers et al., "8-bit Optimizers via Block-wise
 * Quantization", 2022, arXiv 2110.02861). The moments of 256 consecutive elements share a scale s, the largest magnitude among them:
 *   m = s·d(code), |d| ≤ 1, where the 256 values of d are dense near 0 ("dynamic tree"), with a sign for m and without one for v
 * A step computes with m and v in f32 and rounds the new ones to the nearest values. Every parameter has blocks of its own, the last of
 * which is padded: a parameter of n elements has ⌈n/256⌉·520 bytes of state. Parameters and gradients stay f32.
 *
 * A gradient that is no number spoils its own element of the parameter and the moments of its block.
 *
 * @example
 * const optimizer = new AdamW8bit(layer.parameters(), { lr: 1e-3 });
 * loss.backward();
 * optimizer.step();
 * optimizer.zeroGrad();
 */
export class AdamW8bit extends Optimizer<AdamWSettings> {
  /**
   * For parameters with one setting, or for groups with settings of their own; the settings are those of {@link AdamW}.
   *
   * @throws ERR_ARGUMENT for an empty list, a parameter that is listed twice, a setting out of range.
   * @example
   * const optimizer = new AdamW8bit(layer.parameters(), { lr: 1e-3, weightDecay: 0 });
   */
  constructor(params: Iterable<Parameter> | readonly ParameterGroup[], options: AdamWOptions = {}) {
    super(rule, params, options);
  }
}
