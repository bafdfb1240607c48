// Sequences of one context of node-llama-cpp that write at the same time, in this process:
//   serve_llama_cpp.mjs '{"library": PATH, "model": FILE.gguf, "threads": 2, "most": 16, "vocabulary": 49152}'
// A line asks for { streams, tokens, newcomer } as serve_many.mjs has them.
import { openLlamaCpp } from './llama_cpp.mjs';
import { serve } from './serve.mjs';
import { promptsOf, writeTogether } from './streams.mjs';

const settings = JSON.parse(process.argv[2]);
const { most, vocabulary } = settings;
const { context, version } = await openLlamaCpp(settings, { sequences: most + 1, contextSize: 256 });
const sequences = Array.from({ length: most + 1 }, () => context.getSequence());
const newPrompt = promptsOf(vocabulary);

async function write(sequence, prompt, tokens, seen) {
  await sequence.clearHistory();
  let count = 0;
  for await (const token of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
    if (!Number.isInteger(token)) throw new Error(`received the token ${token}`);
    seen();
    if (++count === tokens) return;
  }
  throw new Error(`expected ${tokens} tokens but received ${count}`);
}

await serve({ version }, ({ streams, tokens, newcomer = 0 }) => {
  const arrive = async () => {
    const began = performance.now();
    let first;
    await write(sequences[most], newPrompt(newcomer), 1, () => (first = (performance.now() - began) / 1000));
    return first;
  };
  const one = (i, seen) => write(sequences[i], newPrompt(16), tokens, seen);
  return writeTogether(streams, one, newcomer > 0 ? arrive : undefined);
});
