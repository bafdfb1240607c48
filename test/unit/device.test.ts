// Which device 'auto' stands for, and how much memory is held at most.
import { memoryUsage, tensor } from '../../lib/index';
import { commandLine } from '../support/command_line';
import { binding } from '../../lib/native/calls';
import { bestDevice, instructionSet, nativeDevice, watchPeak } from '../../lib/native/device';

test.each([
  ['a GPU where there is one', null, 'cuda'],
  ['the CPU where there is none', 'no driver', 'cpu'],
])('%s', (_, why, device) => {
  jest.spyOn(binding(), 'cudaUnavailableReason').mockReturnValue(why);
  expect(bestDevice()).toBe(device);
  jest.restoreAllMocks();
});

describe('a binary that was built for another CPU', () => {
  const problem =
    'sse2 runs, because the binary was built for another CPU, without avx3, avx2: npx lora-native build makes one for this CPU';
  const cpuInfo = { target: 'sse2', targets: ['sse2'], missingTargets: ['avx3', 'avx2'] };
  beforeEach(() => {
    const native = binding();
    const own = native.cpuInfo();
    jest.spyOn(native, 'cpuInfo').mockReturnValue({ ...own, ...cpuInfo });
  });
  afterEach(() => jest.restoreAllMocks());

  test('warns once, when the CPU is opened', () => {
    const warn = jest.spyOn(process, 'emitWarning').mockImplementation(() => undefined);
    nativeDevice('reference');
    expect(warn).not.toHaveBeenCalled();
    nativeDevice('cpu');
    nativeDevice('cpu');
    expect(warn.mock.calls).toEqual([[`[device] ${problem}`, { code: 'LORA_SIMD_MISSING' }]]);
  });

  test('is what doctor says', async () => {
    expect(instructionSet()).toEqual({ name: 'sse2', problem });
    const { out } = await commandLine(['doctor', '--json']);
    expect(JSON.parse(out)).toMatchObject({ 'instruction set': problem, 'compiled and usable': 'sse2' });
  });
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
