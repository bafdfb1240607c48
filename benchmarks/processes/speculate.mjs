// Texts with and without speculation: speculate.mjs '{"model": DIR, "adapter": DIR, "train": {…}, "dtype": "bf16", "threads": 2}'
// Where the adapter is absent, it is trained first.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { CausalLM, loadDataset, setThreads, Trainer } from 'lora-native';
import { serve } from './serve.mjs';

const settings = JSON.parse(process.argv[2]);
const { adapter: outDir, train } = settings;
setThreads(settings.threads);
const model = await CausalLM.fromPretrained(settings.model, { dtype: settings.dtype });
if (existsSync(join(outDir, 'adapter_config.json'))) await model.loadAdapter(outDir);
else {
  model.addAdapter({ r: 8, loraAlpha: 16 }, { seed: 0 });
  const data = await loadDataset(train.data, { tokenizer: model.tokenizer, maxLength: 256 });
  const { maxSteps, lr } = train;
  await new Trainer({ model, data, outDir, maxSteps, lr, batchSize: 8, warmupSteps: maxSteps / 20 }).run();
}

await serve({ stats: model.engineStats() }, async ({ prompts, options, speculate }) => {
  const before = model.engineStats();
  const begun = performance.now();
  const cpu = process.cpuUsage();
  const ids = [];
  for (const prompt of prompts) ids.push((await model.generate(prompt, { ...options, speculate })).ids);
  const after = model.engineStats();
  const since = (name) => after[name] - before[name];
  return {
    ids,
    ms: performance.now() - begun,
    userMs: process.cpuUsage(cpu).user / 1000,
    steps: since('steps'),
    proposed: since('proposedTokens'),
    accepted: since('acceptedTokens'),
  };
});
