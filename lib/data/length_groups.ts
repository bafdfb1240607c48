/** An order of examples in which those of a batch have similar lengths, so that little of the batch is padding. */
import { sortInSlices } from '../tensor/pace';
import { numbers, type Random } from './random';

/** Batches of a window at most: long windows leave less padding, short ones mix the examples more from epoch to epoch. */
const maxBatches = 50;

/**
 * The examples 0, 1, …, n − 1 in such an order: cut into batches of `batchSize`, each has examples of similar lengths. As in the
 * LengthGroupedSampler of transformers, the examples (shuffled where there is `random`) are cut into windows of at most 50 batches, at most a
 * quarter of all, and each window is sorted by length. The batches are then shuffled, so that the length does not rise and fall with the steps.
 * A last batch of fewer examples stays the last one and is not chosen by length: leaving it out prefers no length. Yields where it may be
 * interrupted.
 */
export function* lengthGroupedOrder(
  lengths: ArrayLike<number>,
  batchSize: number,
  random: Random | undefined,
): Generator<void, number[], void> {
  const all = yield* numbers(lengths.length);
  if (random) yield* random.shuffleSteps(all);
  const whole = Math.floor(all.length / batchSize);
  const rest = all.splice(whole * batchSize);
  const window = batchSize * Math.max(1, Math.min(maxBatches, Math.floor(whole / 4)));
  const batches: number[][] = [];
  for (let at = 0; at < all.length; at += window) {
    const sorted = yield* sortInSlices(all.slice(at, at + window), (a, b) => lengths[a]! - lengths[b]!);
    for (let i = 0; i < sorted.length; i += batchSize) batches.push(sorted.slice(i, i + batchSize));
  }
  if (random) yield* random.shuffleSteps(batches);
  const order: number[] = [];
  for (const [i, batch] of [...batches, rest].entries()) {
    for (const example of batch) order.push(example);
    if (i % 1024 === 0) yield;
  }
  return order;
}
