import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { weightsFile } from '../formats/model_files';
import { quantizeModel } from '../models/quantize_model';
import { quantizedFormats } from '../tensor/frozen_weight';
import { note, printJson } from './common';
import { defineCommand, helpFlag } from './command';
import { hubFlags, hubOptions, sizeText } from './hub_report';

export const quantize = defineCommand({
  summary: 'Writes a model with weights of 4 or 8 bits, as bitsandbytes does.',
  usage: 'DIR OUT --format nf4 [flags]',
  flags: {
    format: {
      type: 'string',
      value: 'NAME',
      required: true,
      choices: quantizedFormats,
      help: 'nf4 and fp4 take 4.5 bits for a weight, int8 8',
    },
    skip: {
      type: 'string',
      value: 'LIST',
      help: 'modules that stay whole: names with commas, as lm_head,o_proj',
      defaultText: 'none',
    },
    doubleQuant: { type: 'boolean', help: 'the scales of nf4 and fp4 in 8 bits, as QLoRA: 4.13 bits' },
    embedding: {
      type: 'boolean',
      help: 'the token embedding too, which transformers does not load',
    },
    ...hubFlags,
    json: { type: 'boolean', help: 'what was written as one JSON object' },
    help: helpFlag,
  },
  positionals: ['DIR', 'OUT'],
  json: 'one object: { out, model, format, bytes }, the bytes of the weights',

  async run(values, console, positionals) {
    const [model, out] = positionals as readonly [string, string];
    const { format, skip, doubleQuant, embedding } = values;
    await quantizeModel(model, out, {
      ...{ format, doubleQuant, embedding },
      skip: skip?.split(',').map((name) => name.trim()),
      ...hubOptions(console, values),
    });
    const { size: bytes } = await stat(join(out, weightsFile));
    note(console, `wrote ${out}: ${sizeText(bytes)} of weights`);
    if (values.json) printJson(console, { out, model, format, bytes });
  },
});
