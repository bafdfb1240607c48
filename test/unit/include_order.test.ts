/** scripts/include-order.mjs: which includes of native/ it refuses. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { temporaryFolder } from '../support/temporary';

const script = join(__dirname, '../../scripts/include-order.mjs');
const folder = temporaryFolder();

/** The faults of a tree in which files include these. */
function faultsOf(files: Readonly<Record<string, readonly string[]>>): string[] {
  const root = join(folder, String(Math.random()));
  for (const [file, names] of Object.entries(files)) {
    mkdirSync(dirname(join(root, file)), { recursive: true });
    writeFileSync(join(root, file), ['// A file.', ...names.map((name) => `#include "${name}"`)].join('\n'));
  }
  const { status, stdout, stderr } = spawnSync(process.execPath, [script, root], { encoding: 'utf8' });
  const faults = stderr.split('\n').slice(0, -1);
  expect([status, stdout]).toEqual([
    faults.length > 0 ? 1 : 0,
    `${Object.keys(files).filter((file) => !file.startsWith('test/')).length} files of native/, ${faults.length} includes against the order or in a circle\n`,
  ]);
  return faults;
}

test('native/ follows the order', () => {
  expect(spawnSync(process.execPath, [script], { encoding: 'utf8' })).toMatchObject({
    status: 0,
    stderr: '',
  });
});

test('a place includes from itself and from those before it, system headers and tests what they like', () => {
  const clean = {
    'core/error.h': ['hwy/highway.h', 'missing.h'],
    'core/maths/dtype.h': ['core/error.h'],
    'backend/cpu/kernels.h': ['core/maths/dtype.h'],
    'backend/cpu/simd/a-inl.h': [],
    'backend/cpu/simd/b.cc': ['backend/cpu/simd/a-inl.h', 'backend/cpu/kernels.h'],
    'backend/cpu/product/c.cc': ['backend/cpu/simd/a-inl.h'],
    'backend/cpu/cpu_backend.cc': ['backend/cpu/kernels.h', 'backend/cpu/simd/a-inl.h'],
    'simt/hook.h': [],
    'backend/cuda/device/d.cuh': ['simt/hook.h'],
    'node/e.cc': ['core/error.h'],
    'test/cpu/f.cc': ['node/g.h', 'backend/cpu/simd/a-inl.h', 'backend/cuda/device/d.cuh'],
  };
  expect(faultsOf(clean)).toEqual([]);
});

test.each([
  ['core/maths/a.h', 'core/ops/b.h', 'core/maths', 'core/ops'],
  ['core/a.h', 'node/b.h', 'core', 'node'],
  ['core/ops/a.h', 'backend/cpu/kernels.h', 'core/ops', 'backend/cpu/kernels.h'],
  ['backend/cpu/simd/a-inl.h', 'backend/cpu/product/b.h', 'backend/cpu/simd', 'backend/cpu/product'],
  ['backend/cpu/lora/a.cc', 'backend/cpu/b.h', 'backend/cpu/lora', 'backend/cpu'],
  ['backend/cuda/a.cc', 'backend/cpu/simd/b.h', 'backend/cuda', 'backend/cpu/simd'],
  ['backend/cuda/device/a.cuh', 'backend/cuda/b.h', 'backend/cuda/device', 'backend/cuda'],
  ['backend/cuda/device/a.cuh', 'simt/state.h', 'backend/cuda/device', 'simt'],
  ['node/a.cc', 'backend/cpu/runtime/b.h', 'node', 'backend/cpu/runtime'],
])('%s must not include %s', (from, to, place, other) => {
  expect(faultsOf({ [from]: ['core/error.h', to], [to]: [], 'core/error.h': [] })).toEqual([
    `${from}:3: ${place} must not include ${to}, which is in ${other}`,
  ]);
});

test('a circle is named, whether of two files or of more, also of one with itself', () => {
  const [a, b, c] = ['core/ops/a.h', 'core/ops/b.h', 'core/ops/c.h'] as const;
  expect(faultsOf({ [a]: [b], [b]: [c], [c]: [b] })).toEqual([`a circle: ${b} → ${c} → ${b}`]);
  expect(faultsOf({ [a]: [b], [b]: [c], [c]: [a] })).toEqual([`a circle: ${a} → ${b} → ${c} → ${a}`]);
  expect(faultsOf({ [a]: [a] })).toEqual([`a circle: ${a} → ${a}`]);
});

test('a new folder needs a place', () => {
  expect(faultsOf({ 'backend/metal/a.cc': [] })).toEqual([
    'backend/metal/a.cc: its folder has no place in the order (scripts/include-order.mjs)',
  ]);
});
