import { planGeneration } from '../models/generate';
import { readAdapter } from '../peft/adapter_files';
import { loadModel, modelFlags, printJson } from './common';
import { printable } from './printable';
import { defineCommand, helpFlag, UsageError, type Console } from './command';

export const generate = defineCommand({
  summary: 'Continues a prompt with a model, and an adapter if one is given.',
  usage: '--model DIR --prompt TEXT [flags]',
  flags: {
    ...modelFlags,
    adapter: { type: 'string', value: 'DIR', help: 'a PEFT adapter', defaultText: 'none' },
    prompt: {
      type: 'string',
      help: 'what is continued',
      defaultText: 'standard input, without the newline at its end',
    },
    chat: { type: 'boolean', help: 'the prompt is a user message for the chat template' },
    maxNewTokens: { type: 'integer', minimum: 0, default: 128, help: 'most tokens to generate' },
    temperature: { type: 'number', value: 'T', minimum: 0, default: 0.7, help: '0 is greedy' },
    topK: {
      type: 'integer',
      value: 'K',
      minimum: 0,
      help: 'only the K likeliest tokens, 0 for all',
      defaultText: "the model's",
    },
    topP: {
      type: 'number',
      value: 'P',
      minimum: 0,
      help: 'only the likeliest tokens of mass P',
      defaultText: "the model's",
    },
    seed: { type: 'integer', minimum: 0, default: 0, help: 'of the random draws' },
    json: { type: 'boolean', help: 'the result as one JSON object' },
    help: helpFlag,
  },
  json: 'one object: { text, ids, finishReason: "stop" | "length", usage: { promptTokens, completionTokens } }',

  async run(values, console) {
    const { prompt, adapter, maxNewTokens, temperature, topK, topP, seed } = values;
    const { signal, stdout } = console;
    const options = { maxNewTokens, temperature, topK, topP, seed, signal };
    planGeneration(options, { eosTokenIds: [], maxNewTokens, temperature, topK: 0, topP: 1 }); // throws before the model is loaded
    const files = adapter === undefined ? undefined : await readAdapter(adapter);
    const text = prompt ?? (await standardInput(console));
    const model = await loadModel(values, console);
    try {
      if (files !== undefined) await model.loadAdapter(files, { name: 'default' });
      const handle = model.generate(values.chat ? [{ role: 'user', content: text }] : text, options);
      if (values.json) {
        printJson(console, await handle);
        return;
      }
      const terminal = (stdout as { isTTY?: boolean }).isTTY === true;
      for await (const { text: piece } of handle) stdout.write(terminal ? printable(piece) : piece);
      stdout.write('\n');
    } finally {
      await model.dispose();
    }
  },
});

async function standardInput({ stdin, signal }: Console): Promise<string> {
  if (stdin.isTTY) throw new UsageError('generate needs --prompt TEXT, or text on standard input');
  signal.addEventListener('abort', () => stdin.destroy(signal.reason as Error));
  let text = '';
  for await (const piece of stdin.setEncoding('utf8')) text += piece as string;
  return text.replace(/\r?\n$/, ''); // which echo and editors end a text with
}
