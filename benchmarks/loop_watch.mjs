// How long the event loop of this process waits.
import { existsSync, readFileSync } from 'node:fs';
import { monitorEventLoopDelay, PerformanceObserver } from 'node:perf_hooks';
import { clearInterval, setInterval } from 'node:timers';

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
export const quantile = (sorted, q) =>
  sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? 0;

/** Milliseconds that JavaScript's thread had a core, and that it waited for one. */
function thread() {
  const path = `/proc/self/task/${process.pid}/schedstat`;
  if (!existsSync(path)) return { ran: process.cpuUsage().user / 1000, waited: 0 };
  const [ran, waited] = readFileSync(path, 'utf8').split(' ').map(Number);
  return { ran: ran / 1e6, waited: waited / 1e6 };
}

/** Runs `work`, which returns how many steps or tokens it made, and measures the loop meanwhile: the columns of event_loop.mjs. */
export async function watched(work) {
  const gaps = [];
  const collections = [];
  const clock = () => performance.now() - thread().waited;
  let last = clock();
  const tick = () => {
    const now = clock();
    gaps.push(Math.max(0, now - last - 1));
    last = now;
  };
  let lastTen = clock();
  let [ticks, starved] = [0, 0];
  const ten = () => {
    const now = clock();
    ticks++;
    if (now - lastTen > 30) starved++;
    lastTen = now;
  };
  const observer = new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (entry.detail.kind === 4) collections.push(entry.duration);
  });
  observer.observe({ entryTypes: ['gc'] });
  const monitor = monitorEventLoopDelay({ resolution: 1 });
  const timers = [setInterval(tick, 1), setInterval(ten, 10)];
  monitor.enable();
  await sleep(5); // because its first tick records nothing
  const [begin, ran, { user, system }] = [performance.now(), thread().ran, process.cpuUsage()];
  const count = await work();
  const wall = performance.now() - begin;
  const js = thread().ran - ran;
  const all = process.cpuUsage();
  tick();
  ten();
  await sleep(5); // in which the monitor records the last delay
  monitor.disable();
  timers.forEach(clearInterval);
  await sleep(20); // in which the observer is told of the last collections
  observer.disconnect();
  gaps.sort((a, b) => a - b);
  const cpu = (all.user - user + all.system - system) / 1000;
  return {
    p50: quantile(gaps, 0.5),
    p99: quantile(gaps, 0.99),
    max: gaps.at(-1),
    nodeP99: monitor.percentile(99) / 1e6 - 1,
    nodeMax: monitor.max / 1e6 - 1,
    starved,
    ticks,
    count,
    wall,
    js: js / count,
    cpu: cpu / count,
    collections: collections.length,
    longestCollection: Math.max(0, ...collections),
  };
}
