// Our generation, one run for each line: generate.mjs '{"model": DIR, "dtype": "bf16", "threads": 2}'
import { CausalLM, setThreads } from 'lora-native';
import { serve } from './serve.mjs';

const settings = JSON.parse(process.argv[2]);
setThreads(settings.threads);
const { model: dir, dtype, quantize, activations } = settings;
const model = await CausalLM.fromPretrained(dir, { dtype, quantize, activations });
const { vocabSize, numHiddenLayers, numKeyValueHeads, headDim } = model.config;

await serve({ vocabSize, kvWidth: numHiddenLayers * 2 * numKeyValueHeads * headDim }, async (request) => {
  const { ids, tokens } = request;
  const wanted = { maxNewTokens: tokens, ignoreEos: true, temperature: 0 };
  const before = process.cpuUsage();
  const result = await model.generate(ids, wanted);
  const userMs = process.cpuUsage(before).user / 1000;
  const { firstTokenMs, totalMs, queuedMs } = result.timings;
  return { prefillMs: firstTokenMs - queuedMs, decodeMs: totalMs - firstTokenMs, userMs, ids: result.ids };
});
