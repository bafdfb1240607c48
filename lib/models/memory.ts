/** How much memory a model takes to train or to serve, from its configuration alone. */
import { SequencePlan } from '../data/sequence_plan';
import { pageBytes } from '../engine/pages';
import { slotBytes } from '../engine/states';
import { lossChunk, momentBlock, pageSize } from '../native/constants';
import { copiedBytes } from '../native/device';
import { trainerOptions, type OptimizerName } from '../options/table';
import { quantizedBytes } from '../tensor/frozen_weight';
import type { LoRAConfigInput } from '../peft/config';
import {
  methodOf,
  methodOfInput,
  methodOfJson,
  plannedSequence,
  type AdapterConfigInput,
} from '../peft/methods';
import { maxLogits } from '../ops/cross_entropy';
import { check, checkBoolean, checkInteger, checkOneOf, checkOptions, describe, isRecord } from '../validate';
import { adapterTrained } from './adapter_sizes';
import type { ModelConfig } from './config/model_config';
import { familyOf, parseModelConfig } from './families';
import type { BlockNumbers } from './families/family';
import { blockBytes } from './gpu_memory';
import { checkGpu, contextBytes, gpuParts } from './memory_cuda';
import {
  allIn,
  quantizedByConfig,
  quantizedModules,
  quantizePlan,
  type QuantizedMatrices,
  type QuantizeOptions,
} from './quantized/quantize_options';
import { expectedTensors, linearModules, tokenTables } from './files/tensor_table';

const op = 'estimateMemory';

/** The options of {@link estimateMemory}. */
export interface MemoryOptions extends Pick<
  LoRAConfigInput,
  | 'r'
  | 'targetModules'
  | 'excludeModules'
  | 'layersToTransform'
  | 'layersPattern'
  | 'rankPattern'
  | 'useDora'
  | 'modulesToSave'
> {
  /**
   * The adapter that is trained: what `addAdapter` takes, or the content of an adapter_config.json; in the place of `r` and the other options of LoRA. The
   * vectors of prompt tuning count as tokens of each sequence.
   */
  adapter?: AdapterConfigInput | Readonly<Record<string, unknown>> | undefined;
  /** Sequences of a batch. Default 1. */
  batchSize?: number | undefined;
  /** Tokens of a sequence. Default 512. */
  length?: number | undefined;
  /** The dtype of activations, as `fromPretrained` takes it. Default 'auto'. */
  dtype?: 'auto' | 'f32' | 'bf16' | undefined;
  /** Quantizes the matrices, as `fromPretrained` does. Default: as the files have them. */
  quantize?: QuantizeOptions['format'] | QuantizeOptions | undefined;
  /** Compute each block a second time in the backward pass. Default false. */
  gradientCheckpointing?: boolean | undefined;
  /** The optimizer by name. Default 'adamw'. */
  optimizer?: OptimizerName | undefined;
  /**
   * 'all': all weights are trained, as after `trainAll()`, instead of an adapter. The backward pass makes gradients while it frees activations, logits and
   * workspace, so those count only by what they take beyond the gradients. Default 'adapter'.
   */
  train?: 'adapter' | 'all' | undefined;
  /** With train: 'all', the weights of bf16 are trained without f32 masters, as `trainAll({ stochasticRounding: true })` does. Default false. */
  stochasticRounding?: boolean | undefined;
  /**
   * 'cuda': what training takes of a GPU. A step is gone through call by call, with the blocks of the allocator, the weights that a call expands, the
   * chunks of the loss (`LORA_CUDA_LOSS_BYTES` counts) and scratch; the parts are those of the moment that takes the most. LoRA of language models whose blocks
   * are Llama's: neither DoRA nor other methods, nor `streams`, nor train: 'all'. No GPU need be there. Default 'cpu'.
   */
  device?: 'cpu' | 'cuda' | undefined;
  /** Serve so many sequences of `length` tokens at once, instead of training. */
  streams?: number | undefined;
}

/** Bytes. */
export interface MemoryEstimate {
  /** The frozen weights; where all are trained, the rounded embedding. Loading takes less beside them than training does. */
  weights: number;
  /** The trained parameters and their gradients, in f32; the parameters in bf16 where those are rounded stochastically. */
  adapters: number;
  /** The moments of the optimizer. */
  optimizer: number;
  /** What the backward pass needs again of the forward pass. */
  activations: number;
  /** The exponentials of the loss, or the logits of the sequences that are served. */
  logits: number;
  /** Keys, values and states of the sequences that are served, twice, since a pool that grows is copied. */
  kvCache: number;
  /** Gradients of a block, working space of the kernels, and what the allocator keeps of freed memory. */
  workspace: number;
  /**
   * Node.js, the tokenizer and what loading leaves, which count in the process's memory but not in LORA_MEMORY_LIMIT. Of a GPU: what the driver's context
   * takes, which is not counted but allowed for with 300 MB, and is not in LORA_CUDA_MEMORY_LIMIT either.
   */
  runtime: number;
  /** The sum: the peak of the process's resident memory, or of what it takes of a GPU. */
  total: number;
}

/** Bytes of optimizer state per trained value. */
const stateBytes: Readonly<Record<OptimizerName, number>> = {
  adamw: 8,
  adamw8bit: 2 + 8 / momentBlock, // two moments of a byte, each with a scale for so many of them
  lion: 4,
  sgd: 0, // by its name it has no momentum
};
/** Of a part of a prompt, by default. */
const prefillTokens = 256;
/** Measured: Node.js with this library; and of a tokenizer for each token that it has. */
const [runtimeBytes, tokenBytes] = [75e6, 400];
/** Measured: what loading leaves of the slices of files that it read, less of a small model. */
const loadingBytes = 15e6;
/** Measured: parts of prompts, recorded steps, and texts that are collected late. */
const servingBytes = 25e6;

const product = (shape: readonly number[]): number => shape.reduce((all, dim) => all * dim, 1);

function configOf(config: ModelConfig | Readonly<Record<string, unknown>>): ModelConfig {
  check(
    typeof config === 'object' && config !== null && !Array.isArray(config),
    op,
    () => `expected the content of config.json, or the config of a model, but received ${describe(config)}`,
  );
  return 'modelType' in config && 'raw' in config ? (config as ModelConfig) : parseModelConfig(config);
}

/**
 * Estimates the peak of a process that loads a model and trains an adapter, or serves `streams` sequences, on the CPU, or trains on a GPU:
 *
 *     weights + 8·P + s·P + activations + logits + workspace + runtime
 *
 * with P trained values, each with its gradient in f32 and s bytes of optimizer state (8 for AdamW). For each token a block of Llama's
 * keeps hidden + 2·heads·headDim + 2·kvHeads·headDim + 2·intermediate numbers of the activations' dtype, 2·hidden in f32, and r in f32 for each
 * adapted layer; with gradient checkpointing hidden in f32, and one block has the rest. On a GPU each of these is a sum of blocks of memory, each at most an
 * eighth larger than what it holds. Nothing is loaded or allocated.
 *
 * @param config the content of a model's config.json, or `model.config`
 * @throws ERR_ARGUMENT for options, ERR_UNSUPPORTED for a model that is not supported, or not with `device: 'cuda'`, ERR_ADAPTER for targets that match nothing
 * @example
 * const { total } = estimateMemory(model.config, { length: 1024, gradientCheckpointing: true });
 * console.log(`${(total / 1e9).toFixed(2)} GB`);
 * estimateMemory(model.config, { device: 'cuda', quantize: 'nf4' }).total; // of a GPU
 */
export function estimateMemory(
  config: ModelConfig | Readonly<Record<string, unknown>>,
  options: MemoryOptions = {},
): MemoryEstimate {
  const model = configOf(config);
  checkOptions(op, options, optionNames);
  const { batchSize = 1, length = 512, dtype = 'auto', optimizer = 'adamw', streams } = options;
  const { gradientCheckpointing = false, train = 'adapter', stochasticRounding = false } = options;
  const { device = 'cpu' } = options;
  checkOneOf(op, 'train', train, ['adapter', 'all']);
  checkOneOf(op, 'device', device, ['cpu', 'cuda']);
  checkInteger(op, 'batchSize', batchSize, 1);
  checkInteger(op, 'length', length, 1);
  if (streams !== undefined) checkInteger(op, 'streams', streams, 1);
  checkBoolean(op, 'gradientCheckpointing', gradientCheckpointing);
  check(
    ['auto', 'f32', 'bf16'].includes(dtype),
    op,
    () => `expected dtype to be 'auto', 'f32' or 'bf16' but received ${describe(dtype)}`,
  );
  check(
    trainerOptions.optimizer.choices.includes(optimizer),
    op,
    () =>
      `expected optimizer to be one of ${trainerOptions.optimizer.choices.join(', ')} but received ${describe(optimizer)}`,
  );
  const { lora, sequence, method } = adapterOf(model, options);
  if (device === 'cuda') checkGpu(op, { train, streams, method });
  const positions = sequence.vectors + length;
  const quantized = quantizedOf(model, options.quantize);
  const whole = train === 'all' && streams === undefined;
  check(
    !whole || quantized === undefined,
    op,
    "expected no quantized weights with train: 'all', since those cannot be trained",
  );
  checkBoolean(op, 'stochasticRounding', stochasticRounding);
  const sizes = whole ? trainedSizes(model, dtype) : sizesOf(model, dtype, quantized, device);
  check(
    !stochasticRounding || (whole && sizes.activation === 2),
    op,
    "expected stochasticRounding with train: 'all' and a dtype of bf16 alone",
  );
  const loading = Math.min(loadingBytes, sizes.weights / 8);
  const runtime = device === 'cuda' ? contextBytes : runtimeBytes + tokenBytes * model.vocabSize + loading;
  const parts =
    streams === undefined
      ? trainingParts(model, options, {
          ...{ adapter: lora, optimizer, size: sizes.activation, quantized },
          batch: { texts: batchSize, tokens: batchSize * positions },
        })
      : servingParts(model, { streams, length: positions, size: sizes.activation });
  const all = { weights: sizes.weights, ...parts, runtime };
  return { ...all, total: Object.values(all).reduce((sum, bytes) => sum + bytes, 0) };
}

const loraOptions = [
  ...['r', 'targetModules', 'excludeModules', 'layersToTransform', 'layersPattern', 'rankPattern'],
  ...['useDora', 'modulesToSave'],
] as const satisfies readonly (keyof MemoryOptions)[];
const optionNames = [
  ...loraOptions,
  ...['adapter', 'batchSize', 'length', 'dtype', 'quantize', 'gradientCheckpointing', 'optimizer'],
  ...['train', 'stochasticRounding', 'streams', 'device'],
];

/** The LoRA that is trained, or one of about the size of the adapter that is, and the plan of the texts behind it. */
function adapterOf(
  config: ModelConfig,
  options: MemoryOptions,
): { readonly lora: LoRAConfigInput; readonly sequence: SequencePlan; readonly method: string } {
  const { adapter } = options;
  const lora = Object.fromEntries(loraOptions.map((name) => [name, options[name]])) as LoRAConfigInput;
  if (adapter === undefined) return { lora, sequence: new SequencePlan(), method: 'lora' };
  for (const name of loraOptions)
    check(options[name] === undefined, op, `expected adapter or ${name} but received both`);
  check(
    options.train !== 'all',
    op,
    "expected adapter or train: 'all', which trains none, but received both",
  );
  const isFile = isRecord(adapter) && 'peft_type' in adapter;
  const linears = linearModules(config);
  const choice = isFile ? methodOfJson(adapter, linears) : methodOfInput(op, adapter, { ...config, linears });
  return {
    lora: methodOf(choice.method).sizeAsLora(choice.config, linears),
    sequence: plannedSequence(choice),
    method: choice.method,
  };
}

/** The matrices that are quantized, in the files or while they are loaded. */
function quantizedOf(
  config: ModelConfig,
  quantize: MemoryOptions['quantize'],
): QuantizedMatrices | undefined {
  const plan = quantizePlan(op, quantize);
  const stored = quantizedByConfig(config);
  if (plan === undefined) return stored;
  check(
    stored === undefined,
    op,
    () => `the model is quantized already (${[...new Set(stored!.values())].join(', ')}): leave quantize out`,
  );
  return allIn(plan.format, quantizedModules(op, config, plan));
}

/** Bytes of the weights in memory, and of a number of the activations. */
function sizesOf(
  config: ModelConfig,
  dtype: 'auto' | 'f32' | 'bf16',
  quantized: QuantizedMatrices | undefined,
  device: 'cpu' | 'cuda' = 'cpu',
): { weights: number; activation: number } {
  const f32 = dtype === 'auto' ? config.fileDType === 'f32' : dtype === 'f32';
  const activation = f32 ? 4 : 2;
  // f32 activations keep the 16 bits of a file.
  const stored = f32 && (config.fileDType === 'bf16' || config.fileDType === 'f16') ? 2 : activation;
  const held = device === 'cuda' ? blockBytes : (bytes: number): number => bytes;
  let weights = 0;
  for (const [name, shape] of expectedTensors(config)) {
    if (shape.length !== 2) weights += held(product(shape) * activation);
    else {
      const format = quantized?.get(name.replace(/\.weight$/, ''));
      weights += held(format ? quantizedBytes(format, shape[0]!, shape[1]!) : product(shape) * stored);
    }
  }
  return { weights, activation };
}

/** The numbers of the embeddings of tokens. */
function embedded(config: ModelConfig): number {
  const tensors = expectedTensors(config);
  return [...tokenTables(config)].reduce((sum, path) => sum + product(tensors.get(`${path}.weight`)!), 0);
}

/** The same where all weights are trained: the masters stand for the weights, and embeddings are kept rounded beside their own. */
function trainedSizes(config: ModelConfig, dtype: 'auto' | 'f32' | 'bf16'): ReturnType<typeof sizesOf> {
  const { activation } = sizesOf(config, dtype, undefined);
  return { weights: activation * embedded(config), activation };
}

/** Bytes of the copies that calls make of their operands. Those of one size follow each other in one block, and the allocator keeps a block of each. */
function copies(calls: readonly (readonly number[])[], tokens: number, size: number): number {
  const dtype = size === 4 ? 'f32' : 'bf16';
  const distinct = new Map(calls.map((widths) => [widths.join(), widths])).values();
  const sizes = new Set([...distinct].map((widths) => copiedBytes(dtype, tokens, widths)));
  return [...sizes].reduce((sum, bytes) => sum + bytes, 0);
}

/** What each block works with. */
function blocksOf(config: ModelConfig): BlockNumbers[] {
  const family = familyOf(config);
  return Array.from({ length: config.numHiddenLayers }, (_, i) => family.numbers(config, i));
}

type Parts = Omit<MemoryEstimate, 'weights' | 'runtime' | 'total'>;

/** What a batch has. */
interface BatchNumbers {
  readonly texts: number;
  /** Of all texts. */
  readonly tokens: number;
}

/** Bytes of the logits that a loss has at once: of a chunk of tokens, or in f32 of the last token of each text. */
function logitsBytes(
  { head, vocabSize }: ModelConfig,
  { texts, tokens }: BatchNumbers,
  size: number,
): number {
  if (head) return 4 * texts * head.labels.length;
  const row = size * vocabSize;
  const { bytes, minRows, maxRows } = lossChunk;
  return row * Math.min(tokens, Math.max(minRows, Math.min(maxRows, Math.floor(bytes / row))));
}

/** Of the gradient of a head: logits of some rows, their gradients, those turned, and the product. See ops/cross_entropy.ts. */
function headWorkspace(
  { head, vocabSize, hiddenSize }: ModelConfig,
  { texts, tokens }: BatchNumbers,
  size: number,
): number {
  if (head) return (3 * 4 * texts + 4 * hiddenSize) * head.labels.length;
  const rows = Math.min(tokens, Math.max(1, Math.floor(maxLogits / vocabSize)));
  return 3 * rows * vocabSize * size + 4 * vocabSize * hiddenSize;
}

/**
 * Where all weights are trained, their gradients fill the memory that activations, and in bf16 rounded weights, give back: these count as far as they are
 * more.
 */
function withGradients(
  parts: Parts,
  {
    config,
    batch,
    size,
    parameters,
    rounded,
  }: { config: ModelConfig; batch: BatchNumbers; size: number; parameters: number; rounded: boolean },
): Parts {
  const copies = size === 2 && !rounded ? 2 * (parameters - embedded(config)) : 0;
  const workspace = parts.workspace + headWorkspace(config, batch, size) + copies;
  const before = parts.activations + parts.logits + workspace;
  const share = Math.max(0, before - 4 * parameters) / before;
  return {
    ...parts,
    activations: share * parts.activations,
    logits: share * parts.logits,
    workspace: share * workspace,
  };
}

const allTrained = (config: ModelConfig): { parameters: number; ranks: number } => ({
  parameters: [...expectedTensors(config).values()].reduce((sum, shape) => sum + product(shape), 0),
  ranks: 0,
});

function trainingParts(
  config: ModelConfig,
  options: MemoryOptions,
  {
    adapter,
    batch,
    size,
    optimizer,
    quantized,
  }: {
    adapter: LoRAConfigInput;
    batch: BatchNumbers;
    size: number;
    optimizer: OptimizerName;
    quantized: QuantizedMatrices | undefined;
  },
): Parts {
  const { tokens } = batch;
  if (options.device === 'cuda')
    return gpuParts(op, config, adapterTrained(config, adapter), {
      ...{ ...batch, size, quantized, optimizer },
      checkpointing: options.gradientCheckpointing ?? false,
    });
  const { gradientCheckpointing, train, stochasticRounding: rounded = false } = options;
  const { parameters, ranks } = train === 'all' ? allTrained(config) : adapterTrained(config, adapter);
  const { hiddenSize: d, numHiddenLayers: layers } = config;
  const blocks = blocksOf(config);
  const keptBy = blocks.map(({ kept, keptFloats }) => size * kept + 4 * keptFloats);
  const kept = gradientCheckpointing
    ? 4 * d * layers +
      size * blocks.reduce((sum, { crossing = 0 }) => sum + crossing, 0) +
      Math.max(0, ...keptBy) +
      (4 * ranks) / layers
    : keptBy.reduce((sum, bytes) => sum + bytes, 0) + 4 * ranks;
  const parts = {
    adapters: (rounded ? 6 : 8) * parameters,
    optimizer: stateBytes[optimizer] * parameters,
    activations: tokens * kept,
    logits: logitsBytes(config, batch, size),
    kvCache: 0,
    workspace:
      tokens * (size * Math.max(0, ...blocks.map(({ working }) => working)) + 8 * d) +
      copies(
        blocks.flatMap(({ inputs, gradients }) => [...inputs, ...gradients]),
        tokens,
        size,
      ),
  };
  return train === 'all' ? withGradients(parts, { config, batch, size, parameters, rounded }) : parts;
}

function servingParts(
  config: ModelConfig,
  { streams, length, size }: { streams: number; length: number; size: number },
): Parts {
  const cached = pageBytes({ layers: config.layers, dtype: size === 4 ? 'f32' : 'bf16' });
  const pages = streams * Math.ceil(length / pageSize);
  // One that a stream writes, and one at the end of its prompt.
  const states = 2 * streams * slotBytes(config.layers);
  return {
    adapters: 0,
    optimizer: 0,
    activations: 0,
    logits: 4 * streams * (config.head?.labels.length ?? config.vocabSize),
    // A pool that grows is copied.
    kvCache: 2 * (pages * cached + states),
    workspace:
      servingBytes +
      copies(
        blocksOf(config).flatMap(({ inputs }) => inputs),
        Math.min(length, prefillTokens),
        size,
      ),
  };
}
