/** The add-on without lib/, in processes of its own: what must not crash, leak, or hold up a process. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';

function run(program: string, argument = '', env: Record<string, string> = {}): string {
  const file = join(__dirname, 'native', `${program}.mjs`);
  const child = spawnSync(process.execPath, ['--expose-gc', file, argument], {
    encoding: 'utf8',
    env: { ...process.env, ...env },
    timeout: 120_000,
  });
  expect(child.stderr).toBe('');
  expect([child.status, child.signal]).toEqual([0, null]);
  return child.stdout.trim();
}
const report = (...args: Parameters<typeof run>): unknown => JSON.parse(run(...args));

jest.setTimeout(150_000);

test('no argument crashes an export, and every error has a code and a sentence', () => {
  expect(report('wrong_arguments')).toMatchObject({ odd: [], sum: [2, 4] });
});

test('wrong, foreign and released handles are errors; dropped ones are collected', () => {
  expect(report('handles')).toEqual({
    wrong: 'ERR_ARGUMENT [add] expected b to be a native tensor but received a native frozen weight',
    device: 'ERR_ARGUMENT [add] expected a to be a native tensor but received a native device',
    file: 'ERR_ARGUMENT [read] expected tensor to be a native tensor but received a native file',
    object: 'ERR_ARGUMENT [read] expected tensor to be a native tensor but received an object',
    foreign: 'ERR_ARGUMENT [read] expected tensor to be a native tensor but received another native object',
    released: 'ERR_DISPOSED [add] b was disposed',
    releasedRead: 'ERR_DISPOSED [read] tensor was disposed',
    otherDevice:
      'ERR_ARGUMENT [add] expected b on cpu (the device of the other operands) but received one on reference',
    clone: true,
    many: [[1497], [7], [1499]],
    queued: [4],
    collected: [100, 0, 0],
  });
});

test('the functions of ops take and answer what the descriptions say', () => {
  const { inPlace, apart, ...others } = report('op_calls') as Record<string, unknown>;
  expect(inPlace).toEqual(apart);
  expect(others).toEqual({
    forward: [[[2, 2]], [[2, 1]]],
    withoutH: [[[2, 2]], [null]],
    all: [[2, 2], [[2, 1]], [[1, 2]], [null]],
    upAlone: [null, [[2, 1]], [null], [null]],
    downAlone: [null, [null], [[1, 2]], [null]],
    keptU: [[2, 2], [null], [null], [[2, 1]]],
    one: [2, 2],
    leading: [[1, 1, 2], [1, 1, 2], [1]],
    absent: [null, [2, 2], null],
    flags: 'ERR_ARGUMENT [lora_linear] expected wantUp to be a list of 1 but received one of 2',
    noTensor: 'ERR_ARGUMENT [global_norm] expected at least one tensor but received none',
    kind: 'ERR_ARGUMENT [binary] expected kind to be add, sub, mul, div, maximum, minimum, less, equal, where, where_not or pow but received "mod"',
    dtype: 'ERR_ARGUMENT [add] expected dtype to be f32, bf16, f16 or i32 but received "f64"',
    dimensions:
      'ERR_ARGUMENT [embedding] expected ids of at most 7 dimensions but received shape [1, 1, 1, 1, 1, 1, 1, 1]',
  });
});

test.each([
  ['operand', [5, 11, 11, 25]],
  ['weight', [5, 11, 11, 25]],
  ['backwardWeight', [7, 10, 15, 22]],
  ['list', [5]],
  ['growingList', [[5, 11, 11, 25]]],
  ['growingTensors', [3]],
  ['growingDimensions', [1, 3, 2, 4]],
  ['view', [2, 3]],
  ['info', [2, 2]],
  ['infoShape', 'cpu'],
  ['read', [1, 2, 3, 4]],
  ['answer', [5, 11, 11, 25]],
])('what a call has taken stays when a getter, a setter or a hook releases it: %s', (name, value) => {
  expect(report('callbacks', name)).toEqual(value);
});

test('calls whose arguments release others at random are right, or errors', () => {
  const { different, errors, same } = report('releasing', '3000') as Record<string, unknown>;
  expect(different).toEqual([]);
  expect(Object.keys(errors as object)).toEqual(['ERR_DISPOSED']);
  expect(same).toBeGreaterThan(1000);
});

test('30,000 tensors of random sizes, read while the collector runs, are all right', () => {
  expect(report('mixed')).toEqual({ wrong: 0, reads: 29_950 });
});

test('two workers and the main thread compute at once and agree', () => {
  expect(report('two_workers')).toEqual({ same: true, bytes: 32 * 64 * 4 });
});

test('a worker may end mid-flight in any way', () => {
  expect(report('terminated_worker')).toEqual({ codes: [1, 1, 1, 3, 3, 3, 1, 1, 1, 0, 0, 0], sum: [3] });
});

test.each(['', 'microtasks'])('a loop that never yields stays bounded: 3000 MiB of tensors %s', (kind) => {
  const { first, rss, bytes } = report('never_awaits', kind) as Record<string, number>;
  expect(first).toBe(3001);
  expect(bytes).toBeLessThan(700); // the garbage of one collection, and the queue
  expect(rss).toBeLessThan(1000);
});

test('small handles do not pile up in a loop that never yields', () => {
  const { growth, most } = report('many_handles') as Record<string, number>;
  expect(growth).toBeLessThan(40); // MiB; 80,000 handles that stayed would be more
  expect(most).toBeLessThan(80_000);
});

const advice = '; smaller batches, shorter texts, gradientCheckpointing and quantize take less';

test('out of memory throws at the call with needed and free bytes, and nothing half-done stays', () => {
  const limit = ' of LORA_MEMORY_LIMIT = 64 MiB';
  expect(report('out_of_memory', '', { LORA_MEMORY_LIMIT: '64MiB' })).toEqual({
    alloc: `ERR_OUT_OF_MEMORY [alloc] needs 4096 MiB but only 64 MiB are free on cpu: with what is held, 4096 MiB${limit}${advice}`,
    absurd: `ERR_OUT_OF_MEMORY [alloc] needs 4294967296 MiB but only 64 MiB are free on cpu: with what is held, 4294967296 MiB${limit}${advice}`,
    gated: `ERR_OUT_OF_MEMORY [gated] needs 32 MiB but only 16 MiB are free on cpu: with what is held, 80 MiB${limit}${advice}`,
    same: true,
    value: 21,
    after: true,
  });
});

test('out of memory tells the size of the block, which is more than what is free', () => {
  expect(report('block_size', '', { LORA_MEMORY_LIMIT: '154624' })).toEqual({
    alloc: `ERR_OUT_OF_MEMORY [alloc] needs 0.16 MiB but only 0.14 MiB are free on cpu: with what is held, 0.16 MiB of LORA_MEMORY_LIMIT = 0.14 MiB${advice}`,
  });
});

test('room made for an op at a full queue is not made of its own scratch', () => {
  expect(report('full_queue')).toEqual([2048, 2048, 2048, 2048]);
});

test('the elements of results are counted before memory is asked for', () => {
  const most = 'expected a shape of at most 2^53 elements but received';
  expect(report('result_shapes')).toEqual({
    matmul: `ERR_ARGUMENT [matmul] ${most} [2147483648, 2147483648]`,
    wraps: `ERR_ARGUMENT [matmul] ${most} [1099511627776, 1099511627776]`,
    linear: `ERR_ARGUMENT [lora_linear] ${most} [2147483648, 2147483648]`,
    broadcast: `ERR_ARGUMENT [add] ${most} [1099511627776, 1099511627776, 0]`,
  });
});

test('lists of holes and tensors without elements take neither time nor memory', () => {
  expect(report('huge_nothing')).toEqual({
    lists: {
      adamw: 'ERR_ARGUMENT [adamw] expected segment to be an object',
      adamw8bit: 'ERR_ARGUMENT [adamw8bit] expected segment to be an object',
      sgd: 'ERR_ARGUMENT [sgd] expected segment to be an object',
      lion: 'ERR_ARGUMENT [lion] expected segment to be an object',
      forward: 'ERR_ARGUMENT [lora_linear] expected branch to be an object',
      h: 'ERR_ARGUMENT [lora_linear] expected h to be a native tensor but received undefined',
    },
    shapes: [],
  });
});

test('a view lies within its tensor, to the element', () => {
  const outside = (shape: string, offset: number, numel: number): string =>
    `ERR_ARGUMENT [view] expected shape ${shape} from element ${offset} on to lie within ${numel} elements`;
  expect(report('views')).toEqual({
    all: [0, 1, 2, 3, 4, 5],
    last: [5],
    none: [],
    ofView: [4],
    oneOver: outside('[7]', 0, 6),
    oneOverFromTheEnd: outside('[2]', 5, 6),
    oneOverView: outside('[4]', 1, 4),
    beyond: outside('[0]', 7, 6),
    before: expect.stringMatching(/^ERR_ARGUMENT \[view\] expected elementOffset .*-1/) as string,
  });
});

test.each(['lots', '0x10MiB', '1e9', '+5GiB'])('a limit that is no size is said at once: %s', (limit) => {
  const file = join(__dirname, 'native', 'handles.mjs');
  const child = spawnSync(process.execPath, [file], {
    encoding: 'utf8',
    env: { ...process.env, LORA_MEMORY_LIMIT: limit },
  });
  expect(child.status).toBe(1);
  expect(child.stderr).toContain(
    `[device] expected LORA_MEMORY_LIMIT to be a size such as 2GiB but received "${limit}"`,
  );
});

test('threads: LORA_THREADS, setThreads, and what is neither', () => {
  const program = `
    const native = require('node-gyp-build')(${JSON.stringify(join(__dirname, '../..'))});
    const before = native.cpuInfo().threads;
    native.setThreads(2);
    console.log(before, native.cpuInfo().threads);
    for (const threads of [0, 1.5, NaN, '2']) try { native.setThreads(threads); console.log('no error'); } catch {}
  `;
  const node = (threads: string) =>
    spawnSync(process.execPath, ['-e', program], {
      encoding: 'utf8',
      cwd: join(__dirname, '../..'),
      env: { ...process.env, LORA_THREADS: threads },
    });
  expect(node('3').stdout).toBe('3 2\n');
  expect(node('many').stderr).toContain(
    '[device] expected LORA_THREADS to be a number from 1 to 1024 but received "many"',
  );
});

test('a failure reaches what depends on it, and nothing else', () => {
  expect(report('failure')).toEqual({
    dependent: ['ERR_ARGUMENT', 'binary', '[binary] broken on purpose', 42],
    sync: 'ERR_ARGUMENT [binary] broken on purpose',
    independent: [2, 4],
    kept: [
      [1, 2],
      [0, 0],
    ],
    guard: 'ERR_ARGUMENT [binary] broken on purpose',
    cleared: 'no error',
    accumulate: 'ERR_ARGUMENT [binary] broken on purpose',
    filled: [3, 3],
    copiedWhole: [7, 8],
    copiedPart: 'ERR_ARGUMENT [binary] broken on purpose',
    copiedFailure: 'ERR_ARGUMENT [binary] broken on purpose',
    copiedFailedPart: 'ERR_ARGUMENT [binary] broken on purpose',
    clip: 'ERR_ARGUMENT [clip_by_norm] broken on purpose',
    unpacked: 'ERR_ARGUMENT [pack] broken on purpose',
    backwardPack: 'ERR_ARGUMENT [pack] broken on purpose',
    moved: 'ERR_ARGUMENT [binary] broken on purpose',
    data: expect.stringMatching(/^ERR_DATA \[embedding\] .*9/) as string,
  });
});

test('a pending read keeps the process alive, queued work alone does not, exit ends at once', () => {
  expect(run('process_end', 'awaited')).toBe('262144\nexit');
  expect(run('process_end', 'queued')).toBe('exit');
  expect(run('process_end', 'released')).toBe('exit');
  expect(run('process_end', 'exit')).toBe('exit');
});

test('room in the queue is awaited, and the event loop turns', () => {
  expect(report('room_in_queue')).toEqual({ none: null, waits: true, turns: true, requests: 0 });
});

describe('a recorded program', () => {
  test('takes the memory of a layer, holds it while it lives, and takes no more in 10,000 runs', () => {
    const { held, grown, ...rest } = report('programs', 'memory') as {
      held: [layers: number, all: number, output: number, left: number][];
      grown: number;
    };
    const size = 64 * 64 * 4;
    expect(held[0]![1]).toBeGreaterThanOrEqual(3 * size); // the output, a product, the layer before it; scratch
    expect(held).toEqual([2, 30].map((layers) => [layers, held[0]![1], size, 0]));
    expect(rest).toEqual({ same: true, left: 0 });
    expect(grown).toBeLessThan(16 << 20);
  });

  test('may be in any state when a worker ends', () => {
    expect(report('programs', 'workers')).toEqual({ codes: [1, 1, 1, 3], sum: [3] });
  });
});
