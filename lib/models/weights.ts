/** The frozen weights of a Llama-family model: which tensors there are, loading and packing them. */
import { LoRAError } from '../errors';
import { fromBytes } from '../tensor/create';
import type { Device } from '../native/device';
import { noGrad } from '../tensor/scope';
import { FrozenWeight } from '../tensor/frozen_weight';
import { openModelTensors } from '../formats/sharded';
import type { Tensor } from '../tensor/tensor';
import { shapeText } from '../validate';
import type { DType } from '../tensor/dtype';
import type { ModelConfig } from './config';

/** Activation dtypes of a model; f16 is for inference on GPUs. */
/** Element types of a model's activations. */
export type ModelDType = 'f32' | 'bf16' | 'f16';

/** A frozen linear layer of the model, y = W·x + bias. `weight` is replaced while an adapter is merged. */
export interface FrozenLinear {
  /** Module path as transformers names it: model.layers.0.self_attn.q_proj. */
  readonly path: string;
  readonly outFeatures: number;
  readonly inFeatures: number;
  weight: FrozenWeight;
  readonly bias?: Tensor;
}

export interface LayerWeights {
  readonly inputNorm: Tensor;
  readonly postNorm: Tensor;
  readonly qNorm?: Tensor;
  readonly kNorm?: Tensor;
  readonly q: FrozenLinear;
  readonly k: FrozenLinear;
  readonly v: FrozenLinear;
  readonly o: FrozenLinear;
  readonly gate: FrozenLinear;
  readonly up: FrozenLinear;
  readonly down: FrozenLinear;
}

export interface ModelWeights {
  readonly embedding: FrozenWeight;
  readonly layers: readonly LayerWeights[];
  readonly norm: Tensor;
  /** Shares its matrix with `embedding` when the head is tied. */
  readonly head: FrozenLinear;
}

const EMBEDDING = 'model.embed_tokens.weight';
const NORM = 'model.norm.weight';
const HEAD = 'lm_head';

interface LinearSpec {
  key: 'q' | 'k' | 'v' | 'o' | 'gate' | 'up' | 'down';
  module: string;
  out: number;
  in: number;
  bias: boolean;
}

function linearSpecs(c: ModelConfig): LinearSpec[] {
  const q = c.numAttentionHeads * c.headDim;
  const kv = c.numKeyValueHeads * c.headDim;
  const d = c.hiddenSize;
  const ff = c.intermediateSize;
  return [
    { key: 'q', module: 'self_attn.q_proj', out: q, in: d, bias: c.qkvBias },
    { key: 'k', module: 'self_attn.k_proj', out: kv, in: d, bias: c.qkvBias },
    { key: 'v', module: 'self_attn.v_proj', out: kv, in: d, bias: c.qkvBias },
    { key: 'o', module: 'self_attn.o_proj', out: d, in: q, bias: c.outputBias },
    { key: 'gate', module: 'mlp.gate_proj', out: ff, in: d, bias: c.mlpBias },
    { key: 'up', module: 'mlp.up_proj', out: ff, in: d, bias: c.mlpBias },
    { key: 'down', module: 'mlp.down_proj', out: d, in: ff, bias: c.mlpBias },
  ];
}

/** Every tensor that a model of this configuration has, by name, with its shape. */
export function expectedTensors(c: ModelConfig): Map<string, readonly number[]> {
  const tensors = new Map<string, readonly number[]>([[EMBEDDING, [c.vocabSize, c.hiddenSize]]]);
  const specs = linearSpecs(c);
  for (let i = 0; i < c.numHiddenLayers; i++) {
    const layer = `model.layers.${i}.`;
    tensors.set(`${layer}input_layernorm.weight`, [c.hiddenSize]);
    tensors.set(`${layer}post_attention_layernorm.weight`, [c.hiddenSize]);
    if (c.qkNorm) {
      tensors.set(`${layer}self_attn.q_norm.weight`, [c.headDim]);
      tensors.set(`${layer}self_attn.k_norm.weight`, [c.headDim]);
    }
    for (const spec of specs) {
      tensors.set(`${layer}${spec.module}.weight`, [spec.out, spec.in]);
      if (spec.bias) tensors.set(`${layer}${spec.module}.bias`, [spec.out]);
    }
  }
  tensors.set(NORM, [c.hiddenSize]);
  if (!c.tieWordEmbeddings) tensors.set(`${HEAD}.weight`, [c.vocabSize, c.hiddenSize]);
  return tensors;
}

/** A list for a sentence: the first few, and how many more. */
export function listed(names: readonly string[], most = 5): string {
  const rest = names.length - most;
  return names.slice(0, most).join(', ') + (rest > 0 ? ` and ${rest} more` : '');
}

interface StoredTensor {
  dtype: string;
  shape: readonly number[];
  bytes: Uint8Array;
}
interface StoredModel {
  names: Iterable<string>;
  get(name: string): StoredTensor | undefined;
}

/** Reports all missing, unexpected and misshapen tensors in one sentence. */
function checkNames(stored: StoredModel, config: ModelConfig, dir: string): Map<string, readonly number[]> {
  const expected = expectedTensors(config);
  const names = new Set(stored.names);
  const missing = [...expected.keys()].filter((name) => !names.has(name));
  const ignored = (name: string): boolean =>
    name.endsWith('.rotary_emb.inv_freq') || (config.tieWordEmbeddings && name === `${HEAD}.weight`);
  const unexpected = [...names].filter((name) => !expected.has(name) && !ignored(name));
  const wrong: string[] = [];
  for (const [name, shape] of expected) {
    const have = names.has(name) ? stored.get(name)?.shape : undefined;
    if (have && (have.length !== shape.length || have.some((n, i) => n !== shape[i])))
      wrong.push(`${name} of shape ${shapeText(shape)} but received ${shapeText(have)}`);
  }
  const problems: string[] = [];
  if (missing.length) problems.push(`the weights lack ${listed(missing)}`);
  if (unexpected.length) problems.push(`the weights hold unexpected ${listed(unexpected)}`);
  if (wrong.length) problems.push(`config.json asks for ${listed(wrong)}`);
  if (problems.length)
    throw new LoRAError('ERR_FILE', `[from_pretrained] ${dir}: ${problems.join('; ')}`, {
      op: 'from_pretrained',
    });
  return expected;
}

const storedDTypes: Readonly<Record<string, DType>> = { F32: 'f32', BF16: 'bf16', F16: 'f16' };

function dtypeOf(name: string, stored: StoredTensor): DType {
  const dtype = storedDTypes[stored.dtype];
  if (!dtype)
    throw new LoRAError(
      'ERR_UNSUPPORTED',
      `[from_pretrained] ${name} is stored as ${stored.dtype}; supported are ${Object.keys(storedDTypes).join(', ')}`,
      { op: 'from_pretrained' },
    );
  return dtype;
}

export interface LoadOptions {
  dtype: 'auto' | ModelDType;
  device: Device;
  signal?: AbortSignal;
  /** Bytes of weights loaded so far, and in all. */
  onProgress?: (progress: { loaded: number; total: number }) => void;
}

/** Lets timers and I/O run between two tensors. */
const breathe = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/**
 * Maps the weight files of a directory, converts every tensor to the activation dtype, packs the matrices once
 * and unmaps. 'auto' keeps the dtype of the files, f16 becoming bf16.
 */
export async function loadWeights(
  dir: string,
  config: ModelConfig,
  options: LoadOptions,
): Promise<{ weights: ModelWeights; dtype: ModelDType }> {
  const stored = await openModelTensors(dir);
  const made: { dispose(): void }[] = [];
  try {
    const expected = checkNames(stored, config, dir);
    const fileDType = dtypeOf(EMBEDDING, stored.get(EMBEDDING));
    const dtype = options.dtype === 'auto' ? (fileDType === 'f32' ? 'f32' : 'bf16') : options.dtype;
    let total = 0;
    for (const name of expected.keys()) total += stored.get(name).bytes.byteLength;

    let loaded = 0;
    const load = async (name: string): Promise<Tensor> => {
      await breathe();
      options.signal?.throwIfAborted();
      const found = stored.get(name);
      const from = dtypeOf(name, found);
      const raw = fromBytes(found.bytes, from, expected.get(name)!, options.device);
      loaded += found.bytes.byteLength;
      if (from === dtype) return raw;
      const cast = noGrad(() => raw.to({ dtype }));
      raw.dispose();
      return cast;
    };
    const progress = (): void => options.onProgress?.({ loaded, total });
    const vector = async (name: string): Promise<Tensor> => {
      const x = await load(name);
      made.push(x);
      progress();
      return x;
    };
    const matrix = async (name: string): Promise<FrozenWeight> => {
      const x = await load(name);
      const weight = FrozenWeight.pack(x);
      x.dispose();
      made.push(weight);
      progress();
      return weight;
    };
    const linear = async (prefix: string, spec: LinearSpec): Promise<FrozenLinear> => ({
      path: prefix + spec.module,
      outFeatures: spec.out,
      inFeatures: spec.in,
      weight: await matrix(`${prefix}${spec.module}.weight`),
      ...(spec.bias ? { bias: await vector(`${prefix}${spec.module}.bias`) } : {}),
    });

    const embedding = await matrix(EMBEDDING);
    const layers: LayerWeights[] = [];
    for (let i = 0; i < config.numHiddenLayers; i++) {
      const prefix = `model.layers.${i}.`;
      const linears = {} as Record<LinearSpec['key'], FrozenLinear>;
      for (const spec of linearSpecs(config)) linears[spec.key] = await linear(prefix, spec);
      layers.push({
        inputNorm: await vector(`${prefix}input_layernorm.weight`),
        postNorm: await vector(`${prefix}post_attention_layernorm.weight`),
        ...(config.qkNorm
          ? {
              qNorm: await vector(`${prefix}self_attn.q_norm.weight`),
              kNorm: await vector(`${prefix}self_attn.k_norm.weight`),
            }
          : {}),
        ...linears,
      });
    }
    const norm = await vector(NORM);
    const head: FrozenLinear = {
      path: HEAD,
      outFeatures: config.vocabSize,
      inFeatures: config.hiddenSize,
      weight: config.tieWordEmbeddings ? embedding : await matrix(`${HEAD}.weight`),
    };
    return { weights: { embedding, layers, norm, head }, dtype };
  } catch (error) {
    for (const item of made) item.dispose();
    throw error;
  } finally {
    stored.close();
  }
}

/** Every linear layer, in the order of the forward pass, the output embedding last. */
export function linearsOf(weights: ModelWeights): FrozenLinear[] {
  const all = weights.layers.flatMap(({ q, k, v, o, gate, up, down }) => [q, k, v, o, gate, up, down]);
  return [...all, weights.head];
}

/** Every tensor under its name in a Hugging Face file. A head that shares the embedding's matrix is not listed. */
export function* namedWeights(
  weights: ModelWeights,
): Generator<[name: string, value: FrozenWeight | Tensor]> {
  yield [EMBEDDING, weights.embedding];
  for (const [i, layer] of weights.layers.entries()) {
    const prefix = `model.layers.${i}.`;
    yield [`${prefix}input_layernorm.weight`, layer.inputNorm];
    yield [`${prefix}post_attention_layernorm.weight`, layer.postNorm];
    if (layer.qNorm) yield [`${prefix}self_attn.q_norm.weight`, layer.qNorm];
    if (layer.kNorm) yield [`${prefix}self_attn.k_norm.weight`, layer.kNorm];
    for (const linear of [layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down]) {
      yield [`${linear.path}.weight`, linear.weight];
      if (linear.bias) yield [`${linear.path}.bias`, linear.bias];
    }
  }
  yield [NORM, weights.norm];
  if (weights.head.weight !== weights.embedding) yield [`${HEAD}.weight`, weights.head.weight];
}

export function disposeWeights(weights: ModelWeights): void {
  for (const [, value] of namedWeights(weights)) value.dispose();
}
