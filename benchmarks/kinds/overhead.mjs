// What a call costs beyond its arithmetic, in programs that use the public API: tensors so small that nothing else counts.
import { LoRALinear, noGrad, synchronize, tensor } from 'lora-native';
import { interleave, spread } from '../stats.mjs';

/** Seconds per call of `work`, over batches; `wait` ends a batch. */
function timer(work, wait) {
  return async (iterations, batch) => {
    const seconds = [];
    for (let i = 0; i < iterations; i++) {
      const start = performance.now();
      for (let call = 0; call < batch; call++) work();
      await wait?.();
      seconds.push((performance.now() - start) / 1000 / batch);
    }
    return seconds;
  };
}

export const overheadCases = [
  'a synchronous op',
  'a queued op',
  'a queued layer, forward',
  'a queued layer, step',
];

export async function runOverhead(testCase, bench) {
  const x = tensor(new Float32Array(64), { shape: [1, 64], requiresGrad: true });
  const layer = new LoRALinear({ inFeatures: 64, outFeatures: 64, r: 8 });
  const g = tensor(new Float32Array(64).fill(1), { shape: [1, 64] });
  const settle = () => synchronize('cpu');
  const step = () => {
    const y = layer.forward(x);
    y.backward(g);
    y.dispose();
    for (const t of [x, layer.up, layer.down]) {
      t.grad?.dispose();
      t.grad = null;
    }
  };
  const sum = () => noGrad(() => x.add(1));
  const work = {
    'a synchronous op': timer(() => {
      const y = sum();
      y.dataSync();
      y.dispose();
    }),
    'a queued op': timer(() => sum().dispose(), settle),
    'a queued layer, forward': timer(() => noGrad(() => layer.forward(x)).dispose(), settle),
    'a queued layer, step': timer(step, settle),
  };
  const { times } = await interleave([{ name: 'ours', time: work[testCase.id] }], bench.settings);
  bench.add({
    kind: 'overhead',
    case: testCase.id,
    what: 'call',
    unit: 's',
    ours: spread(times.get('ours')),
    rivals: {},
  });
  layer.dispose();
  for (const t of [x, g]) t.dispose();
}
