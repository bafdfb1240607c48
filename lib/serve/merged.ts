/** Events of several sources in the order in which they come, with the number of the source. */
export async function* merged<T>(
  sources: readonly AsyncIterable<T>[],
): AsyncGenerator<readonly [source: number, event: T], void, void> {
  // All are asked at once, in the turn that made them, as handles of generations have it.
  const iterators = sources.map((source) => source[Symbol.asyncIterator]());
  const next = async (i: number): Promise<readonly [number, IteratorResult<T, unknown>]> => [
    i,
    await iterators[i]!.next(),
  ];
  const awaited = new Map<number, Promise<readonly [number, IteratorResult<T, unknown>]>>();
  const ask = (i: number): void => {
    const asked = next(i);
    asked.catch(() => undefined); // the race tells of the first failure
    awaited.set(i, asked);
  };
  iterators.forEach((_, i) => ask(i));
  try {
    while (awaited.size > 0) {
      const [i, event] = await Promise.race(awaited.values());
      awaited.delete(i);
      if (event.done) continue;
      yield [i, event.value];
      ask(i);
    }
  } finally {
    await Promise.allSettled(iterators.map(async (iterator) => iterator.return?.()));
  }
}
