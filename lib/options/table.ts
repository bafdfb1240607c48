/** The options, by what takes them. A row without `help` is for programs alone. */
import { quantizedFormats } from '../tensor/frozen_weight';
import { distributedOptions } from './distributed';
import { logOptions } from './logs';
import { objectiveOptions } from './objectives';
import type { Option, Options } from './option';

/** How a model is loaded. */
export const modelOptions = {
  dtype: {
    type: 'string',
    value: 'TYPE',
    choices: ['auto', 'f32', 'bf16', 'f16'],
    default: 'auto',
    help: 'of activations',
  },
  device: {
    type: 'string',
    value: 'NAME',
    default: 'auto',
    help: 'cpu, cuda, cuda:N; auto is the best there is',
  },
  quantize: {
    type: 'string',
    value: 'NAME',
    choices: quantizedFormats,
    help: 'keep weights in 4 or 8 bits',
    defaultText: 'as they are',
  },
  activations: {
    type: 'string',
    value: 'NAME',
    choices: ['exact', 'int8'],
    default: 'exact',
    help: 'of products: int8 is faster',
  },
} as const satisfies Options;

/** What an adapter begins as; further options, and their rules, are in peft/config.ts. */
export const adapterOptions = {
  r: { type: 'integer', minimum: 1, default: 16, help: 'rank' },
  loraAlpha: { type: 'number', help: 'scale is alpha / r', defaultText: '2·r' },
  loraDropout: {
    type: 'number',
    value: 'P',
    minimum: 0,
    default: 0,
    rare: true,
    help: 'dropout on the LoRA path',
  },
  targetModules: {
    type: 'names',
    value: 'LIST',
    word: 'all-linear',
    help: 'names with commas, or all-linear',
    defaultText: 'all-linear',
  },
  rankPattern: {
    type: 'numbers',
    value: 'PATTERN=R',
    rare: true,
    help: 'another rank for layers whose paths end so; may be repeated',
  },
  useDora: { type: 'boolean', rare: true, help: 'DoRA: train the magnitudes of the weights too' },
} as const satisfies Options;

/** What other methods begin as, by method; their rules are in peft/, and of the last one in models/core/trained_base.ts. */
export const methodOptions = {
  ia3: {
    feedforwardModules: {
      type: 'names',
      value: 'LIST',
      rare: true,
      help: 'ia3: those of its targets whose input is scaled',
      defaultText: 'the output of the MLP',
    },
  },
  bottleneck: {
    bottleneckSize: {
      type: 'integer',
      minimum: 1,
      rare: true,
      help: 'bottleneck: how many numbers it has',
      defaultText: 'by --reduction-factor',
    },
    reductionFactor: {
      type: 'number',
      value: 'X',
      minimum: 1,
      rare: true,
      help: 'bottleneck: the width of the model divided by its size',
      defaultText: '16',
    },
    activation: {
      type: 'string',
      value: 'NAME',
      choices: ['relu', 'gelu', 'silu'],
      rare: true,
      help: 'bottleneck: what is applied in it',
      defaultText: 'relu',
    },
    dropout: {
      type: 'number',
      value: 'P',
      minimum: 0,
      rare: true,
      help: 'bottleneck: dropout on what is added',
      defaultText: '0',
    },
  },
  prompt: {
    numVirtualTokens: {
      type: 'integer',
      minimum: 1,
      rare: true,
      help: 'prompt: how many vectors stand before each text',
      defaultText: '8',
    },
    promptTuningInit: {
      type: 'string',
      value: 'HOW',
      choices: ['random', 'sample_vocab', 'text'],
      rare: true,
      help: 'prompt: what they begin as',
      defaultText: 'text where there is one, else random',
    },
    promptTuningInitText: {
      type: 'string',
      rare: true,
      help: 'prompt: the text that they begin as',
      defaultText: 'none',
    },
  },
  full: {
    only: {
      type: 'names',
      value: 'LIST',
      rare: true,
      help: 'full: patterns of the tensors that are trained, with commas',
      defaultText: 'all',
    },
    stochasticRounding: {
      type: 'boolean',
      rare: true,
      help: 'full: trains bf16 weights without f32 masters',
    },
  },
} as const satisfies Readonly<Record<string, Options>>;

/** How a conversation becomes tokens, in data and in generation. */
export const allowSpecialTokens = {
  type: 'boolean',
  rare: true,
  help: 'special tokens that messages spell become tokens',
} as const satisfies Option;

/** How a data set is read. */
export const datasetOptions = {
  maxLength: { type: 'integer', minimum: 2, default: 512, help: 'tokens per example' },
  trainOn: {
    type: 'string',
    value: 'WHICH',
    choices: ['all', 'completion'],
    rare: true,
    help: 'tokens that count',
    defaultText: 'completion',
  },
  chatTemplate: {
    type: 'string',
    value: 'FILE',
    rare: true,
    help: "Jinja text for conversations, in the place of the model's template",
    defaultText: "the model's",
  },
  allowSpecialTokens,
  columns: {
    type: 'string',
    value: 'KEY=NAME',
    repeat: true,
    own: true,
    rare: true,
    help: 'rows have this under another name: prompt=q; may be repeated',
  },
} as const satisfies Options;

/** A run: the options of a Trainer. */
export const trainerOptions = {
  model: { type: 'object' },
  data: {
    type: 'string',
    value: 'FILE',
    required: true,
    own: true,
    help: 'a file or folder of JSONL, CSV, Parquet …, or org/name',
  },
  evalData: { type: 'string', value: 'FILE', own: true, help: 'measured at the end (and with --eval-every)' },
  outDir: { type: 'string', value: 'DIR', help: 'where the adapter goes' },
  maxSteps: { type: 'integer', minimum: 1, help: 'optimizer steps, instead of --epochs' },
  epochs: { type: 'integer', minimum: 1, help: 'passes over the data', defaultText: '1' },
  maxTokens: { type: 'integer', minimum: 1, rare: true, help: 'tokens to train on, instead of --epochs' },
  batchSize: { type: 'integer', minimum: 1, default: 4, help: 'examples per batch' },
  gradientAccumulationSteps: {
    type: 'integer',
    minimum: 1,
    default: 1,
    rare: true,
    help: 'batches per step',
  },
  packing: { type: 'boolean', rare: true, help: 'several examples in a row of --max-length tokens' },
  packLength: { type: 'integer', minimum: 1 },
  groupByLength: { type: 'boolean', rare: true, help: 'batches of examples of similar length: less padding' },
  shuffleWindow: { type: 'integer', minimum: 1 },
  lr: {
    type: 'number',
    value: 'RATE',
    word: 'auto',
    minimum: 0,
    help: 'learning rate, or auto',
    defaultText: '2e-4; of preferences 1e-5',
  },
  ...objectiveOptions,
  schedule: {
    type: 'string',
    value: 'NAME',
    choices: ['constant', 'linear', 'cosine', 'wsd'],
    default: 'cosine',
    rare: true,
    help: 'of the rate',
  },
  warmupSteps: {
    type: 'steps',
    minimum: 0,
    default: 0,
    own: true,
    rare: true,
    help: 'rising steps, or below 1 a share',
  },
  decaySteps: {
    type: 'steps',
    minimum: 0,
    own: true,
    needs: { schedule: 'wsd' },
    rare: true,
    help: 'falling steps of wsd, or below 1 a share',
    defaultText: '0.1',
  },
  weightDecay: {
    type: 'number',
    value: 'W',
    minimum: 0,
    default: 0,
    rare: true,
    help: 'decay of the weights',
  },
  maxGradNorm: {
    type: 'number',
    value: 'NORM',
    minimum: 0,
    default: 1,
    rare: true,
    help: 'clips the gradients, of all parameters together; 0 does not',
  },
  optimizer: {
    type: 'string',
    value: 'NAME',
    choices: ['adamw', 'adamw8bit', 'sgd', 'lion'],
    default: 'adamw',
    own: true,
    rare: true,
    help: 'optimizer',
  },
  loraPlusRatio: {
    type: 'number',
    value: 'RATIO',
    above: 0,
    rare: true,
    help: 'LoRA+: up learns at RATIO times --lr',
  },
  evalEvery: {
    type: 'integer',
    minimum: 1,
    needs: { evalData: true },
    rare: true,
    help: 'steps between evaluations',
  },
  saveEvery: {
    type: 'integer',
    minimum: 1,
    needs: { outDir: true },
    rare: true,
    help: 'steps between checkpoints',
  },
  saveLimit: {
    type: 'integer',
    minimum: 1,
    default: 2,
    rare: true,
    help: 'newest checkpoints to keep, beside the best',
  },
  keepBest: {
    type: 'boolean',
    needs: { evalEvery: true, outDir: true },
    rare: true,
    help: 'end with the adapter of the best evaluation',
  },
  earlyStopping: { type: 'object', needs: { evalEvery: true } },
  gradientCheckpointing: { type: 'boolean', help: 'less memory, more time, the same result' },
  neftuneNoiseAlpha: {
    type: 'number',
    value: 'A',
    minimum: 0,
    default: 0,
    rare: true,
    help: 'noise on the embeddings',
  },
  seed: { type: 'integer', minimum: 0, default: 0, help: 'of the adapter and of the order of data' },
  ...logOptions,
  resume: {
    type: 'boolean',
    own: true,
    help: 'go on from the newest checkpoint in --out-dir, with its flags',
  },
  ...distributedOptions,
  train: { type: 'string', choices: ['adapter', 'all'] },
  parameters: { type: 'object' },
} as const satisfies Options;

/** The optimizers that have a name: {@link AdamW}, {@link AdamW8bit}, {@link SGD} without momentum, {@link Lion}. */
export type OptimizerName = (typeof trainerOptions.optimizer.choices)[number];

/** How tokens are drawn; what a program gives is checked in engine/sampling.ts. */
export const generationOptions = {
  maxNewTokens: {
    type: 'integer',
    minimum: 0,
    help: 'most tokens to generate',
    defaultText: "the model's, else 128",
  },
  temperature: { type: 'number', value: 'T', minimum: 0, help: '0 is greedy', defaultText: "the model's" },
  topK: {
    type: 'integer',
    value: 'K',
    minimum: 0,
    help: 'only the K likeliest tokens, 0 for all',
    defaultText: "the model's",
  },
  topP: {
    type: 'number',
    value: 'P',
    minimum: 0,
    help: 'only the likeliest tokens of mass P',
    defaultText: "the model's",
  },
  minP: {
    type: 'number',
    value: 'P',
    minimum: 0,
    help: "only what has P of the likeliest's probability",
    defaultText: "the model's",
  },
  repetitionPenalty: {
    type: 'number',
    value: 'X',
    minimum: 0,
    help: 'above 1: avoids tokens of prompt and text',
    defaultText: "the model's",
  },
  presencePenalty: {
    type: 'number',
    value: 'X',
    help: 'avoids tokens that the text has',
    defaultText: '0',
  },
  frequencyPenalty: {
    type: 'number',
    value: 'X',
    help: 'the same, for each time that it has them',
    defaultText: '0',
  },
  logitBias: { type: 'object' },
  logprobs: { type: 'object' },
  n: { type: 'integer', minimum: 1, default: 1, help: 'texts to generate from the prompt' },
  seed: { type: 'integer', minimum: 0, help: 'of the random draws' },
  jsonSchema: {
    type: 'string',
    value: 'FILE',
    own: true,
    help: 'a JSON Schema that the text is valid under',
    defaultText: 'none',
  },
  stop: {
    type: 'string',
    repeat: true,
    help: 'ends the text; may be repeated',
    defaultText: "the model's",
  },
  ignoreEos: { type: 'object' },
  speculate: { type: 'boolean', help: 'verify guessed tokens, several in a step' },
  adapter: { type: 'object' },
  tools: { type: 'object' },
  variables: { type: 'object' },
  continueAssistant: { type: 'boolean' },
  allowSpecialTokens: { type: 'boolean' },
  signal: { type: 'object' },
} as const satisfies Options;
