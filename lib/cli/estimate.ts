import { printJson } from './common';
import { defineCommand, helpFlag } from './command';
import { hubFlags, sizeText } from './hub_report';
import { fitOf, fitText, readModelConfig } from './memory_fit';
import { trainFlags as flags } from './train';
import { memoryOf, methodInput } from './train_method';

export const estimate = defineCommand({
  summary: 'Says how much memory a model takes to train or to serve, from its config.json alone.',
  usage: '--model DIR [flags]',
  flags: {
    model: flags.model,
    ...hubFlags,
    dtype: { ...flags.dtype, choices: ['auto', 'f32', 'bf16'] },
    quantize: flags.quantize,
    method: flags.method,
    r: flags.r,
    targetModules: flags.targetModules,
    useDora: flags.useDora,
    bottleneckSize: flags.bottleneckSize,
    reductionFactor: flags.reductionFactor,
    numVirtualTokens: flags.numVirtualTokens,
    stochasticRounding: flags.stochasticRounding,
    batchSize: flags.batchSize,
    maxLength: flags.maxLength,
    gradientCheckpointing: flags.gradientCheckpointing,
    optimizer: flags.optimizer,
    device: {
      type: 'string',
      choices: ['cpu', 'cuda'],
      default: 'cpu',
      help: "the process's memory, or a GPU's for LoRA",
    },
    streams: {
      type: 'integer',
      minimum: 1,
      help: 'serve so many sequences at once, instead of training',
    },
    json: { type: 'boolean', help: 'the bytes as one JSON object' },
    help: helpFlag,
  },
  json: 'one object: { weights, adapters, optimizer, activations, logits, kvCache, workspace, runtime, total, free, fits }, in bytes; free and fits are null where there is no such GPU',

  async run(values, console) {
    const {
      dtype,
      quantize,
      batchSize,
      maxLength: length,
      gradientCheckpointing,
      optimizer,
      streams,
      device,
    } = values;
    const method = memoryOf(methodInput('estimate', values));
    const config = await readModelConfig(values, console);
    const fit = fitOf(config, {
      ...{ dtype, quantize, batchSize, length, gradientCheckpointing, optimizer, streams, device },
      ...method,
    });
    const { estimate, free, fits } = fit;
    if (values.json) return printJson(console, { ...estimate, free: free ?? null, fits: fits ?? null });
    for (const [name, bytes] of Object.entries(estimate) as [string, number][])
      if (bytes > 0) console.stdout.write(`${name.padEnd(12)} ${sizeText(Math.round(bytes)).padStart(10)}\n`);
    console.stdout.write(`${fitText(fit)}\n`);
  },
});
