// Memory over many steps, and out of memory, in processes of their own.
import { childReport, runChild } from '../support/child';

const training = `
const { LoRALinear, AdamW, clipGradNorm, tensor, tidy, memoryUsage } = lora;
const numbers = (n, k) => Float32Array.from({ length: n }, (_, i) => Math.sin(i * k));
const device = process.env.DEVICE;
const layer1 = new LoRALinear({ inFeatures: 32, outFeatures: 64, r: 4, loraDropout: 0.1, device, seed: 1 });
const layer2 = new LoRALinear({ inFeatures: 64, outFeatures: 8, r: 4, device, seed: 2 });
const params = [...layer1.parameters(), ...layer2.parameters()];
const optimizer = new AdamW(params, { lr: 1e-3 });
const x = tensor(numbers(16 * 32, 0.7), { shape: [16, 32], device });
const target = tensor(numbers(16 * 8, 0.3), { shape: [16, 8], device });
const body = () => {
  const loss = layer2.forward(layer1.forward(x).gelu()).sub(target).square().mean();
  loss.backward();
  clipGradNorm(params, 1);
  optimizer.step();
  optimizer.zeroGrad();
  return loss;
};
const settle = async () => {
  for (let i = 0; i < 4; i++) { gc(); await new Promise((r) => setTimeout(r, 5)); }
};
`;

interface Flat {
  warm: { bytes: number; tensors: number; heap: number; rss: number };
  end: { bytes: number; tensors: number; heap: number; rss: number };
  peakGrowth: number;
  first: number;
  last: number;
}

test.each(['cpu', 'reference'])('2,000 training steps leave memory flat on %s', (device) => {
  const report = childReport(
    `${training}
const state = async () => {
  await settle();
  const { bytes, tensors } = memoryUsage();
  const { heapUsed, rss } = process.memoryUsage();
  return { bytes, tensors, heap: heapUsed, rss };
};
let first, last, peak;
const run = async (steps) => {
  for (let i = 0; i < steps; i++) last = await tidy(async () => (await body().item()));
};
await run(1);
first = last;
await run(199);
const warm = await state();
const before = memoryUsage().peakBytes;
await run(1800);
const peakGrowth = memoryUsage().peakBytes - before;
report({ warm, end: await state(), peakGrowth, first, last });`,
    { env: { DEVICE: device, LORA_THREADS: '1' } },
  ) as Flat;
  expect(report.last).toBeLessThan(report.first);
  expect(report.end.tensors).toBe(report.warm.tensors);
  expect(report.end.bytes).toBe(report.warm.bytes);
  expect(report.peakGrowth).toBe(0);
  expect(report.end.heap - report.warm.heap).toBeLessThan(1 << 20);
  expect(report.end.rss - report.warm.rss).toBeLessThan(24 << 20);
});

test('a loop that neither awaits nor disposes stays bounded', () => {
  const report = childReport(
    `${training}
for (let i = 0; i < 100; i++) body();
const warm = memoryUsage().peakBytes;
for (let i = 0; i < 3000; i++) body();
const { peakBytes } = memoryUsage();
await settle();
const after = memoryUsage().bytes;
const rest = body();
report({ warm, peakBytes, after, value: await rest.item() });`,
    { env: { DEVICE: 'cpu', LORA_THREADS: '1' } },
  ) as { warm: number; peakBytes: number; after: number; value: number };
  expect(Number.isFinite(report.value)).toBe(true);
  expect(report.peakBytes).toBeLessThan(256 << 20); // some 60 KB a step, 180 MB in all without reuse
  expect(report.after).toBeLessThan(4 << 20);
});

test('out of memory throws at the call, with needed and free bytes, and the program goes on', () => {
  const report = childReport(
    `const { tensor, memoryUsage, LoRAError } = lora;
const x = tensor(new Float32Array(1 << 20), { shape: [1 << 20] });
const column = x.reshape([1 << 20, 1]);
const wide = tensor(new Float32Array(1 << 10));
let error;
function culprit() { return column.add(wide); }
try { culprit(); } catch (e) { error = e; }
const small = await x.add(1).sum().item();
report({ code: error.code, op: error.op, message: error.message, stack: error.stack, isOurs: error instanceof LoRAError, small });`,
    { env: { LORA_MEMORY_LIMIT: String(64 << 20) } },
  ) as Record<string, string | number | boolean>;
  expect(report).toMatchObject({ code: 'ERR_OUT_OF_MEMORY', op: 'add', isOurs: true, small: 1 << 20 });
  expect(report.message).toMatch(/^\[add\] .*\d+.*\d+/);
  expect(report.stack).toContain('culprit');
});

test('a forward that runs out of memory leaves no half-made state', () => {
  const report = childReport(
    `const { LoRALinear, tensor, memoryUsage, tidy } = lora;
const layer = new LoRALinear({ inFeatures: 256, outFeatures: 4096, r: 4 });
const before = memoryUsage().bytes;
const codes = [];
for (let i = 0; i < 20; i++) {
  try {
    tidy(() => layer.forward(tensor(new Float32Array(2048 * 256), { shape: [2048, 256] })).square().sum().backward());
  } catch (e) { codes.push(e.code); }
}
for (const p of layer.parameters()) { p.grad?.dispose(); p.grad = null; }
report({ codes, kept: memoryUsage().bytes - before });`,
    { env: { LORA_MEMORY_LIMIT: String(60 << 20) } },
  ) as { codes: string[]; kept: number };
  expect(new Set(report.codes)).toEqual(new Set(['ERR_OUT_OF_MEMORY']));
  expect(report.codes).toHaveLength(20);
  expect(report.kept).toBeLessThan(5 << 20); // the layout of the weight for the gradient may stay
});

/** What a loop over native tensors makes V8 do: how many full collections, and how many bytes were held at most. */
const collections = (loop: string): { full: number; peakBytes: number } =>
  childReport(`
    const native = require('node-gyp-build')(process.cwd());
    const device = native.openDevice('cpu');
    const take = (megabytes) => native.alloc(device, 'f32', [megabytes * 2 ** 18]);
    let full = 0;
    const count = (entries) => {
      for (const { detail } of entries) if (detail.kind === 4) full++;
    };
    const observer = new (require('node:perf_hooks').PerformanceObserver)((list) => count(list.getEntries()));
    observer.observe({ entryTypes: ['gc'] });
    ${loop}
    await new Promise((done) => setTimeout(done, 50)); // until the observer was told
    count(observer.takeRecords());
    report({ full, peakBytes: native.memoryUsage().peakBytes });
  `) as { full: number; peakBytes: number };

test('tensors that are freed cause no collection of garbage', () => {
  const loop = `for (let i = 0; i < 100; i++) native.release(take(256));`;
  expect(collections(loop)).toMatchObject({ full: 0 });
});

test('a loop that holds a gigabyte and frees it causes no more than the collections of its first rounds', () => {
  const loop = `
    for (let i = 0; i < 20; i++) {
      const held = Array.from({ length: 16 }, () => take(64));
      for (const tensor of held) native.release(tensor);
    }`;
  expect(collections(loop).full).toBeLessThanOrEqual(2);
});

test('tensors that are dropped are collected, also where little else is garbage', () => {
  const { full, peakBytes } = collections(`for (let i = 0; i < 200; i++) take(64);`);
  expect(peakBytes).toBeLessThanOrEqual(512 << 20);
  expect(full).toBeLessThanOrEqual(40);
});

test('an unread failure does not end the process', () => {
  const { status, stderr } = runChild(`const x = lora.tensor([[1, 2]]); x.crossEntropy([7]);`);
  expect([status, stderr]).toEqual([0, '']);
});

const onLinux = process.platform === 'linux' ? test : test.skip;
onLinux(
  'data() under a limit on addresses (ulimit -v) is ERR_OUT_OF_MEMORY, not the end of the process',
  () => {
    const report = childReport(`
    const x = lora.tensor(new Float32Array(64 << 20)); // 256 MiB
    await x.sum().item();
    for (let i = 0; i < 4; i++) {
      gc();
      await new Promise((resolve) => setTimeout(resolve, 50)); // until the numbers that were copied are unmapped
    }
    const size = /VmSize:\\s+(\\d+)/.exec(require('node:fs').readFileSync('/proc/self/status', 'utf8'))[1];
    const most = (Number(size) + 100 * 1024) * 1024;
    const { status } = require('node:child_process').spawnSync('prlimit', ['--pid', process.pid, '--as=' + most]);
    const said = async (read) => {
      try {
        await read();
      } catch ({ code, message }) {
        return [code, message];
      }
    };
    const asked = [await said(() => x.data()), await said(() => x.dataSync()), await said(() => x.bytes())];
    report({ status, asked, sum: await x.sum().item() });
  `);
    const refused = [
      'ERR_OUT_OF_MEMORY',
      '[read] needs 268435456 bytes, which a limit on the addresses of this process denies',
    ];
    expect(report).toEqual({ status: 0, asked: [refused, refused, refused], sum: 0 });
  },
);
