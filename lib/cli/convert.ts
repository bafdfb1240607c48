import { adapterFormats, convertAdapter } from '../convert/convert_adapter';
import { note, printJson } from './common';
import { defineCommand, helpFlag } from './command';
import { hubFlags, hubOptions } from './hub_report';

export const convert = defineCommand({
  summary: 'Writes an adapter in another format: that of PEFT, of llama.cpp or of mlx_lm.',
  usage: 'FROM TO --format gguf --base DIR',
  flags: {
    format: {
      type: 'string',
      value: 'NAME',
      required: true,
      choices: adapterFormats,
      help: 'gguf is a file, the others directories',
    },
    base: {
      type: 'string',
      value: 'DIR',
      help: 'the base model, of which config.json is read',
      defaultText: 'none: mlx to peft',
    },
    ...hubFlags,
    json: { type: 'boolean', help: 'what was written as one JSON object' },
    help: helpFlag,
  },
  positionals: ['FROM', 'TO'],
  json: 'one object: { from, to, format }',

  async run(values, console, positionals) {
    const [from, to] = positionals as readonly [string, string];
    const { format, base } = values;
    await convertAdapter(from, to, { format, base, ...hubOptions(console, values) });
    note(console, `wrote ${to}`);
    if (values.json) printJson(console, { from, to, format });
  },
});
