/** Calls of the native binding, of every function in turn, with none, one or two operands damaged. */
import type { Dice } from '../random';
import { bytes, text } from '../seeds';
import type { Target } from '../target';
import { builders, validCall } from './calls';
import { damage } from './damage';
import { ops, roundsUpdates } from './op_calls';
import { runPlan, type Plan } from './plan';

const names = Object.keys(builders);

/** A call of a function with some of its values damaged. */
export function planOf(dice: Dice, fn: string, damaged: number): Plan {
  // Builders share some of their operands; damage stays in the call that it was made for.
  const { args, before } = structuredClone(validCall(fn, dice));
  for (let i = 0; i < damaged; i++) damage(args, dice);
  return {
    fn,
    device: dice.once(4) ? 'reference' : 'cpu',
    threads: 1 + dice.below(3),
    way: dice.pick(fn in ops ? ['call', 'call', 'program', 'release'] : ['call', 'call', 'release']),
    damaged,
    before,
    args,
  };
}

const read = (input: Uint8Array): Plan => JSON.parse(text(input)) as Plan;

export const binding: Target = {
  make: (dice) => bytes(JSON.stringify(planOf(dice, dice.pick(names), dice.pick([0, 1, 1, 2])))),
  run: (input) => runPlan(read(input)),
  kindOf: (input) => {
    const { fn, args } = read(input);
    return roundsUpdates(args) ? `${fn} of bf16` : fn;
  },
  neverAccepted: ['requireF16'], // neither device takes activations in f16
};
