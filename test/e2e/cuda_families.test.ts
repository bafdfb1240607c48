/** Every family on the emulated GPU, in bf16: losses and gradients are about those of the reference. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { CausalLM } from '../../lib/index';
import { gpu, onGpu } from '../support/emulated';
import { fillAdapter } from '../support/fill_adapter';
import { supportedFamilies } from '../support/golden';
import { relativeError } from '../support/numbers';
import { sharedData } from '../support/shared_data';
import { tinyModel } from '../support/tiny_model';

/** Models whose gradients bf16 does not hold: the reference's own are 0.1 to 0.2 off. */
const inF32 = ['tiny-gemma4', 'tiny-qwen35'];

for (const name of supportedFamilies) {
  const folder = join(sharedData, 'golden-families', name);
  if (!existsSync(folder)) test.skip(`${name} (skipped: ${folder} is absent)`, () => undefined);
  else
    onGpu(name, async () => {
      const { ids } = JSON.parse(readFileSync(join(folder, 'batches.json'), 'utf8')) as { ids: number[][][] };
      const rows = [ids[0]![0]!.slice(0, 20)];
      const dtype = inF32.includes(name) ? 'f32' : 'bf16';
      const results = [];
      for (const device of [gpu, 'reference'] as const) {
        const model = await CausalLM.fromPretrained(join(folder, 'model'), { device, dtype });
        const adapter = model.addAdapter({ r: 2, targetModules: 'all-linear' }, { seed: 2 });
        fillAdapter(adapter, 3, 0.3);
        const { loss } = model.forward(rows, { labels: rows });
        loss.backward();
        const gradients = await Promise.all(adapter.parameters().map((p) => p.grad!.data<Float32Array>()));
        results.push({ loss: await loss.item(), gradients: gradients.flatMap((g) => [...g]) });
        await model.dispose();
      }
      const [own, want] = results as [(typeof results)[0], (typeof results)[0]];
      const part = dtype === 'f32' ? 1e-3 : 1;
      expect(Math.abs(own.loss / want.loss - 1)).toBeLessThan(1e-2 * part);
      expect(relativeError(own.gradients, want.gradients)).toBeLessThan(0.1 * part);
    });
}

onGpu('heads wider than those of the kernels are refused by name', async () => {
  const dir = await tinyModel({ config: { head_dim: 258, num_attention_heads: 1, num_key_value_heads: 1 } });
  await expect(CausalLM.fromPretrained(dir, { device: gpu })).rejects.toThrow(
    'the model has heads of 258 numbers, and attention on cuda at most 256: load it on the CPU',
  );
});
