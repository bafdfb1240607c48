/** Work of which several pieces are under way at a time. */

/** Runs `work` on all items in their order, so many at once. The first failure, or the signal, ends the others and is thrown. */
export async function inLanes<T>(
  items: readonly T[],
  lanes: number,
  signal: AbortSignal | undefined,
  work: (item: T, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  signal?.throwIfAborted();
  // One for each lane: many listeners to one signal look like a leak.
  const stops = Array.from({ length: Math.min(lanes, items.length) }, () => new AbortController());
  const stop = (reason: unknown): void => {
    for (const one of stops) one.abort(reason);
  };
  const abort = (): void => stop(signal?.reason);
  signal?.addEventListener('abort', abort, { once: true });
  let next = 0;
  const running = stops.map(async ({ signal: ended }) => {
    while (next < items.length && !ended.aborted) await work(items[next++]!, ended);
  });
  try {
    await Promise.all(running);
    signal?.throwIfAborted();
  } catch (error) {
    stop(error);
    await Promise.allSettled(running);
    throw error;
  } finally {
    signal?.removeEventListener('abort', abort);
  }
}
