/** Seeds of layers that are given none. */
let made = 0;

/**
 * The next one: 0, 1, 2, … in the order in which layers are made, so that two layers begin with other weights and drop other elements, and a
 * program that makes the same layers again has the same numbers.
 */
export function nextSeed(): number {
  return made++;
}
