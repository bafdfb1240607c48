/** What training takes of a GPU: blocks of memory for weights, adapters and moments, and what a step has in use beside them. */
import { loraError } from '../errors';
import type { LinearRole } from '../linear/linear';
import { momentBlock } from '../native/constants';
import type { OptimizerName } from '../options/table';
import type { AdapterSizes } from './adapter_sizes';
import { attentionLayers, kindOf, type ModelConfig } from './config/model_config';
import { inverseFrequencies } from './config/rope';
import { familyOf } from './families';
import { llama, type LlamaConfig } from './families/llama';
import { embeddingPath, headPath, linearModules, rowsOf } from './files/tensor_table';
import { blockBytes } from './gpu_memory';
import { gpuStepUse, type GpuMatrix } from './gpu_step';
import type { QuantizedMatrices } from './quantized/quantize_options';

/**
 * What CUDA takes of a GPU before anything is allocated: 107 MiB were seen of a GeForce RTX 4060 Ti and 555 MiB of an RTX PRO 6000, by the number of
 * multiprocessors (llama.cpp, issue 23604), and some 300 MB of PyTorch's (issue 107667). Not measured with this library.
 */
export const contextBytes = 300e6;

/** What a run computes. */
interface GpuRun {
  readonly texts: number;
  /** Of all texts. */
  readonly tokens: number;
  /** Bytes of a number of the activations. */
  readonly size: number;
  readonly quantized: QuantizedMatrices | undefined;
  readonly checkpointing: boolean;
  readonly optimizer: OptimizerName;
}

function refuse(op: string, what: string): never {
  throw loraError(
    op,
    'ERR_UNSUPPORTED',
    `expected LoRA of a language model whose blocks are Llama's with device: 'cuda', of which nothing else is estimated, but received ${what}`,
  );
}

/** @throws ERR_UNSUPPORTED for a model or an adapter whose step on a GPU is not counted */
function checkCounted(op: string, config: ModelConfig, { targets }: AdapterSizes): void {
  const family = familyOf(config);
  if (family.block !== llama.block || family.numbers !== llama.numbers)
    refuse(op, `a model of ${kindOf(config)}`);
  if (config.head) refuse(op, 'a head of classes');
  const other = [...targets].find(([path, { kind }]) => kind !== 'lora' || !/\.\d+\./.test(path));
  if (other) refuse(op, `${other[1].kind === 'whole' ? 'a trained copy' : other[1].kind} of ${other[0]}`);
}

/** Bytes of the tables of rotations, which grow with the longest text. */
function rotationBytes(config: ModelConfig, length: number): number {
  const capacity = Math.max(256, 2 ** Math.ceil(Math.log2(length)));
  const distinct = new Map(
    attentionLayers(config).map((each) => [JSON.stringify([each.rope, each.headDim]), each]),
  );
  return [...distinct.values()].reduce((all, { rope, headDim }) => {
    const { scaling } = rope;
    const rows = capacity + (scaling.type === 'longrope' ? scaling.originalLength : 0);
    return all + 2 * blockBytes(4 * rows * inverseFrequencies(rope, headDim).length);
  }, 0);
}

const sum = (list: readonly number[]): number => list.reduce((all, each) => all + each, 0);
const held = (list: readonly number[]): number => sum(list.map(blockBytes));

/** Bytes of each tensor of the optimizer's state, which is one for all parameters: see lib/optim. */
function momentBytes(optimizer: OptimizerName, values: readonly number[]): number[] {
  const scales = sum(values.map((each) => Math.ceil(each / momentBlock)));
  const moment = 4 * sum(values);
  switch (optimizer) {
    case 'adamw':
      return [moment, moment];
    case 'adamw8bit':
      return [momentBlock * scales, momentBlock * scales, 4 * scales, 4 * scales];
    case 'lion':
      return [moment];
    case 'sgd':
      return [];
  }
}

/** The parts of an estimate beside weights and the context. */
export function gpuParts(op: string, config: ModelConfig, adapter: AdapterSizes, run: GpuRun) {
  checkCounted(op, config, adapter);
  const { tokens, texts, size, quantized, checkpointing } = run;
  const matrices = new Map<string, GpuMatrix>();
  for (const { path, out, in: inside } of linearModules(config)) {
    const rank = adapter.targets.get(path)?.r ?? 0;
    matrices.set(path, { out, in: inside, rank, format: quantized?.get(path) });
  }
  const { hiddenSize, vocabSize, numAttentionHeads: heads, qkNorm } = config as LlamaConfig;
  const shapes = attentionLayers(config);
  const layers = shapes.map(({ rope }, i) => {
    const at = (role: LinearRole): GpuMatrix => {
      const placed = rowsOf(config).layers[i]!.find(({ row }) => row.kind === 'linear' && row.role === role)!;
      return matrices.get(placed.path)!;
    };
    return {
      ...{ q: at('query'), k: at('key'), v: at('value'), o: at('attentionOutput') },
      ...{ gate: at('gate'), up: at('up'), down: at('mlpOutput') },
      rotates: rope.scaling.type !== 'none',
    };
  });
  const use = gpuStepUse({
    ...{ tokens, size, hiddenSize, vocabSize, heads, qkNorm, layers, checkpointing },
    kvHeads: shapes[0]!.kvHeads,
    expandedHead:
      quantized?.has(config.tieWordEmbeddings ? embeddingPath(config) : headPath(config)) ?? false,
  });
  const trained = [...matrices.values()].flatMap(({ rank, out, in: inside }) =>
    rank > 0 ? [rank * out, rank * inside] : [],
  );
  return {
    adapters: held(trained.map((values) => 4 * values)) + use.adapters,
    optimizer: held(momentBytes(run.optimizer, trained)),
    activations: use.activations,
    logits: use.logits,
    kvCache: 0,
    workspace: use.workspace + rotationBytes(config, tokens / texts),
  };
}

/** @throws ERR_UNSUPPORTED for what is not counted of a GPU, whatever the model */
export function checkGpu(
  op: string,
  {
    train,
    streams,
    method,
  }: { readonly train: string; readonly streams: number | undefined; readonly method: string },
): void {
  if (streams !== undefined) refuse(op, 'streams');
  if (train !== 'adapter') refuse(op, "train: 'all'");
  if (method !== 'lora') refuse(op, `an adapter of ${method}`);
}
