/** Blocks and values as bitsandbytes 0.50 makes them. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { openSafetensors, tensor, tidy, type DType } from '../../lib/index';
import type { ModelTensors } from '../../lib/formats/sharded';
import { nest, nestedMap } from '../../lib/models/quantized/double_quant';
import { storedMatrix } from '../../lib/models/quantized/stored_matrix';
import { binding } from '../../lib/native/calls';
import { FrozenWeight, scaleOfInt8, type QuantizedFormat } from '../../lib/tensor/frozen_weight';
import { describeWithData } from '../support/shared_data';

interface Stored {
  dtype: string;
  shape: readonly number[];
  bytes: Uint8Array;
}
const floats = ({ bytes }: Stored): Float32Array => new Float32Array(Uint8Array.from(bytes).buffer);
const devices = ['cpu', 'reference'] as const;

describeWithData('quant-bnb', 'golden/quant-bnb', (dir) => {
  const tensors = new Map<string, Stored>();
  const cases = Object.keys(
    JSON.parse(readFileSync(join(dir, 'bitsandbytes.json'), 'utf8')) as object,
  ).filter((name) => /^(nf4|fp4)-/.test(name));

  beforeAll(async () => {
    const file = await openSafetensors(join(dir, 'bitsandbytes.safetensors'));
    for (const [name, { dtype, shape, bytes }] of file.tensors)
      tensors.set(name, { dtype, shape, bytes: Uint8Array.from(bytes) });
    file.close();
  });

  /** The source as a tensor of the dtype that was quantized. */
  const source = (dtype: DType, device: 'cpu' | 'reference'): ReturnType<typeof tensor> =>
    tensor(floats(tensors.get('source')!), { shape: [96, 256], device }).to({ dtype });
  const quantized = async (
    dtype: DType,
    format: QuantizedFormat,
    device: 'cpu' | 'reference',
  ): Promise<{ values: Uint8Array; magnitudes: Float32Array }> => {
    const x = source(dtype, device);
    const made = FrozenWeight.quantize(x, format);
    const result = {
      values: new Uint8Array(await binding().read(made.values)),
      magnitudes: new Float32Array(await binding().read(made.magnitudes)),
    };
    binding().release(made.values);
    binding().release(made.magnitudes);
    x.dispose();
    return result;
  };

  test('there are cases', () => expect(cases.length).toBe(24));

  test('every directory layout dequantizes to the values of bitsandbytes, bit for bit', async () => {
    for (const name of cases) {
      const of = (key: string): Stored => tensors.get(`${name}.${key}`)!;
      const file = new Map<string, Stored>([
        ['w', { ...of('packed'), shape: [of('packed').bytes.length, 1] }],
        ['w.absmax', of('absmax')],
        ['w.quant_map', of('code')],
        [`w.quant_state.bitsandbytes__${name.slice(0, 3)}`, of('quant_state')],
      ]);
      if (name.endsWith('double')) {
        file.set('w.nested_absmax', of('state2_absmax'));
        file.set('w.nested_quant_map', of('state2_code'));
      }
      const stored = {
        names: [...file.keys()],
        get: (key: string) => ({
          ...file.get(key)!,
          byteLength: file.get(key)!.bytes.length,
          read: () => Promise.resolve(file.get(key)!.bytes),
        }),
      } as unknown as ModelTensors;
      const matrix = (await storedMatrix(stored, new Set(stored.names), 'w', [96, 256]))!;
      expect([...matrix.tensors.keys()].sort()).toEqual([...file.keys()].sort());
      const { format, values, scales } = await matrix.read();
      const dtype = /float32/.test(name) ? 'f32' : /bfloat16/.test(name) ? 'bf16' : 'f16';
      for (const device of devices) {
        // No device computes in f16 with these formats: f32 has the values before they are rounded to it.
        const packed = FrozenWeight.packQuantized(
          format,
          values,
          scales,
          [96, 256],
          dtype === 'f16' ? 'f32' : dtype,
          device,
        );
        const bytes = tidy(() => packed.unpack().to({ dtype }).bytesSync());
        packed.dispose();
        expect(Buffer.from(bytes).equals(of('dequantised').bytes)).toBe(true);
      }
    }
  });

  test('codes and magnitudes are those of bitsandbytes, bit for bit', async () => {
    for (const device of devices)
      for (const dtype of ['float32', 'bfloat16', 'float16'])
        for (const format of ['nf4', 'fp4'] as const) {
          const name = `${format}-b64-${dtype}-single`;
          const ours = { float32: 'f32', bfloat16: 'bf16', float16: 'f16' }[dtype] as DType;
          const { values, magnitudes } = await quantized(ours, format, device);
          expect(Buffer.from(values).equals(tensors.get(`${name}.packed`)!.bytes)).toBe(true);
          expect(magnitudes).toEqual(floats(tensors.get(`${name}.absmax`)!));
        }
  });

  test('int8 rows are those of bitsandbytes, bit for bit', async () => {
    for (const device of devices) {
      const { values, magnitudes } = await quantized('f16', 'int8', device);
      expect(Buffer.from(values).equals(tensors.get('int8.q')!.bytes)).toBe(true);
      expect(magnitudes).toEqual(floats(tensors.get('int8.row_absmax')!));
    }
    expect(scaleOfInt8(127)).toBe(1);
  });

  test('the second quantization: the map, its magnitudes and codes, and the mean within an ulp', async () => {
    for (const dtype of ['float32', 'bfloat16', 'float16']) {
      const name = `nf4-b64-${dtype}`;
      const of = (key: string): Stored => tensors.get(`${name}-double.${key}`)!;
      expect(nestedMap).toEqual(floats(of('state2_code')));
      const { codes, magnitudes, offset } = await nest(floats(tensors.get(`${name}-single.absmax`)!));
      const [mean] = floats(of('offset'));
      expect(Math.abs(offset - mean!)).toBeLessThanOrEqual(2 ** -25);
      if (offset !== mean) continue; // codes at the middle between two may differ
      expect(Buffer.from(codes).equals(of('absmax').bytes)).toBe(true);
      expect(magnitudes).toEqual(floats(of('state2_absmax')));
    }
  });
});

test('of two codes of the second quantization that are as near, the lower one', async () => {
  // Their mean is 0 and the largest one 1, so that each is looked up as it is.
  const middles = nestedMap
    .subarray(1)
    .map((value, i) => Math.fround(Math.fround(value + nestedMap[i]!) / 2));
  for (const [i, middle] of middles.entries()) {
    const { codes, offset } = await nest(Float32Array.of(1, -1, middle, -middle));
    expect([offset, codes[2]]).toEqual([0, i]);
  }
});
