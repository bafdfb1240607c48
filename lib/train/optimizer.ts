/** Which optimizer takes the steps of a run. */
import { AdamW } from '../optim/adamw';
import { AdamW8bit } from '../optim/adamw8bit';
import { Lion } from '../optim/lion';
import { Optimizer } from '../optim/optimizer';
import { SGD } from '../optim/sgd';
import type { OptimizerName } from '../options/table';
import type { Parameter } from '../tensor/tensor';
import { check, describe } from '../validate';

const kinds = {
  adamw: AdamW,
  adamw8bit: AdamW8bit,
  sgd: SGD,
  lion: Lion,
} as const satisfies Record<OptimizerName, unknown>;

export interface OptimizerChoice {
  readonly optimizer?: OptimizerName | Optimizer | undefined;
  readonly loraPlusRatio?: number | undefined;
}

/** Checks the options, and gives the name under which checkpoints remember the optimizer. */
export function checkOptimizer({ optimizer = 'adamw', loraPlusRatio }: OptimizerChoice): string {
  const named = typeof optimizer === 'string' && Object.hasOwn(kinds, optimizer);
  check(
    named || optimizer instanceof Optimizer,
    'Trainer',
    `expected optimizer to be one of ${Object.keys(kinds).join(', ')}, or an optimizer, but received ${describe(optimizer)}`,
  );
  check(
    named || loraPlusRatio === undefined,
    'Trainer',
    'expected loraPlusRatio or an optimizer of your own, whose groups have rates, but received both',
  );
  return typeof optimizer === 'string' ? optimizer : optimizer.kind.toLowerCase();
}

/** An optimizer for the parameters; with a ratio, those that PEFT calls lora_B are a group with a higher rate. */
export function makeOptimizer(
  name: OptimizerName,
  params: readonly Parameter[],
  rates: { lr: number; weightDecay: number; loraPlusRatio: number | undefined; seed: number },
): Optimizer {
  const make = kinds[name];
  const { lr, weightDecay, loraPlusRatio, seed } = rates;
  if (loraPlusRatio === undefined) return new make([...params], { lr, weightDecay, seed });
  const isUp = ({ name: key }: Parameter): boolean => /(^|\.)lora_B\.weight$/.test(key);
  const [up, rest] = [params.filter(isUp), params.filter((p) => !isUp(p))];
  check(
    up.length > 0,
    'Trainer',
    'expected a parameter that ends in lora_B.weight, since loraPlusRatio is given',
  );
  const groups = [{ params: up, lr: lr * loraPlusRatio }, ...(rest.length > 0 ? [{ params: rest }] : [])];
  return new make(groups, { lr, weightDecay, seed });
}
