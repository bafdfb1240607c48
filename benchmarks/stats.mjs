// Medians, their spread, and rounds in which rivals take turns.
import { setTimeout as sleep } from 'node:timers/promises';

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

/** What a row says of the rounds of one provider. */
export const spread = (values) => ({
  median: median(values),
  min: Math.min(...values),
  max: Math.max(...values),
  rounds: values.length,
});

/** The same of `values` ÷ `others`, round by round: what both met at the same time counts in neither. */
export const ratio = (values, others) => spread(values.map((value, i) => value / others[i]));

/** What a row says of a rival, given the rounds of both: its own figures, and ours ÷ its. */
export const rivalOf = (ours, values) => ({ ...spread(values), ratio: ratio(ours, values) });

/** The share that the rates of our rounds are of a ceiling in the same rounds; undefined where it was not measured. */
export const shareOfCeiling = (what, rates, ceilings) =>
  ceilings.length > 0 ? { of: what, ...ratio(rates, ceilings), ceiling: spread(ceilings) } : undefined;

/** ‖got − want‖₂ / ‖want‖₂; NaN never passes `<= bound`. */
export function distance(got, want) {
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < want.length; i++) {
    difference += (got[i] - want[i]) ** 2;
    norm += want[i] ** 2;
  }
  return got.length === want.length ? Math.sqrt(difference / norm) : Infinity;
}

/** Throws unless each array that `want` names is within `bound` of it. */
export function checkClose(title, got, want, bound) {
  for (const [name, values] of Object.entries(want)) {
    const error = distance(got[name], values);
    if (!(error <= bound))
      throw new Error(`${title}: ${name} is ${error} away from the rival's, expected at most ${bound}`);
  }
}

/**
 * Times the entrants { name, time(iterations, batch) → seconds per call, `iterations` times } in turns: in each round every
 * one of them works for about `budget` seconds, in calls of about 20 ms back to back, after `gap` ms in which the threads of
 * the one before fall asleep. Returns the median of each round by name, and what `ceiling` measured right before and after
 * the first one.
 */
export async function interleave(entrants, { rounds, budget, gap }, ceiling) {
  const plans = new Map();
  for (const { name, time } of entrants) {
    // A few untimed calls warm up and tell how many fill the budget.
    const seconds = median((await time(3, 1)).slice(1));
    const batch = Math.max(1, Math.round(0.02 / seconds));
    plans.set(name, [Math.max(1, Math.round(budget / seconds / batch)), batch]);
  }
  const times = new Map(entrants.map(({ name }) => [name, []]));
  const turns = entrants.map(({ name, time }) => async () => {
    times.get(name).push(median(await time(...plans.get(name))));
  });
  return { times, ceilings: await inRounds(turns, { rounds, gap }, ceiling) };
}

/** Calls the turns of each round after `gap` ms each; answers what `ceiling` measured around the first one of each round. */
export async function inRounds(turns, { rounds, gap }, ceiling) {
  const ceilings = [];
  for (let round = 0; round < rounds; round++)
    for (const [i, turn] of turns.entries()) {
      await sleep(gap);
      const around = ceiling && i === 0;
      const before = around && (await ceiling());
      await turn(round);
      if (around) ceilings.push((before + (await ceiling())) / 2);
    }
  return ceilings;
}
