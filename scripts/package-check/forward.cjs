// CommonJS, and that import and the other entries give the same classes.
const lora = require('lora-native');

const layer = new lora.LoRALinear({ inFeatures: 8, outFeatures: 4, r: 2, loraAlpha: 4, seed: 0 });
const y = layer.forward(lora.tensor([[1, 2, 3, 4, 5, 6, 7, 8]]));
if (y.shape.join() !== '1,4' || !y.dataSync().every(Number.isFinite)) throw new Error(`wrong output ${y}`);
import('lora-native').then((esm) => {
  for (const name of ['Tensor', 'LoRALinear', 'LoRAError', 'CausalLM'])
    if (esm[name] !== lora[name]) throw new Error(`two classes ${name}`);
});
for (const [entry, name] of [
  ['serve', 'createOpenAIHandler'],
  ['compare', 'compareMethods'],
  ['train', 'Trainer'],
]) {
  if (require(`lora-native/${entry}`)[name] !== lora[name]) throw new Error(`two ${name}`);
  import(`lora-native/${entry}`).then((esm) => {
    if (esm[name] !== lora[name]) throw new Error(`two ${name}`);
  });
}
