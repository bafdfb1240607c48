import { join } from 'node:path';
import { loadDataset } from '../data/dataset';
import { CausalLM } from '../models/causal_lm';
import type { LoRAConfigInput } from '../peft/config';
import { Trainer } from '../train/trainer';
import type { ScheduleName } from '../train/options';
import { given, type Arguments, type Command } from './args';
import { chosenDevice, modelFlags, note, noteModel } from './common';
import { ProgressLine } from './progress_line';

export const train: Command = {
  summary: 'Fine-tunes a language model with LoRA and writes a PEFT adapter.',
  usage: '--model DIR --data FILE [flags]',
  flags: {
    ...modelFlags,
    data: {
      type: 'string',
      value: 'FILE',
      required: true,
      help: 'JSONL of {text} or {inputIds, labels}, or plain text',
    },
    evalData: { type: 'string', value: 'FILE', help: 'measured at the end (and with --eval-every)' },
    outDir: { type: 'string', value: 'DIR', help: 'where the adapter goes (default lora-run)' },
    r: { type: 'number', help: 'rank (default 16)' },
    loraAlpha: { type: 'number', help: 'scale is alpha / r (default 2·r)' },
    loraDropout: { type: 'number', value: 'P', help: 'dropout on the LoRA path (default 0)' },
    targetModules: { type: 'string', value: 'LIST', help: 'names with commas, or all-linear (default)' },
    maxSteps: { type: 'number', help: 'optimizer steps (or --epochs; default 1 epoch)' },
    epochs: { type: 'number', help: 'passes over the data' },
    batchSize: { type: 'number', help: 'examples per batch (default 4)' },
    gradientAccumulationSteps: { type: 'number', help: 'batches per step (default 1)' },
    maxLength: { type: 'number', help: 'tokens per example (default 512)' },
    lr: { type: 'number', value: 'RATE', help: 'learning rate (default 2e-4)' },
    schedule: { type: 'string', value: 'NAME', help: 'constant, linear or cosine (default)' },
    warmupSteps: { type: 'number', help: 'steps of rising learning rate (default 0)' },
    weightDecay: { type: 'number', value: 'W', help: 'AdamW weight decay (default 0)' },
    evalEvery: { type: 'number', help: 'steps between evaluations' },
    saveEvery: { type: 'number', help: 'steps between checkpoints' },
    seed: { type: 'number', help: 'of the adapter and of the order of data (default 0)' },
    resume: { type: 'boolean', help: 'not supported yet' },
    json: { type: 'boolean', help: 'one JSON object per event on standard output' },
  },
  run,
};

function targets(list: string | undefined): LoRAConfigInput['targetModules'] {
  if (list === undefined || list === 'all-linear') return 'all-linear';
  return list.split(',').map((name) => name.trim());
}

async function run(args: Arguments, signal: AbortSignal): Promise<void> {
  const json = args.boolean('json');
  const model = await CausalLM.fromPretrained(args.string('model') as string, {
    device: chosenDevice(args),
    signal,
    ...given({ dtype: args.string('dtype') as 'auto' | undefined }),
  });
  try {
    const maxLength = args.number('maxLength');
    const load = (path: string) => loadDataset(path, { tokenizer: model.tokenizer, ...given({ maxLength }) });
    const data = await load(args.string('data') as string);
    const evalPath = args.string('evalData');
    const evalData = evalPath === undefined ? undefined : await load(evalPath);
    const r = args.number('r') ?? 16;
    const seed = args.number('seed') ?? 0;
    const config = {
      r,
      loraAlpha: args.number('loraAlpha') ?? 2 * r,
      targetModules: targets(args.string('targetModules')),
    };
    const adapter = model.addAdapter(
      { ...config, ...given({ loraDropout: args.number('loraDropout') }) },
      { seed },
    );
    const outDir = args.string('outDir') ?? 'lora-run';
    noteModel(model);
    if (!json) {
      note(
        `${data.length} examples${data.truncated ? `, ${data.truncated} of them cut to the maximum length` : ''}`,
      );
    }
    const trainer = new Trainer({
      model,
      data,
      outDir,
      seed,
      ...given({
        evalData,
        maxSteps: args.number('maxSteps'),
        epochs: args.number('epochs'),
        batchSize: args.number('batchSize'),
        gradientAccumulationSteps: args.number('gradientAccumulationSteps'),
        lr: args.number('lr'),
        schedule: args.string('schedule') as ScheduleName | undefined,
        warmupSteps: args.number('warmupSteps'),
        weightDecay: args.number('weightDecay'),
        evalEvery: args.number('evalEvery'),
        saveEvery: args.number('saveEvery'),
        resume: args.boolean('resume') || undefined,
      }),
    });
    const line = new ProgressLine();
    let total: number | undefined;
    try {
      for await (const event of trainer.run({ signal })) {
        if (json) {
          process.stdout.write(`${JSON.stringify(event)}\n`);
          continue;
        }
        if (event.type === 'start') {
          total = event.maxSteps;
          const share =
            (100 * event.trainableParameters) / (model.parameterCount + event.trainableParameters);
          note(`training ${event.trainableParameters} parameters (${share.toFixed(2)}%)`);
        } else if (event.type === 'step') line.step(event, total);
        else {
          line.close();
          if (event.type === 'eval') note(`step ${event.step}  evaluation loss ${event.loss.toFixed(4)}`);
          else if (event.type === 'checkpoint') note(`saved ${event.dir}`);
          else note(`done: ${join(outDir, 'adapter_model.safetensors')} (adapter ${adapter.name})`);
        }
      }
      if (evalData !== undefined && args.number('evalEvery') === undefined) {
        const evaluation = await model.evaluate(evalData, { adapter, signal });
        if (json) process.stdout.write(`${JSON.stringify({ type: 'eval', ...evaluation })}\n`);
        else
          note(
            `evaluation loss ${evaluation.loss.toFixed(4)}, perplexity ${evaluation.perplexity.toFixed(2)}`,
          );
      }
    } finally {
      line.close();
    }
  } finally {
    await model.dispose();
  }
}
