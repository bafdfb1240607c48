import { readAdapter } from '../peft/adapter_files';
import { checkUnused } from '../models/save';
import { modelOptions } from '../options/table';
import { loadModel, note, printJson, wholeModelFlags } from './common';
import { hubOptions } from './hub_report';
import { defineCommand, helpFlag } from './command';

const errorText = (error: number): string =>
  `the merged weights are off by ${(100 * error).toFixed(2)}% of their norm`;

export const merge = defineCommand({
  summary: 'Merges an adapter into its base and writes a Hugging Face directory.',
  usage: '--model DIR --adapter DIR --out-dir DIR',
  flags: {
    ...wholeModelFlags,
    adapter: { type: 'string', value: 'DIR', required: true, help: 'a PEFT adapter, or a name of the hub' },
    outDir: {
      type: 'string',
      value: 'DIR',
      required: true,
      help: 'where the merged model goes: a new or empty directory',
    },
    quantize: {
      ...modelOptions.quantize,
      help: 'write the sum in 4 or 8 bits',
      defaultText: 'whole',
    },
    json: { type: 'boolean', help: 'what was written as one JSON object' },
    help: helpFlag,
  },
  json: 'one object: { outDir, model, adapter, modelType, dtype, parameters, quantizationError }',

  async run(values, console) {
    const { adapter, offline, outDir, quantize, ...ofModel } = values;
    await checkUnused('merge', outDir);
    const files = await readAdapter(adapter, hubOptions(console, { offline }));
    const model = await loadModel({ ...ofModel, offline }, console, files.head);
    try {
      await model.loadAdapter(files, { name: 'default' });
      const { quantizationError } = await model.save(outDir, {
        merge: 'default',
        ...(quantize && { quantize }),
      });
      const error = quantizationError === undefined ? '' : ` in ${quantize}: ${errorText(quantizationError)}`;
      note(console, `wrote ${outDir}${error}`);
      if (!values.json) return;
      const { config, dtype, parameterCount } = model;
      printJson(console, {
        outDir,
        model: values.model,
        adapter,
        modelType: config.modelType,
        dtype,
        parameters: parameterCount,
        quantizationError,
      });
    } finally {
      await model.dispose();
    }
  },
});
