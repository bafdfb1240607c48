// How text is drawn: the same prompt under several rules.
//   node examples/sampling.mjs MODEL_DIR [PROMPT]
import { CausalLM } from 'lora-native';

const [dir, prompt = 'On Monday'] = process.argv.slice(2);
if (!dir) throw new Error('usage: node examples/sampling.mjs MODEL_DIR [PROMPT]');
const model = await CausalLM.fromPretrained(dir);
const write = async (name, options) => {
  const { text } = await model.generate(prompt, { maxNewTokens: 24, seed: 1, ...options });
  console.log(`${name}: ${JSON.stringify(text)}`);
  return text;
};

await write('greedy', { temperature: 0 });
await write('hot', { temperature: 1.5, topK: 0, topP: 1 });
await write('hot, min-p', { temperature: 1.5, topK: 0, topP: 1, minP: 0.1 });
await write('less repetition', { temperature: 0, frequencyPenalty: 8 });

// A token that never comes.
const dot = model.tokenizer.encode('.', { addSpecialTokens: false }).at(-1);
await write('no full stop', { temperature: 0, logitBias: new Map([[dot, -Infinity]]) });

// What the model thought of each token, and of the two likeliest in its place.
for await (const { text, logprob, topLogprobs } of model.generate(prompt, {
  temperature: 0,
  maxNewTokens: 4,
  logprobs: 2,
})) {
  const others = topLogprobs.map(({ id, logprob: log }) => [model.tokenizer.decode([id]), share(log)]);
  console.log(`${JSON.stringify(text)} ${share(logprob)}, of ${JSON.stringify(others)}`);
}
await model.dispose();

function share(logprob) {
  return `${(100 * Math.exp(logprob)).toFixed(1)}%`;
}
