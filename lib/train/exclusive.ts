import { loraError } from '../errors';

/** What runs train now, in all of this thread. */
const inTraining = new WeakSet<object>();

/**
 * Takes parameters and an optimizer for one run, until the returned function is called: two runs that shared one would
 * add up, clip and clear each other's gradients.
 *
 * @throws ERR_BUSY when another run has one of them.
 */
export function takeForTraining(items: ReadonlySet<object>, label: string): () => void {
  for (const item of items)
    if (inTraining.has(item))
      throw loraError(
        'Trainer',
        'ERR_BUSY',
        `another run trains ${label}, or shares parameters or the optimizer with this one: await it first`,
      );
  for (const item of items) inTraining.add(item);
  return () => {
    for (const item of items) inTraining.delete(item);
  };
}
