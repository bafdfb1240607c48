/** Long stretches of ops, enqueued in slices: between two of them timers and I/O run, and the queue of the device gets room. */
import { Pace } from './pace';
import { callerStack, entry } from '../native/calls';
import { roomInQueue, type Device } from '../native/device';

/**
 * Runs a generator of ops to its end. It yields after no more ops than the free half of a queue takes, so that none of
 * them waits for room. All of them count as one call by its caller.
 */
export async function enqueueInSlices<T>(device: Device, steps: Generator<void, T, void>): Promise<T> {
  const stack = callerStack();
  const pace = new Pace();
  for (;;) {
    const room = roomInQueue(device);
    if (room) await room; // a promise for each op would cost more than some ops do
    const { done, value } = entry(() => steps.next(), stack);
    if (done) return value;
    if (pace.due) await pace.rest();
  }
}
