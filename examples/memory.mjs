// Which options let a run fit into a given memory? Nothing is loaded: config.json says enough.
//   node examples/memory.mjs [MODEL] [GB]
import { readFileSync } from 'node:fs';
import { estimateMemory } from 'lora-native';

const [model = new URL('base-model', import.meta.url).pathname, gigabytes = '0.1'] = process.argv.slice(2);
const config = JSON.parse(readFileSync(`${model}/config.json`, 'utf8'));
const tries = [
  { batchSize: 8, length: 512 },
  { batchSize: 8, length: 512, gradientCheckpointing: true },
  { batchSize: 1, length: 512, gradientCheckpointing: true },
  { batchSize: 1, length: 512, gradientCheckpointing: true, optimizer: 'adamw8bit', r: 8 },
];
for (const options of tries) {
  const { total, weights, activations } = estimateMemory(config, { dtype: 'bf16', ...options });
  const parts = [total, weights, activations].map((bytes) => (bytes / 1e9).toFixed(2));
  const fits = total < Number(gigabytes) * 1e9;
  console.log(
    `${fits ? 'fits' : 'too large'}: ${parts[0]} GB (weights ${parts[1]}, activations ${parts[2]})`,
    options,
  );
}
