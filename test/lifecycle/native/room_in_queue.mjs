// Room in the queue is awaited, and the event loop turns meanwhile.
import { clearInterval, setInterval } from 'node:timers';
import { cpu, native, print } from './common.mjs';

const report = { none: native.roomInQueue(cpu) };
native.setQueueLimits({ commands: 40, bytes: 2 ** 40 });
let x = native.random(cpu, 'normal', 1, 0, 0, 1, [64, 64]);
let [waits, turns] = [0, 0];
const timer = setInterval(() => turns++, 0);
for (let i = 0; i < 2000; i++) {
  const wait = native.roomInQueue(cpu);
  if (wait !== null) {
    waits++;
    await wait;
  }
  const next = native.matmul(x, x, false, false, 'f32');
  native.release(x);
  x = next;
}
await native.read(x);
clearInterval(timer);
print({ ...report, waits: waits > 3, turns: turns > 0, requests: native.liveObjects().requests });
