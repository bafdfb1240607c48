/**
 * The tensors of a model, as its family lists them: what a file must hold, loading, saving and disposing all walk these rows. Names are
 * those of Hugging Face files.
 */
import { ExpertModule } from '../../linear/expert_module';
import { Linear } from '../../linear/linear';
import type { ModulePath } from '../../peft/roles';
import { FrozenWeight } from '../../tensor/frozen_weight';
import { Parameter, type Tensor } from '../../tensor/tensor';
import type { ModelConfig } from '../config/model_config';
import { headRow } from '../config/head';
import type { HeadRows, HeadWeights, Row, Rows, StemWeights, Weights } from '../config/rows';
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

/** `prefix`: the path of the module that the rows are in. */
const placed = (rows: Rows, prefix = ''): PlacedRow[] =>
  Object.entries(rows).flatMap(([key, row]) =>
    row ? [{ key, row, path: [prefix, row.module].filter((part) => part !== '').join('.') }] : [],
  );

/** The path of a block. */
export const blockPath = (c: ModelConfig, index: number): string => `${familyOf(c).blocks}.${index}`;

/** What stands behind the blocks: the rows of the family, whose output a head of another kind replaces. */
function headRows(c: ModelConfig): HeadRows {
  const rows = familyOf(c).head(c);
  return c.head ? { ...rows, output: headRow(c.head, c.hiddenSize) } : rows;
}

interface PlacedRows {
  readonly stem: readonly PlacedRow[];
  readonly layers: readonly (readonly PlacedRow[])[];
  readonly head: readonly PlacedRow[];
}

/** Of configurations that were asked for: with experts these are tens of thousands. */
const knownRows = new WeakMap<ModelConfig, PlacedRows>();

/** The rows of each part of a model. */
export function rowsOf(c: ModelConfig): PlacedRows {
  const known = knownRows.get(c);
  if (known) return known;
  const family = familyOf(c);
  const rows = {
    stem: placed(family.stem(c)),
    layers: Array.from({ length: c.numHiddenLayers }, (_, i) => placed(family.layer(c, i), blockPath(c, i))),
    head: placed(headRows(c)),
  };
  knownRows.set(c, rows);
  return rows;
}

/** All of them, in the order of the forward pass. */
function allRows(c: ModelConfig): PlacedRow[] {
  const { stem, layers, head } = rowsOf(c);
  return [...stem, ...layers.flat(), ...head];
}

/** The path of the token embedding. */
export const embeddingPath = (c: ModelConfig): string => familyOf(c).stem(c).embedding.module;
/** The path of the layer that gives the logits of tokens, which a model with a head of another kind does not have. */
export const headPath = (c: ModelConfig): string => familyOf(c).head(c).output.module;

/** A linear module of a model, with the sizes of its matrix. */
export interface LinearModule extends ModulePath {
  readonly out: number;
  readonly in: number;
}

/** Every linear module of a model, in the order of the forward pass, that behind the blocks last. */
export const linearModules = (c: ModelConfig): LinearModule[] =>
  allRows(c).flatMap(({ row, path }) =>
    row.kind === 'linear' ? [{ path, role: row.role, out: row.out, in: row.in }] : [],
  );

/** The parameters of experts of a model, with the sizes of what one expert has of them. */
export function expertStacks(
  c: ModelConfig,
): { readonly path: string; readonly count: number; readonly out: number; readonly in: number }[] {
  const stacks = new Map<string, { path: string; rows: number; experts: Set<string>; in: number }>();
  for (const { row, path } of rowsOf(c).layers.flat()) {
    if (row.kind !== 'expert') continue;
    const own = `${path.slice(0, path.length - row.module.length)}${row.stack}`;
    const stack = stacks.get(own) ?? { path: own, rows: 0, experts: new Set<string>(), in: row.in };
    stacks.set(own, stack);
    stack.rows += row.out;
    stack.experts.add(row.module.slice(0, row.module.lastIndexOf('.')));
  }
  return [...stacks.values()].map(({ path, rows, experts, in: inside }) => ({
    path,
    count: experts.size,
    out: rows / experts.size,
    in: inside,
  }));
}

/** Whether the matrix of a row is that of the embedding. */
export const isTied = (c: ModelConfig, row: Row): boolean =>
  c.tieWordEmbeddings && row.kind === 'linear' && row.role === 'outputEmbedding';

/** Every tensor that a file of a model of this configuration holds, by name, with its shape. */
export function expectedTensors(c: ModelConfig): Map<string, readonly number[]> {
  const tensors = new Map<string, readonly number[]>();
  for (const { row, path } of allRows(c)) {
    if (row.kind === 'vector' || row.kind === 'table') tensors.set(`${path}.${row.tensor}`, row.shape);
    else if (row.kind === 'expert') tensors.set(`${path}.weight`, [row.out, row.in]);
    else if (!isTied(c, row)) {
      tensors.set(`${path}.weight`, [row.out, row.in]);
      if (row.bias) tensors.set(`${path}.bias`, [row.out]);
    }
  }
  return tensors;
}

/**
 * The paths of the modules whose matrices may be in few bits: linear layers, experts and the embeddings of tokens; not those of routers, whose small errors
 * choose other experts, nor of a head of classes, which is small.
 */
export const packableModules = (c: ModelConfig): string[] =>
  allRows(c)
    .filter(
      ({ row }) =>
        (row.kind === 'linear' && row.role !== 'router' && row.role !== 'score' && !isTied(c, row)) ||
        row.kind === 'expert' ||
        (row.kind === 'table' && row.ofTokens),
    )
    .map(({ path }) => path);

/** The paths of the modules of experts. */
export const expertPaths = (c: ModelConfig): string[] =>
  allRows(c).flatMap(({ row, path }) => (row.kind === 'expert' ? [path] : []));

/** The paths of the embeddings of tokens. */
export const tokenTables = (c: ModelConfig): Set<string> =>
  new Set(allRows(c).flatMap(({ row, path }) => (row.kind === 'table' && row.ofTokens ? [path] : [])));

/** The names of the matrices that stand as [in, out] in Hugging Face's files. */
export const transposedTensors = (c: ModelConfig): Set<string> =>
  new Set(
    allRows(c).flatMap(({ row, path }) =>
      row.kind === 'linear' && row.fanInFanOut ? [`${path}.weight`] : [],
    ),
  );

/** The linear layers of a block, in the order of the forward pass. */
export const linearsOfBlock = (layer: Weights): Linear[] =>
  Object.values(layer).filter((weight) => weight instanceof Linear);

/** What is trained of the weights of a block. */
export const trainedOfBlock = (layer: Weights): Parameter[] =>
  Object.values(layer)
    .flatMap((weight) => {
      if (weight instanceof FrozenWeight) return weight.master ?? [];
      if (!(weight instanceof Linear)) return weight instanceof Parameter ? weight : [];
      return [weight.base.master ?? [], weight.baseBias ?? []].flat();
    })
    .filter((one) => one instanceof Parameter);

/** The matrices of the experts of a block. */
export const expertModulesOfBlock = (layer: Weights): ExpertModule[] =>
  Object.values(layer).filter((one) => one instanceof ExpertModule);

/** Those of all blocks. */
export const expertModulesOf = ({ layers }: ModelWeights): ExpertModule[] =>
  layers.flatMap(expertModulesOfBlock);

/** Every linear layer, in the order of the forward pass, that behind the blocks last. */
export const linearsOf = ({ stem, layers, head }: ModelWeights): Linear[] => [
  ...[stem, ...layers].flatMap(linearsOfBlock),
  head.output,
];

/** What a file of the model holds: vectors, matrices, and linear layers, whose biases are entries of their own. */
export type NamedWeight = {
  readonly name: string;
  /** Whether full fine-tuning leaves it as it is. */
  readonly fixed?: boolean;
} & (
  | { readonly tensor: Tensor; readonly biasOf?: Linear; readonly replace: (tensor: Tensor) => void }
  | { readonly matrix: FrozenWeight; readonly shape: readonly number[] }
  | { readonly linear: Linear }
);

/** The tensors of a row. */
function* named(c: ModelConfig, { key, row, path }: PlacedRow, part: Weights): Generator<NamedWeight> {
  if (row.kind === 'vector')
    yield {
      name: `${path}.${row.tensor}`,
      fixed: row.fixed,
      tensor: part[key] as Tensor,
      replace: (tensor) => void ((part as Record<string, Tensor>)[key] = tensor),
    };
  else if (row.kind === 'table')
    yield { name: `${path}.${row.tensor}`, matrix: part[key] as FrozenWeight, shape: row.shape };
  else if (row.kind === 'expert')
    yield { name: `${path}.weight`, matrix: part[key] as FrozenWeight, shape: [row.out, row.in] };
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
  for (const module of expertModulesOf(weights)) module.unmerge();
  for (const entry of namedWeights(c, weights)) {
    if ('tensor' in entry) entry.tensor.dispose();
    else if ('matrix' in entry) entry.matrix.dispose();
    else entry.linear.dispose();
  }
  weights.head.output.dispose(); // a tied one, too, may hold a merged weight
}
