import { readAdapter } from '../peft/adapter_files';
import { checkUnused } from '../models/save';
import { loadModel, note, printJson, wholeModelFlags } from './common';
import { hubOptions } from './hub_report';
import { defineCommand, helpFlag } from './command';

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
    json: { type: 'boolean', help: 'what was written as one JSON object' },
    help: helpFlag,
  },
  json: 'one object: { outDir, model, adapter, modelType, dtype, parameters }',

  async run(values, console) {
    const { adapter, offline, outDir } = values;
    await checkUnused('merge', outDir);
    const files = await readAdapter(adapter, hubOptions(console, { offline }));
    const model = await loadModel(values, console);
    try {
      await model.loadAdapter(files, { name: 'default' });
      await model.save(outDir, { merge: 'default' });
      note(console, `wrote ${outDir}`);
      if (!values.json) return;
      const { config, dtype, parameterCount } = model;
      printJson(console, {
        outDir,
        model: values.model,
        adapter,
        modelType: config.modelType,
        dtype,
        parameters: parameterCount,
      });
    } finally {
      await model.dispose();
    }
  },
});
