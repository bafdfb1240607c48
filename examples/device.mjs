// The same program on a GPU where there is one and on the CPU where there is none.
//
//   node examples/device.mjs [MODEL_DIR] [DEVICE]
import { CausalLM, LoRAError, Trainer, devices, loadDataset, memoryUsage } from 'lora-native';

for (const { id, name, memoryBytes, computeCapability } of devices())
  console.log(
    `${id}: ${name}, ${(memoryBytes / 2 ** 30).toFixed(1)} GiB${computeCapability ? `, compute capability ${computeCapability}` : ''}`,
  );

const [dir = new URL('base-model', import.meta.url), wanted = 'cuda'] = process.argv.slice(2);
async function load() {
  try {
    return await CausalLM.fromPretrained(dir, { device: wanted });
  } catch (error) {
    if (!(error instanceof LoRAError && error.code === 'ERR_DEVICE_UNAVAILABLE')) throw error;
    console.log(error.message);
    return CausalLM.fromPretrained(dir, { device: 'cpu' });
  }
}
const model = await load();
const file = new URL('data/train.jsonl', import.meta.url);
const data = await loadDataset(file, { tokenizer: model.tokenizer, maxLength: 256 });
model.addAdapter({ r: 8, loraAlpha: 16, targetModules: 'all-linear' });
const { loss } = await new Trainer({ model, data, maxSteps: 10, lr: 2e-3 }).run();
const { byDevice, peakBytes } = memoryUsage();
console.log(`trained on ${model.device}: loss ${loss.toFixed(3)}`);
console.log(`tensors: ${JSON.stringify(byDevice)} bytes now, ${peakBytes} at most`);
await model.dispose();
