import { atOnce } from '../../lib/tensor/pace';
import { adapterTensor, checkAdapterTensors } from '../../lib/peft/adapter_tensors';
import type { SafetensorsTensor } from '../../lib/formats/safetensors';
import { expectThrow } from '../support/errors';

const words = (dtype: 'BF16' | 'F16', ...bits: number[]): SafetensorsTensor => ({
  dtype,
  shape: [bits.length],
  bytes: new Uint8Array(Uint16Array.from(bits).buffer),
});
const f32 = (...values: number[]): SafetensorsTensor => ({
  dtype: 'F32',
  shape: [values.length],
  bytes: new Uint8Array(Float32Array.from(values).buffer),
});
const check =
  (tensor: SafetensorsTensor, shape = tensor.shape) =>
  () =>
    atOnce(checkAdapterTensors('a', undefined, new Map([['w', shape]]), new Map([['w', tensor]])));

test.each<[string, SafetensorsTensor]>([
  ['NaN in f32', f32(1, NaN)],
  ['an infinity in f32', f32(-Infinity, 1)],
  ['NaN in bf16', words('BF16', 0x3f80, 0x7fc0)],
  ['an infinity in bf16', words('BF16', 0xff80)],
  ['NaN in f16', words('F16', 0x3c00, 0x7e00)],
  ['an infinity in f16', words('F16', 0xfc00)],
])('%s is refused', (_, tensor) => {
  expectThrow(
    check(tensor),
    'ERR_ADAPTER',
    "[adapter] adapter 'a' does not fit the model: values that are not finite in w",
  );
});

test.each<[string, SafetensorsTensor]>([
  ['f32', f32(3.4e38, -3.4e38, 0, 1e-45)],
  ['bf16', words('BF16', 0x7f7f, 0xff7f, 0x0001, 0x7c00)],
  ['f16', words('F16', 0x7bff, 0xfbff, 0x0001)],
  ['nothing', f32()],
])('the largest and smallest numbers of %s are not', (_, tensor) => {
  expect(check(tensor)).not.toThrow();
});

test('a view into a longer buffer that is not aligned is read as it is', () => {
  const bytes = new Uint8Array(9);
  bytes.set(f32(1, 2).bytes, 1);
  expect(check({ dtype: 'F32', shape: [2], bytes: bytes.subarray(1) })).not.toThrow();
  bytes.set(f32(1, NaN).bytes, 1);
  expect(check({ dtype: 'F32', shape: [2], bytes: bytes.subarray(1) })).toThrow('not finite in w');
});

test('types and shapes that do not fit are told with what was expected', () => {
  expectThrow(
    check({ dtype: 'I32', shape: [1], bytes: new Uint8Array(4) }),
    'ERR_ADAPTER',
    /expected w of type F32, BF16 or F16 but received I32$/,
  );
  expectThrow(check(f32(1, 2), [2, 1]), 'ERR_ADAPTER', /expected w of shape \[2, 1\] but received \[2\]$/);
});

test('of a long list the first five are told, and how many more there are', () => {
  const names = ['a', 'b', 'c', 'd', 'e', 'f', 'g'];
  const all = new Map(names.map((name) => [name, [1]]));
  expectThrow(
    () => atOnce(checkAdapterTensors('x', 'org/base', all, new Map())),
    'ERR_ADAPTER',
    "[adapter] adapter 'x', which was trained for org/base, does not fit the model: it lacks a, b, c, d, e and 2 more",
  );
  const five = new Map(names.slice(0, 5).map((name) => [name, [1]]));
  expectThrow(
    () => atOnce(checkAdapterTensors('x', null, five, new Map())),
    'ERR_ADAPTER',
    /it lacks a, b, c, d, e$/,
  );
});

test.each<[string, SafetensorsTensor, number[]]>([
  ['f32', f32(1.1, -2), [Math.fround(1.1), -2]],
  ['bf16', words('BF16', 0x3f80, 0xc000), [1, -2]],
  ['f16', words('F16', 0x3c00, 0xc000, 0x3555), [1, -2, 0.333251953125]],
])('%s becomes f32', async (_, stored, want) => {
  const values = await adapterTensor(stored, 'cpu');
  expect([values.dtype, ...(await values.data())]).toEqual(['f32', ...want]);
});
