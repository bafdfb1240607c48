// A conversation in a program of your own: the history, the answer as it is written, and a way to stop it.
// lora-native chat is this and more.
//
//   node examples/talk.mjs [MODEL] [ADAPTER] < questions.txt
import { createInterface } from 'node:readline/promises';
import { CausalLM } from 'lora-native';

const [name = 'HuggingFaceTB/SmolLM2-135M-Instruct', adapter] = process.argv.slice(2);
const model = await CausalLM.fromPretrained(name);
if (adapter !== undefined) await model.loadAdapter(adapter);

const messages = [];
for await (const line of createInterface({ input: process.stdin })) {
  const content = line.trim();
  if (content === '') continue;
  messages.push({ role: 'user', content });
  const stop = new AbortController();
  const onInterrupt = () => stop.abort();
  process.once('SIGINT', onInterrupt);
  let answer = '';
  try {
    for await (const { text } of model.generate(messages, { maxNewTokens: 64, signal: stop.signal })) {
      answer += text;
      process.stdout.write(text);
    }
  } catch (error) {
    if (!stop.signal.aborted) throw error; // what was written until then stays in the history
  } finally {
    process.off('SIGINT', onInterrupt);
  }
  messages.push({ role: 'assistant', content: answer });
  process.stdout.write('\n');
}
await model.dispose();
