// Our vectors of texts given as ids, one run for each line: embed.mjs '{"model": DIR, "dtype": "bf16", "threads": 2}'
import { CausalLM, setThreads } from 'lora-native';
import { serve } from './serve.mjs';

const { model: dir, dtype, threads } = JSON.parse(process.argv[2]);
setThreads(threads);
const model = await CausalLM.fromPretrained(dir, { dtype });

await serve({ vocabSize: model.config.vocabSize }, async ({ texts }) => {
  const begun = performance.now();
  const vectors = await model.embed(texts, { pool: 'mean' });
  const ms = performance.now() - begun;
  return { ms, vectors: [...vectors[0], ...vectors.at(-1)] };
});
