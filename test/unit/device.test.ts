// Which device 'auto' stands for, and how much memory is held at most.
import { memoryUsage, tensor } from '../../lib/index';
import { binding } from '../../lib/native/calls';
import { bestDevice, watchPeak } from '../../lib/native/device';

test.each([
  ['a GPU where there is one', null, 'cuda'],
  ['the CPU where there is none', 'no driver', 'cpu'],
])('%s', (_, why, device) => {
  jest.spyOn(binding(), 'cudaUnavailableReason').mockReturnValue(why);
  expect(bestDevice()).toBe(device);
  jest.restoreAllMocks();
});

describe('a watch of memory', () => {
  test('tells the most that was held since it began, and leaves the peak of all time', () => {
    tensor(new Float32Array(4096)).dispose();
    const all = memoryUsage().peakBytes;
    const peak = watchPeak();
    const { bytes } = memoryUsage();
    tensor(new Float32Array(16)).dispose();
    expect(peak() - bytes).toBeGreaterThanOrEqual(64);
    expect(peak() - bytes).toBeLessThan(4096);
    expect(memoryUsage().peakBytes).toBe(all);
  });

  test('begins without what nobody can reach any more', async () => {
    const { bytes } = memoryUsage();
    (() => void tensor(new Float32Array(4096)))();
    expect(memoryUsage().bytes - bytes).toBeGreaterThanOrEqual(4 * 4096);
    await new Promise((resolve) => setImmediate(resolve));
    expect(watchPeak()() - bytes).toBeLessThan(4096);
  });
});
