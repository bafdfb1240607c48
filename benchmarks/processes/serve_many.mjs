// Streams of one engine that write at the same time: serve_many.mjs '{"model": DIR, "dtype": "bf16", "threads": 2, "adapters": 8}'
// A line asks for { streams, adapters, tokens, newcomer }: the streams share out so many adapters (0: the base model) and write
// `tokens` each; with `newcomer`, a prompt of so many tokens arrives when all of them write.
import { CausalLM, setThreads } from 'lora-native';
import { serve } from './serve.mjs';
import { promptsOf, writeTogether } from './streams.mjs';

const settings = JSON.parse(process.argv[2]);
setThreads(settings.threads);
const model = await CausalLM.fromPretrained(settings.model, { dtype: settings.dtype });
const { vocabSize } = model.config;
const names = Array.from({ length: settings.adapters }, (_, i) => `adapter ${i}`);
for (const [i, name] of names.entries())
  model.addAdapter({ r: 8, loraAlpha: 16, targetModules: 'all-linear' }, { name, seed: i });

const newPrompt = promptsOf(vocabSize);

await serve({}, ({ streams, adapters, tokens, newcomer = 0 }) => {
  const options = (i, maxNewTokens) => {
    const adapter = adapters > 0 ? names[i % adapters] : null;
    return { maxNewTokens, adapter, ignoreEos: true, temperature: 0 };
  };
  const write = async (i, seen) => {
    for await (const { id } of model.generate(newPrompt(16), options(i, tokens))) {
      if (!Number.isInteger(id)) throw new Error(`stream ${i} gave the token ${id}`);
      seen();
    }
  };
  const arrive = async () =>
    (await model.generate(newPrompt(newcomer), options(0, 1))).timings.firstTokenMs / 1000;
  return writeTogether(streams, write, newcomer > 0 ? arrive : undefined);
});
