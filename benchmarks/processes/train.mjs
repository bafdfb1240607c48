// Our training steps, one for each line, in a process of their own, so that its peak memory is theirs:
// train.mjs '{"model": DIR, "dtype": "bf16", "batch": 1, "length": 512, "threads": 2}'
import { readFileSync } from 'node:fs';
import { setThreads } from 'lora-native';
import { addon } from '../addon.mjs';
import { steps, trainable } from '../steps.mjs';
import { serve } from './serve.mjs';

const settings = JSON.parse(process.argv[2]);
setThreads(settings.threads);
const native = addon();
const model = await trainable(settings.model, settings);
const run = steps(model, settings);
const first = await run.next(); // makes the layouts for gradients, and takes the memory
native.startProfile(native.openDevice('cpu'));
await run.next();
const entries = native.endProfile(native.openDevice('cpu'));
const flops = entries.reduce((sum, entry) => sum + entry.flops * entry.calls, 0);

/** Milliseconds that a processor has worked for this thread; undefined off Linux. */
function processorMs() {
  try {
    return Number(readFileSync('/proc/thread-self/schedstat', 'utf8').split(' ')[0]) / 1e6;
  } catch {
    return undefined;
  }
}

await serve({ flops, loss: first.value }, async () => {
  const before = performance.eventLoopUtilization();
  const worked = processorMs();
  const used = process.cpuUsage();
  const start = performance.now();
  const { value: loss } = await run.next();
  const ms = performance.now() - start;
  const js = performance.eventLoopUtilization(before).active / ms;
  const { user, system } = process.cpuUsage(used);
  const cpu = { userMs: user / 1e3, systemMs: system / 1e3 };
  return { ms, loss, js, jsAtWork: worked && (processorMs() - worked) / ms, ...cpu };
});
