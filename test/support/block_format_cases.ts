/** GGUF's blocks against what ggml makes of them (golden/quant-gguf), on any device. */
import { join } from 'node:path';
import { openSafetensors, tensor, tidy, type Device } from '../../lib/index';
import { GgufFile } from '../../lib/formats/gguf';
import { loraLinear } from '../../lib/ops/lora_linear';
import { blockFormats, type BlockFormat } from '../../lib/native/block_formats';
import { fromBytes } from '../../lib/tensor/create';
import { FrozenWeight } from '../../lib/tensor/frozen_weight';
import { bits, seeded } from './numbers';

export const goldenShape = [8, 512] as const;

/** The tensors of blocks.gguf, by their types in small letters. */
export async function goldenBlocks(dir: string): Promise<Map<string, Uint8Array>> {
  const file = await GgufFile.open(join(dir, 'blocks.gguf'));
  const blocks = new Map<string, Uint8Array>();
  for (const stored of file.tensors.values())
    blocks.set(stored.block.type.toLowerCase(), await stored.read());
  await file.close();
  return blocks;
}

/** What each of them dequantizes to. */
export async function goldenValues(dir: string): Promise<Map<string, Float32Array>> {
  const file = await openSafetensors(join(dir, 'dequantised.safetensors'));
  const values = new Map<string, Float32Array>();
  for (const [name, { bytes }] of file.tensors)
    values.set(name.toLowerCase(), new Float32Array(Uint8Array.from(bytes).buffer));
  file.close();
  return values;
}

/** A product and its gradients, bit for bit. */
function observe(weight: FrozenWeight, rows: number, dtype: 'f32' | 'bf16'): string {
  const { device } = weight;
  const [out, inside] = goldenShape;
  return tidy(() => {
    const x = seeded([rows, inside], 1, { dtype, device, requiresGrad: true });
    const up = seeded([out, 2], 2, { device, requiresGrad: true });
    const down = seeded([2, inside], 3, { device, requiresGrad: true });
    const y = loraLinear(x, { weight, up, down, scale: 0.5 });
    y.mul(seeded([rows, out], 4, { dtype, device }))
      .sum()
      .backward();
    return bits(y, x.grad!, up.grad!, down.grad!);
  });
}

/** `define` is test(), or what skips it. */
export function blockFormatCases(
  dir: string,
  device: Device,
  define: (title: string, body: () => Promise<void>) => void,
  rowCounts: readonly number[],
): void {
  for (const format of Object.keys(blockFormats) as BlockFormat[])
    define(`${device}: ${format} is what ggml dequantizes, in every use`, async () => {
      const blocks = (await goldenBlocks(dir)).get(format)!;
      const values = (await goldenValues(dir)).get(format)!;
      for (const dtype of ['f32', 'bf16'] as const) {
        using kept = FrozenWeight.packQuantized(format, blocks, null, goldenShape, dtype, device);
        using golden = tensor(values, { shape: goldenShape, device }).to({ dtype });
        using whole = FrozenWeight.pack(golden);
        expect(tidy(() => bits(kept.unpack()))).toBe(bits(golden));
        for (const rows of rowCounts) expect(observe(kept, rows, dtype)).toBe(observe(whole, rows, dtype));
      }
    });

  define(`${device}: the file's floats of 16 bits are what ggml dequantizes`, async () => {
    const [blocks, values] = [await goldenBlocks(dir), await goldenValues(dir)];
    for (const dtype of ['f16', 'bf16'] as const) {
      const read = tidy(() =>
        fromBytes(blocks.get(dtype)!, dtype, goldenShape, device).to({ dtype: 'f32' }).bytesSync(),
      );
      expect(Buffer.from(read).equals(new Uint8Array(values.get(dtype)!.buffer))).toBe(true);
    }
  });
}
