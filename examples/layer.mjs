// A LoRA layer without any language model: a frozen 256×256 matrix learns to act like a slightly different one, whose
// difference has rank 4. Trains 2·4·256 numbers instead of 256².
//
//   node examples/layer.mjs
import { AdamW, LoRALinear, memoryUsage, saveCheckpoint, tensor, tidy } from 'lora-native';

const n = 256;
const rank = 4;
const random = (length, scale) => Float32Array.from({ length }, () => (Math.random() * 2 - 1) * scale);

const weight = tensor(random(n * n, 1 / 16), { shape: [n, n] });
const difference = tensor(random(n * rank, 0.2), { shape: [n, rank] }).matmul(
  tensor(random(rank * n, 0.2), { shape: [rank, n] }),
);
const wanted = weight.add(difference).transpose();

const layer = new LoRALinear({ inFeatures: n, outFeatures: n, r: rank, loraAlpha: rank, weight, seed: 0 });
const optimizer = new AdamW(layer.parameters(), { lr: 2e-2 });
for (let step = 0; step <= 400; step++) {
  const loss = tidy(() => {
    const x = tensor(random(32 * n, 1), { shape: [32, n] });
    const error = layer.forward(x).sub(x.matmul(wanted)).square().mean();
    error.backward();
    return error;
  });
  optimizer.step();
  optimizer.zeroGrad();
  if (step % 50 === 0) console.log(`step ${step}  loss ${(await loss.item()).toExponential(2)}`);
  loss.dispose();
}
await saveCheckpoint('layer-run', { layer, optimizer, step: 400 });
console.log(`saved layer-run/checkpoint.safetensors; ${memoryUsage().tensors} tensors alive`);
