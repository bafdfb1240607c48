// Layers of your own, without a language model: a frozen network whose sensors were plugged in wrongly is repaired by a
// LoRA pair on each layer; the pairs are saved and loaded.
//
//   node examples/custom-layer.mjs [OUT_DIR]
import {
  AdamW,
  LoRALinear,
  Module,
  clipGradNorm,
  loadCheckpoint,
  noGrad,
  saveCheckpoint,
  tensor,
  tidy,
} from 'lora-native';

/** relu between two frozen layers, each with a LoRA pair. */
class Network extends Module {
  constructor({ w1, w2, r, seed = 0 }) {
    super();
    const [hidden, inputs] = w1.shape;
    const [outputs] = w2.shape;
    const lora = { r, loraAlpha: r };
    this.first = new LoRALinear({ inFeatures: inputs, outFeatures: hidden, weight: w1, ...lora, seed });
    this.second = new LoRALinear({
      inFeatures: hidden,
      outFeatures: outputs,
      weight: w2,
      ...lora,
      seed: seed + 1,
    });
  }
  forward(x) {
    return this.second.forward(this.first.forward(x).relu());
  }
}

// Random numbers with a seed, so that two runs print the same.
let state = 1;
const random = () => (state = (state * 48271) % 2147483647) / 2147483647 - 0.5;
const matrix = (rows, columns, scale) =>
  tensor(
    Float32Array.from({ length: rows * columns }, () => scale * random()),
    { shape: [rows, columns] },
  );

const [inputs, hidden, outputs, rows] = [32, 64, 8, 64];
const weights = { w1: matrix(hidden, inputs, 0.6), w2: matrix(outputs, hidden, 0.5) };
const original = new Network({ ...weights, r: 1 }); // its LoRA pairs start at zero: the frozen network
const network = new Network({ ...weights, r: 4 });

/**
 * Two pairs of columns have changed places; the network shall answer as if they had not. W with those columns swapped is
 * W plus a matrix of rank 2, so a small rank is enough.
 */
const swapped = ([a, b, c, d, ...rest]) => [b, a, d, c, ...rest];
function batch() {
  const values = Array.from({ length: rows }, () => Array.from({ length: inputs }, () => 2 * random()));
  return { x: tensor(values.map(swapped)), wanted: noGrad(() => original.forward(tensor(values))) };
}
const lossOf = ({ x, wanted }) => network.forward(x).sub(wanted).square().mean();

const optimizer = new AdamW(network.parameters(), { lr: 1e-2, weightDecay: 0 });
for (let step = 0; step <= 400; step++) {
  const loss = tidy(() => {
    const result = lossOf(batch());
    result.backward();
    return result;
  });
  clipGradNorm(network.parameters(), 1).dispose();
  optimizer.step();
  optimizer.zeroGrad();
  if (step % 100 === 0) console.log(`step ${step}  loss ${(await loss.item()).toFixed(5)}`);
  loss.dispose();
}

const [outDir = 'custom-layer-run'] = process.argv.slice(2);
await saveCheckpoint(outDir, { network, optimizer, step: 400 });
const again = new Network({ ...weights, r: 4, seed: 7 });
const { step } = await loadCheckpoint(outDir, { network: again });
const { x } = batch();
const [a, b] = await Promise.all([network, again].map((n) => noGrad(() => n.forward(x)).data()));
console.log(`loaded step ${step}: ${a.every((v, i) => v === b[i]) ? 'the same outputs' : 'OTHER OUTPUTS'}`);
