// Streams of one engine that write at the same time: serve_many.mjs '{"model": DIR, "dtype": "bf16", "threads": 2, "adapters": 8}'
// A line asks for { streams, adapters, tokens, newcomer }: the streams share out so many adapters (0: the base model) and write
// `tokens` each; with `newcomer`, a prompt of so many tokens arrives when all of them write.
import { CausalLM, setThreads } from 'lora-native';
import { serve } from './serve.mjs';

const settings = JSON.parse(process.argv[2]);
setThreads(settings.threads);
const model = await CausalLM.fromPretrained(settings.model, { dtype: settings.dtype });
const { vocabSize } = model.config;
const names = Array.from({ length: settings.adapters }, (_, i) => `adapter ${i}`);
for (const [i, name] of names.entries())
  model.addAdapter({ r: 8, loraAlpha: 16, targetModules: 'all-linear' }, { name, seed: i });

let prompts = 0;
/** A prompt that shares no beginning with an earlier one: the engine would have read it. */
function newPrompt(length) {
  prompts++;
  return Array.from({ length }, (_, i) => (i === 0 ? 17 * prompts : i * 7919) % vocabSize);
}

await serve({}, async ({ streams, adapters, tokens, newcomer = 0 }) => {
  const times = []; // of the tokens that came while all streams wrote
  let [begun, ended] = [0, 0];
  let first;
  const options = (i, maxNewTokens) => {
    const adapter = adapters > 0 ? names[i % adapters] : null;
    return { maxNewTokens, adapter, ignoreEos: true, temperature: 0 };
  };
  const write = async (i) => {
    let count = 0;
    for await (const { id } of model.generate(newPrompt(16), options(i, tokens))) {
      if (!Number.isInteger(id)) throw new Error(`stream ${i} gave the token ${id}`);
      if (++count === 1) begun++;
      if (begun === streams && ended === 0) times.push(performance.now());
      if (newcomer > 0 && begun === streams) first ??= model.generate(newPrompt(newcomer), options(0, 1));
    }
    ended++;
  };
  await Promise.all(Array.from({ length: streams }, (_, i) => write(i)));
  const seconds = (times.at(-1) - times[0]) / 1000;
  return {
    perToken: seconds / (times.length - 1),
    first: first && (await first).timings.firstTokenMs / 1000,
  };
});
