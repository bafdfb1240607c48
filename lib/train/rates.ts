/** The learning rates of runs that give none, and that of `lr: 'auto'` with its reason. */
import type { CausalLM } from '../models/causal_lm';
import type { ObjectiveName } from '../options/objectives';
import type { LoRAConfig } from '../peft/config';
import { check } from '../validate';
import type { OptimizerChoice } from './optimizer';
import { subjectOf } from './subjects';

/** A learning rate that a rule gave. */
export interface RuledRate {
  /** The learning rate before the schedule, of two digits. */
  readonly lr: number;
  /** The rule with its values, for people. */
  readonly reason: string;
}

/**
 * The rate of a run that gives none. Preferences and rewards change what a model has learned already: TRL's rate for all weights, and ten
 * times that for an adapter.
 */
export function usualRate(model: CausalLM, isAfterwards: boolean): number {
  if (!isAfterwards) return 2e-4;
  return model.core.trainedParameters.length > 0 ? 1e-6 : 1e-5;
}

/** The rate of full fine-tuning at `usualWidth`; LoRA's is `ofLoRA` times that at `usualAlpha`. */
const fullRate = 5e-5;
const usualWidth = 2000;
const ofLoRA = 10;
/** Up is zero at first: runs of at most so many steps are better with more. */
const shortRun = 100;
const ofShortLoRA = 15;
const usualAlpha = 32;
/** TRL's default of preferences and rewards, 1e-6, is that of supervised fine-tuning, 2e-5, divided by this. */
const afterwards = 20;
const objectivesAfterwards: readonly ObjectiveName[] = ['dpo', 'orpo', 'kto', 'cpo', 'grpo'];
/** How fast the rate falls as models get wider. */
const exponents = { llama: 0.781, qwen: 0.0775 };

/** By the width of the model, whose family the exponent depends on; where none is known, the rule that gives less. */
function widthFactor({ modelType, hiddenSize }: CausalLM['config']): [factor: number, words: string] {
  const [exponent, of] =
    modelType === 'llama'
      ? [exponents.llama, 'llama']
      : modelType.startsWith('qwen')
        ? [exponents.qwen, 'qwen']
        : hiddenSize < usualWidth
          ? [exponents.qwen, `qwen, the lower rate, as none is known for ${modelType}`]
          : [exponents.llama, `llama, the lower rate, as none is known for ${modelType}`];
  return [
    (usualWidth / hiddenSize) ** exponent,
    `(${usualWidth} / ${hiddenSize})^${exponent} for its width (the exponent of ${of})`,
  ];
}

/**
 * α as the rule counts it: that of the scale α / r.
 * The update is scaled by α / √r with rsLoRA, which is what an α of α·√r gives without.
 */
const alphaOf = ({ loraAlpha, r, useRslora }: LoRAConfig): number =>
  useRslora ? loraAlpha * Math.sqrt(r) : loraAlpha;

/** What the rule depends on. */
interface RuledRun extends OptimizerChoice {
  readonly model: CausalLM;
  readonly objective?: ObjectiveName | undefined;
  readonly train?: 'adapter' | 'all' | undefined;
  /** Where it is known. */
  readonly totalSteps: number | undefined;
}

const optimizers: readonly unknown[] = ['adamw', 'adamw8bit'];

/**
 * Checks what a rule is asked for, with the method of the adapter where one is trained: also before there is a model.
 * @throws ERR_ARGUMENT for a method, an optimizer or options that the rule says nothing of.
 */
export function checkRuled(
  op: string,
  { optimizer = 'adamw', loraPlusRatio }: OptimizerChoice,
  method: string | undefined,
): void {
  check(
    optimizers.includes(optimizer),
    op,
    `expected lr to be a number with ${typeof optimizer === 'string' ? optimizer : 'an optimizer of your own'}, since the rule of 'auto' is for ${optimizers.join(' and ')}`,
  );
  check(
    loraPlusRatio === undefined,
    op,
    "expected lr to be a number with loraPlusRatio, since the rule of 'auto' is for one rate of all parameters",
  );
  check(
    method === undefined || method === 'lora',
    op,
    `expected lr to be a number with ${method}, since a rule for 'auto' is known for lora, dora and full alone: lora-native compare --methods ${method} tries five`,
  );
}

/**
 * lr = 5e-5 · (2000 / hidden size)^e for all weights, and of LoRA 10 · √(32/α) times that, or in up to 100 steps 15 · √(32/α) times, with e = 0.781 for Llama and 0.0775 for Qwen; of
 * preferences and rewards a twentieth. Schulman et al., "LoRA Without Regret", Thinking Machines, 2025, found that LoRA's best rate is about ten
 * times that of all weights, fifteen times in short runs, and, at α = 32, the same for every rank; their tinker-cookbook published the exponents. What another α does is
 * from sweeps of this project: docs/guides/learning-rate.md.
 *
 * @throws as checkRuled() does
 */
export function autoRate(op: string, run: RuledRun): RuledRate {
  const { model, objective = 'sft', totalSteps = Infinity } = run;
  const { adapter } = subjectOf(model, run.train);
  checkRuled(op, run, adapter?.method);
  const [factor, words] = widthFactor(model.config);
  const parts = [`${fullRate} of all weights`, words];
  let lr = fullRate * factor;
  if (adapter !== null) {
    const alpha = alphaOf(adapter.config as LoRAConfig);
    // Up and down each move by about lr: α · lr² says how far their product does.
    const times = totalSteps > shortRun ? ofLoRA : ofShortLoRA;
    lr *= times * Math.sqrt(usualAlpha / alpha);
    parts.push(`${times} for LoRA${times === ofLoRA ? '' : ` in ${totalSteps} steps`}`);
    if (alpha !== usualAlpha) parts.push(`√(${usualAlpha} / ${short(alpha)}) for its alpha`);
  }
  if (objectivesAfterwards.includes(objective)) {
    lr /= afterwards;
    parts.push(`1 / ${afterwards} for ${objective}`);
  }
  return { lr: Number(lr.toPrecision(2)), reason: `${parts.join(' · ')}, by "LoRA Without Regret"` };
}

const short = (value: number): string => String(Number(value.toPrecision(3)));
