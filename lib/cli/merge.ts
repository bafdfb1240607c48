import { CausalLM } from '../models/causal_lm';
import { given, type Arguments, type Command } from './args';
import { chosenDevice, modelFlags, note, noteModel } from './common';

export const merge: Command = {
  summary: 'Merges an adapter into its base and writes a Hugging Face directory.',
  usage: '--model DIR --adapter DIR --out-dir DIR',
  flags: {
    ...modelFlags,
    adapter: { type: 'string', value: 'DIR', required: true, help: 'a PEFT adapter' },
    outDir: { type: 'string', value: 'DIR', required: true, help: 'the merged model' },
  },
  run,
};

async function run(args: Arguments, signal: AbortSignal): Promise<void> {
  const model = await CausalLM.fromPretrained(args.string('model') as string, {
    device: chosenDevice(args),
    signal,
    ...given({ dtype: args.string('dtype') as 'auto' | undefined }),
  });
  try {
    noteModel(model);
    await model.loadAdapter(args.string('adapter') as string, { name: 'default' });
    const outDir = args.string('outDir') as string;
    await model.save(outDir, { merge: 'default' });
    note(`wrote ${outDir}`);
  } finally {
    await model.dispose();
  }
}
