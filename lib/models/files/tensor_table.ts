/**
 * The tensors of a model, as its family lists them: what a file must hold, loading, saving and disposing all walk these rows. Names are
 * those of Hugging Face files.
 */
import type { Linear } from '../../linear/linear';
import type { ModulePath } from '../../peft/roles';
import type { FrozenWeight } from '../../tensor/frozen_weight';
import { Parameter, type Tensor } from '../../tensor/tensor';
import type { ModelConfig } from '../config/model_config';
import type { HeadWeights, Row, Rows, StemWeights, Weights } from '../config/rows';
import { familyOf } from '../families';

export interface ModelWeights {
  /** What stands before the blocks. */
  readonly stem: StemWeights;
  readonly layers: readonly Weights[];
  /** What stands behind them; its output shares the matrix of the embedding when the head is tied. */
  readonly head: HeadWeights;
}

/** A row of a model. */
export interface PlacedRow {
  /** The name of its weight in its part of the weights. */
  readonly key: string;
  readonly row: Row;
  /** The path of its module in the model. */
  readonly path: string;
}

const placed = (rows: Rows, prefix = ''): PlacedRow[] =>
  Object.entries(rows).flatMap(([key, row]) => (row ? [{ key, row, path: `${prefix}${row.module}` }] : []));

/** The path of a block. */
export const blockPath = (c: ModelConfig, index: number): string => `${familyOf(c).blocks}.${index}`;

/** The rows of each part of a model. */
export function rowsOf(c: ModelConfig): { stem: PlacedRow[]; layers: PlacedRow[][]; head: PlacedRow[] } {
  const family = familyOf(c);
  const rows = family.layer(c);
  return {
    stem: placed(family.stem(c)),
    layers: Array.from({ length: c.numHiddenLayers }, (_, i) => placed(rows, `${blockPath(c, i)}.`)),
    head: placed(family.head(c)),
  };
}

/** All of them, in the order of the forward pass. */
function allRows(c: ModelConfig): PlacedRow[] {
  const { stem, layers, head } = rowsOf(c);
  return [...stem, ...layers.flat(), ...head];
}

/** The path of the token embedding. */
export const embeddingPath = (c: ModelConfig): string => familyOf(c).stem(c).embedding.module;
/** The path of the layer that gives the logits. */
export const headPath = (c: ModelConfig): string => familyOf(c).head(c).output.module;

/** A linear module of a model, with the sizes of its matrix. */
export interface LinearModule extends ModulePath {
  readonly out: number;
  readonly in: number;
}

/** Every linear module of a model, in the order of the forward pass, the output embedding last. */
export const linearModules = (c: ModelConfig): LinearModule[] =>
  allRows(c).flatMap(({ row, path }) =>
    row.kind === 'linear' ? [{ path, role: row.role, out: row.out, in: row.in }] : [],
  );

/** Whether the matrix of a row is that of the embedding. */
export const isTied = (c: ModelConfig, row: Row): boolean =>
  c.tieWordEmbeddings && row.kind === 'linear' && row.role === 'outputEmbedding';

/** Every tensor that a file of a model of this configuration holds, by name, with its shape. */
export function expectedTensors(c: ModelConfig): Map<string, readonly number[]> {
  const tensors = new Map<string, readonly number[]>();
  for (const { row, path } of allRows(c)) {
    if (row.kind === 'vector') tensors.set(`${path}.${row.tensor}`, [row.size]);
    else if (row.kind === 'table') tensors.set(`${path}.weight`, [row.rows, row.cols]);
    else if (!isTied(c, row)) {
      tensors.set(`${path}.weight`, [row.out, row.in]);
      if (row.bias) tensors.set(`${path}.bias`, [row.out]);
    }
  }
  return tensors;
}

/** The paths of the modules whose matrices may be in few bits: linear layers and the token embedding. Other tables, as of positions, stay whole. */
export const packableModules = (c: ModelConfig): string[] => {
  const embedding = embeddingPath(c);
  return allRows(c)
    .filter(({ row, path }) => (row.kind === 'linear' && !isTied(c, row)) || path === embedding)
    .map(({ path }) => path);
};

/** The names of the matrices that stand as [in, out] in Hugging Face's files. */
export const transposedTensors = (c: ModelConfig): Set<string> =>
  new Set(
    allRows(c).flatMap(({ row, path }) =>
      row.kind === 'linear' && row.fanInFanOut ? [`${path}.weight`] : [],
    ),
  );

/** The linear layers of a block, in the order of the forward pass. */
export const linearsOfBlock = (c: ModelConfig, layer: Weights): Linear[] =>
  Object.entries(familyOf(c).layer(c)).flatMap(([key, row]) =>
    row?.kind === 'linear' ? [layer[key] as Linear] : [],
  );

/** What is trained of the weights of a block. */
export function trainedOfBlock(c: ModelConfig, layer: Weights): Parameter[] {
  return Object.entries(familyOf(c).layer(c))
    .flatMap(([key, row]) => {
      if (row?.kind !== 'linear') return (layer[key] as Tensor | undefined) ?? [];
      const { base, baseBias } = layer[key] as Linear;
      return [base.master ?? [], baseBias ?? []].flat();
    })
    .filter((one) => one instanceof Parameter);
}

/** Every linear layer, in the order of the forward pass, the output embedding last. */
export function linearsOf(c: ModelConfig, { layers, head }: ModelWeights): Linear[] {
  return [...layers.flatMap((layer) => linearsOfBlock(c, layer)), head.output];
}

/** What a file of the model holds: vectors, matrices, and linear layers, whose biases are entries of their own. */
export type NamedWeight = { readonly name: string } & (
  | { readonly tensor: Tensor; readonly biasOf?: Linear; readonly replace: (tensor: Tensor) => void }
  | { readonly matrix: FrozenWeight }
  | { readonly linear: Linear }
);

/** The tensors of a row. */
function* named(c: ModelConfig, { key, row, path }: PlacedRow, part: Weights): Generator<NamedWeight> {
  if (row.kind === 'vector')
    yield {
      name: `${path}.${row.tensor}`,
      tensor: part[key] as Tensor,
      replace: (tensor) => void ((part as Record<string, Tensor>)[key] = tensor),
    };
  else if (row.kind === 'table') yield { name: `${path}.weight`, matrix: part[key] as FrozenWeight };
  else if (!isTied(c, row)) {
    const linear = part[key] as Linear;
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

/** Every tensor under its name in a file. A head that shares the embedding's matrix is not listed. */
export function* namedWeights(c: ModelConfig, weights: ModelWeights): Generator<NamedWeight> {
  const { stem, layers, head } = rowsOf(c);
  for (const row of stem) yield* named(c, row, weights.stem);
  for (const [i, rows] of layers.entries()) for (const row of rows) yield* named(c, row, weights.layers[i]!);
  for (const row of head) yield* named(c, row, weights.head);
}

export function disposeWeights(c: ModelConfig, weights: ModelWeights): void {
  for (const entry of namedWeights(c, weights)) {
    if ('tensor' in entry) entry.tensor.dispose();
    else if ('matrix' in entry) entry.matrix.dispose();
    else entry.linear.dispose();
  }
  weights.head.output.dispose(); // a tied one, too, may hold a merged weight
}
