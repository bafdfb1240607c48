import { plainDefaults, planGeneration } from '../engine/sampling';
import { readJson } from '../formats/json';
import type { JsonSchema } from '../grammar/json_schema';
import { readAdapter } from '../peft/adapter_files';
import { samplingFlags, samplingOptions } from './sampling_flags';
import { loadModel, modelFlags, printJson } from './common';
import { hubOptions } from './hub_report';
import { printable } from './printable';
import { defineCommand, helpFlag, UsageError, type Console } from './command';

export const generate = defineCommand({
  summary: 'Continues a prompt with a model, and an adapter if one is given.',
  usage: '--model DIR --prompt TEXT [flags]',
  flags: {
    ...modelFlags,
    adapter: {
      type: 'string',
      value: 'DIR',
      help: 'a PEFT adapter, or a name of the hub',
      defaultText: 'none',
    },
    prompt: {
      type: 'string',
      help: 'what is continued',
      defaultText: 'standard input, without the newline at its end',
    },
    chat: { type: 'boolean', help: 'the prompt is a user message for the chat template' },
    maxNewTokens: {
      type: 'integer',
      minimum: 0,
      help: 'most tokens to generate',
      defaultText: "the model's, else 128",
    },
    ...samplingFlags,
    jsonSchema: {
      type: 'string',
      value: 'FILE',
      help: 'a JSON Schema that the text is valid under',
      defaultText: 'none',
    },
    json: { type: 'boolean', help: 'the result as one JSON object' },
    help: helpFlag,
  },
  json: 'one object: { text, ids, finishReason: "stop" | "length", usage: { promptTokens, completionTokens, cachedTokens }, timings: { queuedMs, firstTokenMs, totalMs } }',

  async run(values, console) {
    const { prompt, adapter, offline, maxNewTokens } = values;
    const { signal, stdout } = console;
    const jsonSchema = values.jsonSchema === undefined ? undefined : await readSchema(values.jsonSchema);
    const options = { ...samplingOptions(values), maxNewTokens, jsonSchema, signal };
    planGeneration(options, plainDefaults); // throws before the model is loaded
    const files =
      adapter === undefined ? undefined : await readAdapter(adapter, hubOptions(console, { offline }));
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

/** What planGeneration() checks. */
async function readSchema(path: string): Promise<JsonSchema> {
  return (await readJson(path)) as JsonSchema;
}

async function standardInput({ stdin, signal }: Console): Promise<string> {
  if (stdin.isTTY) throw new UsageError('generate needs --prompt TEXT, or text on standard input');
  signal.addEventListener('abort', () => stdin.destroy(signal.reason as Error));
  let text = '';
  for await (const piece of stdin.setEncoding('utf8')) text += piece as string;
  return text.replace(/\r?\n$/, ''); // which echo and editors end a text with
}
