// ESM: the loss of a small layer falls.
import { AdamW, LoRALinear, tensor } from 'lora-native';

const layer = new LoRALinear({ inFeatures: 16, outFeatures: 8, r: 4, loraAlpha: 8, seed: 0 });
const x = tensor(
  Float32Array.from({ length: 64 }, (_, i) => Math.sin(i)),
  { shape: [4, 16] },
);
const target = tensor(
  Float32Array.from({ length: 32 }, (_, i) => Math.cos(i)),
  { shape: [4, 8] },
);
const optimizer = new AdamW(layer.parameters(), { lr: 1e-2 });
const losses = [];
for (let step = 0; step < 10; step++) {
  const loss = layer.forward(x).sub(target).square().mean();
  loss.backward();
  optimizer.step();
  optimizer.zeroGrad();
  losses.push(await loss.item());
}
if (!(losses.at(-1) < losses[0])) throw new Error(`the loss does not fall: ${losses}`);
