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
 * the one before fall asleep. Returns the median of each round by name.
 */
export async function interleave(entrants, { rounds, budget, gap }) {
  const plans = new Map();
  for (const { name, time } of entrants) {
    // A few untimed calls warm up and tell how many fill the budget.
    const seconds = median((await time(3, 1)).slice(1));
    const batch = Math.max(1, Math.round(0.02 / seconds));
    plans.set(name, [Math.max(1, Math.round(budget / seconds / batch)), batch]);
  }
  const medians = new Map(entrants.map(({ name }) => [name, []]));
  for (let round = 0; round < rounds; round++)
    for (const { name, time } of entrants) {
      await sleep(gap);
      medians.get(name).push(median(await time(...plans.get(name))));
    }
  return medians;
}
