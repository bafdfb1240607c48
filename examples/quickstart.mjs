// A first fine-tune: the bundled model learns to turn sentences into JSON.
//
//   node examples/quickstart.mjs [MODEL_DIR] [DATA.jsonl] [STEPS] [LR]
import { CausalLM, Trainer, loadDataset } from 'lora-native';

const [
  dir = new URL('base-model', import.meta.url),
  file = new URL('data/train.jsonl', import.meta.url),
  steps = '200',
  lr = '5e-3',
] = process.argv.slice(2);

const model = await CausalLM.fromPretrained(dir);
const data = await loadDataset(file, { tokenizer: model.tokenizer, maxLength: 256 });
const prompt = 'On Monday Danor sells three black eggs at the park. ->';
const options = { maxNewTokens: 64, temperature: 0, stop: ['\n'] };
console.log(`before: ${(await model.generate(prompt, options)).text}`);

model.addAdapter({ r: 8, loraAlpha: 16, targetModules: 'all-linear' });
const trainer = new Trainer({
  model,
  data,
  outDir: 'quickstart-run',
  maxSteps: Number(steps),
  batchSize: 8,
  lr: Number(lr),
});
for await (const e of trainer.run())
  if (e.type === 'step' && (e.step === 1 || e.step % 20 === 0))
    console.log(`step ${e.step}  loss ${e.loss.toFixed(3)}  ${Math.round(e.tokensPerSecond)} tokens/s`);

console.log(`after: ${(await model.generate(prompt, options)).text}`);
await model.dispose();
