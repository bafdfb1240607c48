import { CausalLM } from '../models/causal_lm';
import { given, UsageError, type Arguments, type Command } from './args';
import { chosenDevice, modelFlags, noteModel } from './common';

export const generate: Command = {
  summary: 'Continues a prompt with a model, and an adapter if one is given.',
  usage: '--model DIR --prompt TEXT [flags]',
  flags: {
    ...modelFlags,
    adapter: { type: 'string', value: 'DIR', help: 'a PEFT adapter' },
    prompt: { type: 'string', value: 'TEXT', help: 'default: standard input' },
    chat: { type: 'boolean', help: 'the prompt is a user message for the chat template' },
    maxNewTokens: { type: 'number', help: 'default 128' },
    temperature: { type: 'number', value: 'T', help: '0 is greedy (default 0.7)' },
    topK: { type: 'number', help: 'only the K likeliest tokens' },
    topP: { type: 'number', value: 'P', help: 'only the likeliest tokens of mass P' },
    seed: { type: 'number', help: 'default 0' },
    json: { type: 'boolean', help: 'one JSON object with text, ids, finishReason and usage' },
  },
  run,
};

async function standardInput(signal: AbortSignal): Promise<string> {
  if (process.stdin.isTTY) throw new UsageError('generate needs --prompt TEXT, or text on standard input');
  signal.addEventListener('abort', () => process.stdin.destroy(signal.reason as Error));
  let text = '';
  for await (const piece of process.stdin.setEncoding('utf8')) text += piece as string;
  return text;
}

async function run(args: Arguments, signal: AbortSignal): Promise<void> {
  const text = args.string('prompt') ?? (await standardInput(signal));
  const model = await CausalLM.fromPretrained(args.string('model') as string, {
    device: chosenDevice(args),
    signal,
    ...given({ dtype: args.string('dtype') as 'auto' | undefined }),
  });
  try {
    noteModel(model);
    const adapter = args.string('adapter');
    if (adapter !== undefined) await model.loadAdapter(adapter, { name: 'default' });
    const prompt = args.boolean('chat') ? [{ role: 'user', content: text }] : text;
    const handle = model.generate(prompt, {
      maxNewTokens: args.number('maxNewTokens') ?? 128,
      temperature: args.number('temperature') ?? 0.7,
      seed: args.number('seed') ?? 0,
      signal,
      ...given({ topK: args.number('topK'), topP: args.number('topP') }),
    });
    if (args.boolean('json')) {
      process.stdout.write(`${JSON.stringify(await handle)}\n`);
      return;
    }
    for await (const { text: piece } of handle) process.stdout.write(piece);
    process.stdout.write('\n');
  } finally {
    await model.dispose();
  }
}
