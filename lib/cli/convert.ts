import { adapterFormats, convertAdapter, type AdapterFormat } from '../convert/convert_adapter';
import { convertModel, ggufFormats, type GgufFormat } from '../convert/convert_model';
import { note, printJson } from './common';
import { defineCommand, helpFlag, UsageError } from './command';
import { hubFlags, hubOptions } from './hub_report';

const isGgufFormat = (format: AdapterFormat | GgufFormat): format is GgufFormat =>
  ggufFormats.some((one) => one === format);

export const convert = defineCommand({
  summary: 'Writes a model for llama.cpp, or an adapter in the format of PEFT, llama.cpp or mlx_lm.',
  usage: 'FROM TO --format NAME [--base DIR]',
  flags: {
    format: {
      type: 'string',
      value: 'NAME',
      required: true,
      choices: [...adapterFormats, ...ggufFormats],
      help: 'one of',
    },
    base: {
      type: 'string',
      value: 'DIR',
      help: 'the base of an adapter, for its config.json',
      defaultText: 'none: mlx to peft',
    },
    modelfile: {
      type: 'boolean',
      help: 'also a Modelfile for Ollama, beside TO; never replaces one',
    },
    ...hubFlags,
    json: { type: 'boolean', help: 'what was written as one JSON object' },
    help: helpFlag,
  },
  positionals: ['FROM', 'TO'],
  json: 'one object: { from, to, format }, with modelfile: { path, notes } where one was written',

  async run(values, console, positionals) {
    const [from, to] = positionals as readonly [string, string];
    const { format, base } = values;
    if (values.modelfile && ['peft', 'mlx'].includes(format))
      throw new UsageError(`--modelfile is for GGUF files, which --format ${format} does not write`);
    if (isGgufFormat(format) && base !== undefined)
      throw new UsageError(`--base is for adapters, and --format ${format} for models`);
    const options = { modelfile: values.modelfile, ...hubOptions(console, values) };
    const modelfile = isGgufFormat(format)
      ? await convertModel(from, to, { format, ...options })
      : await convertAdapter(from, to, { format, base, ...options });
    note(console, `wrote ${to}`);
    if (modelfile) {
      note(console, `wrote ${modelfile.path}`);
      for (const line of modelfile.notes) note(console, `Modelfile: ${line}`);
    }
    if (values.json) printJson(console, { from, to, format, ...(modelfile && { modelfile }) });
  },
});
