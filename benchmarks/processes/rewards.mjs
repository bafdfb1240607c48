// A step of training on rewards, or one of its parts alone, in a process of their own, so that its peak memory is theirs:
// rewards.mjs '{"model": DIR, "dtype": "bf16", "do": "step" | "generate" | "train", "prompts": 8, "completions": 8, "tokens": 64, "prompt": 16, "threads": 2}'
import { setThreads, Trainer } from 'lora-native';
import { rows, trainable } from '../steps.mjs';
import { peakBytes } from './peak.mjs';
import { serve } from './serve.mjs';

const settings = JSON.parse(process.argv[2]);
const { prompts, completions, tokens, prompt } = settings;
setThreads(settings.threads);
const model = await trainable(settings.model, settings);
const asked = rows(prompts, prompt, model.config.vocabSize);

/** Steps without end; each yields its tokens. A batch holds the completions of a prompt. */
async function* steps(data, options) {
  const accumulated = { gradientAccumulationSteps: prompts, maxSteps: Number.MAX_SAFE_INTEGER };
  const schedule = { lr: 1e-6, schedule: 'constant' };
  for await (const event of new Trainer({ model, data, ...accumulated, ...schedule, ...options }).run())
    if (event.type === 'step') yield event.tokens;
}

async function* generations() {
  model.configureEngine({ maxBatchSize: prompts * completions });
  for (let seed = 1; ; seed++) {
    const options = { n: completions, maxNewTokens: tokens, temperature: 1, topK: 0, topP: 1, seed };
    const made = await Promise.all(asked.map((ids) => model.generate(ids, options)));
    yield made.reduce((sum, { usage }) => sum + usage.completionTokens, 0);
  }
}

const whole = rows(prompts * completions, prompt + tokens, model.config.vocabSize);
const ways = {
  step: () =>
    steps(
      asked.map((promptIds) => ({ promptIds })),
      {
        ...{ objective: 'grpo', batchSize: 1, numGenerations: completions, maxCompletionLength: tokens },
        rewards: [({ completionIds }) => completionIds.filter((id) => id % 2 === 0).length],
      },
    ),
  train: () =>
    steps(
      whole.map((inputIds) => ({ inputIds, labels: inputIds.map((id, i) => (i < prompt ? -100 : id)) })),
      { batchSize: completions },
    ),
  generate: generations,
};

const run = ways[settings.do]();
await serve({}, async () => {
  const begun = performance.now();
  const { value: made } = await run.next();
  return { ms: performance.now() - begun, tokens: made, peak: peakBytes() };
});
