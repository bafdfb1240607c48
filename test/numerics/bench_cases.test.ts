/** The benchmark's own cases, cpu against the reference backend in double: what is timed is also right. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { loraLinearInputs, type LoraLinearCase } from '../../benchmarks/inputs.cjs';
import { LoRALinear, tensor } from '../../lib/index';

const file = join(__dirname, '../../benchmarks/cases.json');
const cases = (JSON.parse(readFileSync(file, 'utf8')) as { lora_linear: LoraLinearCase[] }).lora_linear;
const title = (c: LoraLinearCase) => `${c.dtype} M=${c.m} ${c.in}→${c.out} r=${c.r}`;

async function run(
  testCase: LoraLinearCase,
  device: 'cpu' | 'reference',
): Promise<Record<string, Float32Array>> {
  const { m, in: k, out: n, r, dtype } = testCase;
  const { x, w, a, b, g, scale } = loraLinearInputs(testCase);
  const weight = tensor(w, { shape: [n, k], dtype, device });
  const layer = new LoRALinear({
    inFeatures: k,
    outFeatures: n,
    r,
    loraAlpha: scale * r,
    weight,
    dtype,
    device,
  });
  layer.loadStateDict({ up: tensor(a, { shape: [n, r] }), down: tensor(b, { shape: [r, k] }), forwards: 0 });
  const input = tensor(x, { shape: [m, k], dtype, device, requiresGrad: true });
  const y = layer.forward(input);
  y.backward(tensor(g, { shape: [m, n], dtype, device }));
  const grads = { dx: input.grad, dA: layer.up.grad, dB: layer.down.grad };
  const out: Record<string, Float32Array> = { y: await y.data<Float32Array>() };
  for (const [name, grad] of Object.entries(grads)) if (grad) out[name] = await grad.data<Float32Array>();
  layer.dispose();
  return out;
}

test.each(cases.map((c) => [title(c), c] as const))('%s', async (_, testCase) => {
  // Two row tiles and a row: more rows repeat what these do, and the reference is scalar.
  const small = { ...testCase, m: Math.min(testCase.m, 13) };
  const [cpu, reference] = [await run(small, 'cpu'), await run(small, 'reference')];
  // Norms, relative: f32 sums of 2048 terms stay within a few units of √k·ε; bf16 rounds h, y and dx once each.
  const bound = small.dtype === 'f32' ? 2e-6 : 4e-3;
  for (const [name, want] of Object.entries(reference)) {
    const got = cpu[name] as Float32Array;
    expect(got).toHaveLength(want.length);
    let difference = 0;
    let norm = 0;
    for (const [i, value] of want.entries()) {
      difference += ((got[i] as number) - value) ** 2;
      norm += value ** 2;
    }
    const error = Math.sqrt(difference / norm);
    if (!(error <= bound)) throw new Error(`${name}: ${error} exceeds ${bound}`);
  }
});
