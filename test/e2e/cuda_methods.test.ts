/** Methods beside LoRA, and full fine-tuning, on the emulated GPU: logits, gradients and texts are those of the reference. */
import { rmSync } from 'node:fs';
import { AdamW, CausalLM, type Adapter, type AdapterConfigInput, type Device } from '../../lib/index';
import { gpu, onGpu } from '../support/emulated';
import { fillAdapter } from '../support/fill_adapter';
import { relativeError } from '../support/numbers';
import { tinyModel } from '../support/tiny_model';

const rows = [
  [256, 72, 101, 108],
  [97, 98, 99],
];
const configs: Record<string, AdapterConfigInput> = {
  ia3: { method: 'ia3' },
  houlsby: { method: 'bottleneck', placement: 'houlsby', bottleneckSize: 5, activation: 'gelu' },
  pfeiffer: { method: 'bottleneck', reductionFactor: 4, activation: 'silu', dropout: 0.3 },
  prompt: { method: 'prompt', numVirtualTokens: 3 },
};

let dir: string;
beforeAll(async () => {
  dir = await tinyModel({ config: { model_type: 'qwen2', architectures: ['Qwen2ForCausalLM'] } });
});
afterAll(() => rmSync(dir, { recursive: true }));

/** The logits, the loss with dropout, its gradients and a text of an adapter. */
async function resultsOf(model: CausalLM, adapter: Adapter) {
  const { loss, logits } = model.forward(rows, { labels: rows, logits: true, adapter });
  loss.backward();
  const gradients = await Promise.all(adapter.parameters().map((p) => p.grad!.data()));
  const { name } = adapter;
  const text = { maxNewTokens: 3, temperature: 0, ignoreEos: true, adapter: name } as const;
  const { ids } = await model.generate(rows[0]!, text);
  return { logits: await logits.data(), gradients, ids };
}

for (const [name, config] of Object.entries(configs))
  onGpu(`${name}: logits, gradients and text`, async () => {
    const results = [];
    for (const device of [gpu, 'reference'] satisfies Device[]) {
      const model = await CausalLM.fromPretrained(dir, { device });
      const adapter = model.addAdapter(config, { name, seed: 2 });
      fillAdapter(adapter, 3, 0.5);
      results.push(await resultsOf(model, adapter));
      await model.dispose();
    }
    const [own, want] = results as [(typeof results)[0], (typeof results)[0]];
    expect(relativeError(own.logits, want.logits)).toBeLessThan(1e-4);
    for (const [i, gradient] of own.gradients.entries())
      expect(relativeError(gradient, want.gradients[i]!)).toBeLessThan(1e-3);
    expect(own.ids).toEqual(want.ids);
  });

onGpu('full fine-tuning: gradients, a step and a text', async () => {
  const results = [];
  for (const device of [gpu, 'reference'] satisfies Device[]) {
    const model = await CausalLM.fromPretrained(dir, { device });
    const parameters = model.trainAll();
    model.forward(rows, { labels: rows }).loss.backward();
    const gradients = await Promise.all(parameters.map((p) => p.grad!.data()));
    const optimizer = new AdamW(parameters, { lr: 0.01 });
    optimizer.step();
    const { ids } = await model.generate(rows[0]!, { maxNewTokens: 3, temperature: 0, ignoreEos: true });
    const { loss } = model.forward(rows, { labels: rows });
    results.push({ gradients, ids, loss: await loss.item() });
    optimizer.dispose();
    await model.dispose();
  }
  const [own, want] = results as [(typeof results)[0], (typeof results)[0]];
  for (const [i, gradient] of own.gradients.entries())
    expect(relativeError(gradient, want.gradients[i]!)).toBeLessThan(1e-3);
  expect(Math.abs(own.loss / want.loss - 1)).toBeLessThan(1e-4);
  expect(own.ids).toEqual(want.ids);
});
