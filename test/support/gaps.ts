/** How long the event loop stands still. */

/** Milliseconds of CPU time: what other processes take does not count. */
export function cpuMilliseconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

/**
 * Milliseconds of CPU time that work with an end never takes. It takes tens or hundreds of them on a quiet machine, and several times as
 * many on a busy one, where caches are shared and the collector's threads count, too; work without an end takes minutes.
 */
export const endlessMilliseconds = 10_000;

/** The longest time that a timer of a millisecond waits while `run` is under way, and what `run` gives. */
export async function longestGap<T>(run: () => Promise<T>): Promise<{ gap: number; result: T }> {
  let last = cpuMilliseconds();
  let gap = 0;
  const tick = (): void => {
    const now = cpuMilliseconds();
    gap = Math.max(gap, now - last);
    last = now;
  };
  const timer = setInterval(tick, 1);
  try {
    const result = await run();
    tick();
    return { gap, result };
  } finally {
    clearInterval(timer);
  }
}

/**
 * How often `run` lets timers and I/O run, and what it gives, by a clock that goes on by a millisecond whenever it is read: what counts is
 * how often the code asks for the time, not how fast the machine is.
 */
export async function pausesOf<T>(run: () => Promise<T>): Promise<{ pauses: number; result: T }> {
  let now = 0;
  const clock = jest.spyOn(performance, 'now').mockImplementation(() => now++);
  const pause = jest.spyOn(globalThis, 'setImmediate');
  try {
    const result = await run();
    return { pauses: pause.mock.calls.length, result };
  } finally {
    pause.mockRestore();
    clock.mockRestore();
  }
}
