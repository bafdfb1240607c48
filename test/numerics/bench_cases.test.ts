/** The benchmark's own cases, cpu against the reference backend in double: what is timed is also right. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { loraLinearCases, loraLinearInputs, type LoraLinearCase } from '../../benchmarks/inputs.cjs';
import { parameter, tensor, type Tensor } from '../../lib/index';
import { loraLinearGroup } from '../../lib/ops';
import { FrozenWeight } from '../../lib/tensor/frozen_weight';

const file = join(__dirname, '../../benchmarks/cases.json');
const definitions = JSON.parse(readFileSync(file, 'utf8')) as object;

/** Two row tiles and a row: more rows repeat what these do, and the reference is scalar. Wide layers get three rows. */
const rowsOf = ({ m, in: k, out }: LoraLinearCase): number =>
  Math.min(m, out.reduce((sum, n) => sum + n * k, 0) > 8e6 ? 3 : 13);

const cases = new Map(
  (['lora_linear', 'lora_linear_cold'] as const)
    .flatMap((kind) => loraLinearCases(definitions, kind))
    .map((c) => ({ ...c, m: rowsOf(c) }))
    .map((c) => [`${c.model} ${c.layer} ${c.dtype} M=${c.m} r=${c.r}`, c]),
);

async function run(
  testCase: LoraLinearCase,
  device: 'cpu' | 'reference',
): Promise<Record<string, Float32Array>> {
  const { m, in: k, out, r, dtype } = testCase;
  const { x, branches, scale } = loraLinearInputs(testCase);
  const input = tensor(x, { shape: [m, k], dtype, device, requiresGrad: true });
  const layers = branches.map(({ w, a, b }, i) => ({
    weight: FrozenWeight.pack(tensor(w, { shape: [out[i]!, k], dtype, device })),
    up: parameter(tensor(a, { shape: [out[i]!, r], device })),
    down: parameter(tensor(b, { shape: [r, k], device })),
    scale,
  }));
  const results: Record<string, Tensor> = {};
  const y = loraLinearGroup(input, layers);
  // Σ ⟨y, g⟩ has the gradients of a backward pass with these g.
  const loss = y
    .map((t, i) =>
      t
        .to({ dtype: 'f32' })
        .mul(tensor(branches[i]!.g, { shape: [m, out[i]!], device }))
        .sum(),
    )
    .reduce((sum, part) => sum.add(part));
  loss.backward();
  results['dx'] = input.grad!;
  y.forEach((t, i) => {
    results[`y${i}`] = t;
    results[`dA${i}`] = layers[i]!.up.grad!;
    results[`dB${i}`] = layers[i]!.down.grad!;
  });
  const values: Record<string, Float32Array> = {};
  for (const [name, t] of Object.entries(results)) values[name] = await t.data<Float32Array>();
  for (const { weight } of layers) weight.dispose();
  return values;
}

test.each([...cases])('%s', async (_, testCase) => {
  const [cpu, reference] = [await run(testCase, 'cpu'), await run(testCase, 'reference')];
  // Norms, relative: f32 sums stay within a few units of √terms·ε; bf16 rounds h, y and dx once each.
  const terms = Math.max(
    testCase.in,
    testCase.out.reduce((sum, n) => sum + n, 0),
  );
  const bound = testCase.dtype === 'f32' ? 2e-6 * Math.sqrt(Math.max(1, terms / 2048)) : 4e-3;
  for (const [name, want] of Object.entries(reference)) {
    const got = cpu[name]!;
    expect(got).toHaveLength(want.length);
    let difference = 0;
    let norm = 0;
    for (const [i, value] of want.entries()) {
      difference += (got[i]! - value) ** 2;
      norm += value ** 2;
    }
    const error = Math.sqrt(difference / norm);
    if (!(error <= bound)) throw new Error(`${name}: ${error} exceeds ${bound}`);
  }
});
