import { textsOfFile } from '../data/row_files';
import { loraError } from '../errors';
import { writeSafetensors } from '../formats/safetensors';
import { readAdapter } from '../peft/adapter_files';
import { modelFlags, loadModel, note, printJson } from './common';
import { defineCommand, helpFlag } from './command';
import { hubOptions } from './hub_report';
import { StatusLine } from './status_line';

/** Texts between two lines of the status. */
const atATime = 256;

export const embed = defineCommand({
  summary: 'Writes the vectors of texts into a safetensors file.',
  usage: 'FILE --model DIR --out FILE [flags]',
  flags: {
    ...modelFlags,
    adapter: {
      type: 'string',
      value: 'DIR',
      help: 'a PEFT adapter, or a name of the hub',
      defaultText: 'none',
    },
    out: { type: 'string', value: 'FILE', required: true, help: 'the tensor `embeddings` [texts, numbers]' },
    column: { type: 'string', value: 'NAME', default: 'text', help: 'which field of a row is the text' },
    instruction: {
      type: 'string',
      help: 'before each text, or the name of a prompt of the model',
      defaultText: "the model's",
    },
    pool: {
      type: 'string',
      value: 'HOW',
      choices: ['last', 'mean'],
      help: 'what of a text becomes its vector',
      defaultText: "the model's",
    },
    dimensions: { type: 'integer', minimum: 1, help: 'the first numbers alone', defaultText: 'all' },
    normalize: { type: 'boolean', default: true, help: 'give vectors the length 1' },
    json: { type: 'boolean', help: 'what was written as one JSON object' },
    help: helpFlag,
  },
  positionals: ['FILE'],
  json: 'one object: { file, out, texts, dimensions }',

  async run(values, console, [file]) {
    const { adapter, offline, out, instruction, pool, dimensions, normalize } = values;
    const { signal } = console;
    const texts = await textsOfFile(file!, values.column, signal);
    if (texts.length === 0)
      throw loraError('embed', 'ERR_DATA', `${file}: expected a text but it holds none`);
    const files =
      adapter === undefined ? undefined : await readAdapter(adapter, hubOptions(console, { offline }));
    const model = await loadModel(values, console);
    const status = new StatusLine(console);
    try {
      if (files !== undefined) await model.loadAdapter(files, { name: 'default' });
      const options = { instruction, pool, dimensions, normalize, signal };
      const parts: Float32Array[] = [];
      for (let at = 0; at < texts.length; at += atATime) {
        parts.push(...(await model.embed(texts.slice(at, at + atATime), options)));
        status.show(`${parts.length} of ${texts.length} texts`);
      }
      status.end();
      const size = parts[0]!.length;
      const floats = new Float32Array(parts.length * size);
      for (const [i, part] of parts.entries()) floats.set(part, i * size);
      const bytes = new Uint8Array(floats.buffer);
      const shape = [parts.length, size];
      await writeSafetensors(out, new Map([['embeddings', { dtype: 'F32', shape, bytes }]]));
      note(console, `wrote ${parts.length} vectors of ${size} numbers to ${out}`);
      if (values.json) printJson(console, { file, out, texts: parts.length, dimensions: size });
    } finally {
      status.end();
      await model.dispose();
    }
  },
});
