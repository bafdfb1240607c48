// Streams that write at the same time, whoever makes them.

/** Gives prompts of a length that share no beginning with an earlier one: an engine would have read it. */
export function promptsOf(vocabulary) {
  let prompts = 0;
  return (length) => {
    prompts++;
    return Array.from({ length }, (_, i) => (i === 0 ? 17 * prompts : i * 7919) % vocabulary);
  };
}

/**
 * Runs `write(i, seen)` for each of `count` streams, which call `seen` at each token, and gives the seconds per token of all together while
 * all of them write. `arrive` is called when they do; `first` is what it gives.
 */
export async function writeTogether(count, write, arrive) {
  const times = []; // of the tokens that came while all streams wrote
  let [begun, ended] = [0, 0];
  let first;
  const stream = async (i) => {
    let tokens = 0;
    await write(i, () => {
      if (++tokens === 1) begun++;
      if (begun < count) return;
      if (ended === 0) times.push(performance.now());
      if (arrive) first ??= arrive();
    });
    ended++;
  };
  await Promise.all(Array.from({ length: count }, (_, i) => stream(i)));
  const seconds = (times.at(-1) - times[0]) / 1000;
  return { perToken: seconds / (times.length - 1), first: await first };
}
