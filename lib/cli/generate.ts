import { plainDefaults, planGeneration } from '../engine/sampling';
import { readJson } from '../formats/json';
import type { JsonSchema } from '../grammar/json_schema';
import { allowSpecialTokens, generationOptions } from '../options/table';
import { readAdapter } from '../peft/adapter_files';
import { samplingFlags, samplingOptions } from './sampling_flags';
import { generatingModelFlags, loadModel, printJson } from './common';
import { hubOptions } from './hub_report';
import { printable } from './printable';
import { defineCommand, helpFlag, UsageError, type Console } from './command';

export const generate = defineCommand({
  summary: 'Continues a prompt with a model, and an adapter if one is given.',
  usage: '--model DIR --prompt TEXT [flags]',
  flags: {
    ...generatingModelFlags,
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
    system: {
      type: 'string',
      needs: { chat: true },
      help: 'the system message before it',
      defaultText: 'none',
    },
    allowSpecialTokens: { ...allowSpecialTokens, needs: { chat: true } },
    maxNewTokens: generationOptions.maxNewTokens,
    stop: generationOptions.stop,
    n: generationOptions.n,
    ...samplingFlags,
    jsonSchema: generationOptions.jsonSchema,
    json: { type: 'boolean', help: 'the result as one JSON object' },
    help: helpFlag,
  },
  json: 'one object: { text, ids, finishReason: "stop" | "length", choices?, usage: { promptTokens, completionTokens, cachedTokens }, timings: { queuedMs, firstTokenMs, totalMs } }',

  async run(values, console) {
    const { prompt, adapter, offline, maxNewTokens, n, chat, system } = values;
    const { signal } = console;
    const jsonSchema = values.jsonSchema === undefined ? undefined : await readSchema(values.jsonSchema);
    const stop = values.stop.length === 0 ? undefined : values.stop;
    const options = { ...samplingOptions(values), maxNewTokens, stop, n, jsonSchema, signal };
    planGeneration(options, plainDefaults); // throws before the model is loaded
    const files =
      adapter === undefined ? undefined : await readAdapter(adapter, hubOptions(console, { offline }));
    const text = prompt ?? (await standardInput(console));
    const model = await loadModel(values, console);
    try {
      if (files !== undefined) await model.loadAdapter(files, { name: 'default' });
      const messages = [
        ...(system === undefined ? [] : [{ role: 'system' as const, content: system }]),
        { role: 'user' as const, content: text },
      ];
      const handle = model.generate(chat ? messages : text, {
        ...options,
        allowSpecialTokens: values.allowSpecialTokens,
      });
      if (values.json) printJson(console, await handle);
      else if (n === 1) await writeStream(handle, console);
      else writeTexts((await handle).choices!, console);
    } finally {
      await model.dispose();
    }
  },
});

const shown = (text: string, { stdout }: Console): string =>
  (stdout as { isTTY?: boolean }).isTTY === true ? printable(text) : text;

/** A text while it is made. */
async function writeStream(pieces: AsyncIterable<{ text: string }>, console: Console): Promise<void> {
  for await (const { text } of pieces) console.stdout.write(shown(text, console));
  console.stdout.write('\n');
}

/** Several texts, between which there is an empty line: they are made at the same time. */
function writeTexts(texts: readonly { text: string }[], console: Console): void {
  console.stdout.write(texts.map(({ text }) => `${shown(text, console)}\n`).join('\n'));
}

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
