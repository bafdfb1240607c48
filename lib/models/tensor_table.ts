/**
 * The tensors of a model, listed once: what a file must hold, loading, saving and disposing all walk this table. Names are
 * those of Hugging Face files.
 */
import type { Linear } from '../linear/linear';
import type { ModulePath } from '../peft/matching';
import type { FrozenWeight } from '../tensor/frozen_weight';
import { Parameter, type Tensor } from '../tensor/tensor';
import type { ModelConfig } from './config';

/** The weights of one block. */
export interface BlockWeights {
  readonly inputNorm: Tensor;
  readonly postNorm: Tensor;
  readonly qNorm?: Tensor;
  readonly kNorm?: Tensor;
  readonly q: Linear;
  readonly k: Linear;
  readonly v: Linear;
  readonly o: Linear;
  readonly gate: Linear;
  readonly up: Linear;
  readonly down: Linear;
}

export interface ModelWeights {
  readonly embedding: FrozenWeight;
  readonly layers: readonly BlockWeights[];
  readonly norm: Tensor;
  /** Shares its matrix with `embedding` when the head is tied. */
  readonly head: Linear;
}

type KeysOf<T> = {
  [K in keyof BlockWeights]-?: BlockWeights[K] extends T | undefined ? K : never;
}[keyof BlockWeights];

/** A tensor, or the two of a linear layer, of a block. `module` is its path inside the block. */
export type BlockEntry =
  | { readonly kind: 'vector'; readonly key: KeysOf<Tensor>; readonly module: string; readonly size: number }
  | {
      readonly kind: 'linear';
      readonly key: KeysOf<Linear>;
      readonly module: string;
      readonly out: number;
      readonly in: number;
      readonly bias: boolean;
    };

export const EMBEDDING = 'model.embed_tokens';
export const NORM = 'model.norm';
export const HEAD = 'lm_head';

export const blockPath = (index: number, module?: string): string =>
  `model.layers.${index}${module === undefined ? '' : `.${module}`}`;

/** The block of Llama and of the families that differ from it by norms and biases. */
export function blockTable(c: ModelConfig): BlockEntry[] {
  const q = c.numAttentionHeads * c.headDim;
  const kv = c.numKeyValueHeads * c.headDim;
  const d = c.hiddenSize;
  const ff = c.intermediateSize;
  const vector = (key: KeysOf<Tensor>, module: string, size: number): BlockEntry => ({
    kind: 'vector',
    key,
    module,
    size,
  });
  const linear = (
    key: KeysOf<Linear>,
    module: string,
    out: number,
    inside: number,
    bias: boolean,
  ): BlockEntry => ({
    kind: 'linear',
    key,
    module,
    out,
    in: inside,
    bias,
  });
  return [
    vector('inputNorm', 'input_layernorm', d),
    vector('postNorm', 'post_attention_layernorm', d),
    ...(c.qkNorm
      ? [vector('qNorm', 'self_attn.q_norm', c.headDim), vector('kNorm', 'self_attn.k_norm', c.headDim)]
      : []),
    linear('q', 'self_attn.q_proj', q, d, c.qkvBias),
    linear('k', 'self_attn.k_proj', kv, d, c.qkvBias),
    linear('v', 'self_attn.v_proj', kv, d, c.qkvBias),
    linear('o', 'self_attn.o_proj', d, q, c.outputBias),
    linear('gate', 'mlp.gate_proj', ff, d, c.mlpBias),
    linear('up', 'mlp.up_proj', ff, d, c.mlpBias),
    linear('down', 'mlp.down_proj', d, ff, c.mlpBias),
  ];
}

/** A linear module of a model, with the sizes of its matrix. */
export interface LinearModule extends ModulePath {
  readonly out: number;
  readonly in: number;
}

/** Every linear module of a model, in the order of the forward pass, the output embedding last. */
export function linearModules(c: ModelConfig): LinearModule[] {
  const modules: LinearModule[] = [];
  for (let i = 0; i < c.numHiddenLayers; i++)
    for (const entry of blockTable(c)) {
      if (entry.kind !== 'linear') continue;
      const { module, out, in: inside } = entry;
      modules.push({ path: blockPath(i, module), isOutputEmbedding: false, out, in: inside });
    }
  return [...modules, { path: HEAD, isOutputEmbedding: true, out: c.vocabSize, in: c.hiddenSize }];
}

/** Every tensor that a file of a model of this configuration holds, by name, with its shape. */
export function expectedTensors(c: ModelConfig): Map<string, readonly number[]> {
  const tensors = new Map<string, readonly number[]>([[`${EMBEDDING}.weight`, [c.vocabSize, c.hiddenSize]]]);
  const table = blockTable(c);
  for (let i = 0; i < c.numHiddenLayers; i++)
    for (const entry of table) {
      const path = blockPath(i, entry.module);
      tensors.set(`${path}.weight`, entry.kind === 'vector' ? [entry.size] : [entry.out, entry.in]);
      if (entry.kind === 'linear' && entry.bias) tensors.set(`${path}.bias`, [entry.out]);
    }
  tensors.set(`${NORM}.weight`, [c.hiddenSize]);
  if (!c.tieWordEmbeddings) tensors.set(`${HEAD}.weight`, [c.vocabSize, c.hiddenSize]);
  return tensors;
}

/** What is trained of the weights of a block. */
export function trainedOfBlock(c: ModelConfig, layer: BlockWeights): Parameter[] {
  return blockTable(c)
    .flatMap((entry) => {
      if (entry.kind === 'vector') return layer[entry.key] ?? [];
      const { base, baseBias } = layer[entry.key];
      return [base.master ?? [], baseBias ?? []].flat();
    })
    .filter((one) => one instanceof Parameter);
}

/** The linear layers of a block, in the order of the forward pass. */
export function linearsOfBlock(c: ModelConfig, layer: BlockWeights): Linear[] {
  return blockTable(c).flatMap((entry) => (entry.kind === 'linear' ? [layer[entry.key]] : []));
}

/** Every linear layer, in the order of the forward pass, the output embedding last. */
export function linearsOf(c: ModelConfig, { layers, head }: ModelWeights): Linear[] {
  return [...layers.flatMap((layer) => linearsOfBlock(c, layer)), head];
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

/** What a file of the model holds: vectors, matrices, and linear layers, whose biases are entries of their own. */
export type NamedWeight = { readonly name: string } & (
  | { readonly tensor: Tensor; readonly biasOf?: Linear; readonly replace: (tensor: Tensor) => void }
  | { readonly matrix: FrozenWeight }
  | { readonly linear: Linear }
);

/** Every tensor under its name in a file. A head that shares the embedding's matrix is not listed. */
export function* namedWeights(c: ModelConfig, weights: ModelWeights): Generator<NamedWeight> {
  const table = blockTable(c);
  yield { name: `${EMBEDDING}.weight`, matrix: weights.embedding };
  for (const [i, layer] of weights.layers.entries())
    for (const entry of table) {
      const path = blockPath(i, entry.module);
      if (entry.kind === 'vector') {
        const { key } = entry;
        yield {
          name: `${path}.weight`,
          tensor: layer[key]!,
          replace: (tensor) => void ((layer as Mutable<BlockWeights>)[key] = tensor),
        };
      } else {
        const linear = layer[entry.key];
        yield { name: `${path}.weight`, linear };
        if (linear.bias)
          yield {
            name: `${path}.bias`,
            tensor: linear.bias,
            biasOf: linear,
            replace: (tensor) => void (linear.baseBias = tensor),
          };
      }
    }
  yield {
    name: `${NORM}.weight`,
    tensor: weights.norm,
    replace: (tensor) => void ((weights as Mutable<ModelWeights>).norm = tensor),
  };
  if (weights.head.base !== weights.embedding) yield { name: `${HEAD}.weight`, linear: weights.head };
}

export function disposeWeights(c: ModelConfig, weights: ModelWeights): void {
  for (const entry of namedWeights(c, weights)) {
    if ('tensor' in entry) entry.tensor.dispose();
    else if ('matrix' in entry) entry.matrix.dispose();
    else entry.linear.dispose();
  }
  weights.head.dispose(); // a tied one, too, may hold a merged weight
}
