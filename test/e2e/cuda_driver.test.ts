/** What a machine's NVIDIA driver makes of `device: 'cuda'`, with a libcuda.so.1 that the test plays. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { binding } from '../../lib/native/calls';
import { childReport } from '../support/child';

const root = join(__dirname, '../..');
const compiler = process.env['CXX'] ?? 'g++';
const reason =
  Object.keys(binding().cudaFacts()).length === 0
    ? 'the add-on was built without CUDA: LORA_CUDA_BUILD=all npm run build:native'
    : spawnSync(compiler, ['--version']).status !== 0
      ? `no ${compiler}`
      : undefined;
const withStub =
  reason === undefined ? test : (title: string) => test.skip(`${title} (skipped: ${reason})`, () => {});

let scratch: string;
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), 'driver-'));
  if (reason !== undefined) return;
  const source = join(root, 'native/test/driver/stub_driver.cc');
  const { status, stderr } = spawnSync(
    compiler,
    ['-std=c++20', '-shared', '-fPIC', source, '-o', join(scratch, 'libcuda.so.1')],
    { encoding: 'utf8' },
  );
  if (status !== 0) throw new Error(stderr);
});
afterAll(() => rmSync(scratch, { recursive: true }));

const environment = (stub: Record<string, string>): Record<string, string> => ({
  LD_LIBRARY_PATH: scratch,
  CUDA_VISIBLE_DEVICES: '0,1',
  ...stub,
});

const cases: [string, Record<string, string>, RegExp][] = [
  ['no driver', { STUB_VERSION: '0' }, /^no NVIDIA driver was found \(libcuda\.so\.1\)$/],
  [
    'a driver that is too old',
    { STUB_VERSION: '12020', STUB_DEVICES: '86' },
    /^the NVIDIA driver is too old: it knows CUDA up to 12\.2, and this build of lora-native uses CUDA \d+\.\d, which needs driver [\d.]+ or newer; /,
  ],
  [
    'no device',
    { STUB_INIT: '100' },
    /^the NVIDIA driver is there, but no CUDA device; CUDA_VISIBLE_DEVICES is "0,1"/,
  ],
  [
    'a device that is too old',
    { STUB_DEVICES: '75' },
    /^lora-native needs a device of compute capability 8\.0 or newer \(Ampere\), and here is only Stub 0 \(7\.5\)$/,
  ],
  ['another error', { STUB_INIT: '999' }, /gave cudaErrorUnknown \(unknown error\)/],
];

for (const [name, stub, sentence] of cases)
  withStub(`${name}: the library goes on with the CPU and says why`, () => {
    const [devices, code, message, sum] = childReport(
      `const { tensor, devices } = lora;
      let failure;
      try { tensor([1], { device: 'cuda' }); } catch (error) { failure = error; }
      report([devices().map(({ id }) => id), failure.code, failure.message, await tensor([1, 2]).sum().item()]);`,
      { env: environment(stub) },
    ) as [string[], string, string, number];
    expect([devices, code, sum]).toEqual([['cpu'], 'ERR_DEVICE_UNAVAILABLE', 3]);
    const prefix = '[device] cannot open cuda: ';
    expect(message.startsWith(prefix)).toBe(true);
    expect(message.slice(prefix.length)).toMatch(sentence);
  });

withStub('doctor tells versions, architectures and the reason', () => {
  const cli = join(root, 'dist/cli.js');
  if (!existsSync(cli)) throw new Error('dist/cli.js is missing: npm run build:js');
  const { stdout } = spawnSync(process.execPath, [cli, 'doctor', '--json'], {
    encoding: 'utf8',
    env: { ...process.env, ...environment({ STUB_VERSION: '12020' }) },
  });
  const report = JSON.parse(stdout) as Record<string, string>;
  expect(report['cuda']).toMatch(/^unavailable: the NVIDIA driver is too old/);
  expect(report['cuda runtime']).toMatch(/^\d+\.\d$/);
  expect(report['cuda driver']).toMatch(/, CUDA up to 12\.2$/);
  expect(report['cuda kernels']).toMatch(/^[1-9]\d+ for sm_80 .*PTX for compute_80/);
  expect(report['cuda programmatic launches']).toMatch(/^none: they need a device/);
  expect(report['CUDA_VISIBLE_DEVICES']).toBe('0,1');
});
