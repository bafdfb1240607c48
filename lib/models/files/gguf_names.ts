/** What llama.cpp calls the tensors of a model, the order in which it keeps the rows and columns of some, and the values of others. */
import { LoRAError } from '../../errors';
import { bytesOfFloats, floatsOf } from '../../formats/floats';
import type { GgufBlock } from '../../formats/gguf_types';
import type { ModelConfig } from '../config/model_config';
import type { Row } from '../config/rows';
import { familyOf } from '../families';
import type { ColumnOrder, GgufLayout, RowOrder, StoredValues } from '../families/gguf_layout';
import { rowsOf, type PlacedRow } from './tensor_table';

/** A tensor of a model in a GGUF file. */
export interface GgufPlace {
  readonly name: string;
  /** Absent: the rows stand as in Hugging Face's files. */
  readonly rows?: RowOrder;
  /** And the columns. */
  readonly columns?: ColumnOrder;
  /** Whether a tensor [n, 1, m] of Hugging Face's files is [n, m] there. */
  readonly squeezed?: true;
  /** Absent: the values are the same. */
  readonly values?: StoredValues;
  /** Of an expert: which of those it is whose matrices, or biases, are one tensor there, in their order. */
  readonly expert?: number;
  /** Of the matrices of an expert that stand below one another there: which of how many. */
  readonly part?: { readonly index: number; readonly count: number };
}

/** The ends of the names of a row's tensors. */
const endsOf = (row: Row): readonly string[] => {
  if (row.kind === 'vector' || row.kind === 'table') return [row.tensor];
  return row.kind === 'linear' ? ['weight', 'bias'] : ['weight'];
};

/** Which part of an expert a module is, of those that have one name. */
function partOf(names: GgufLayout['names'], module: string): GgufPlace['part'] {
  const sharing = Object.keys(names).filter((other) => names[other] === names[module]);
  return sharing.length > 1 ? { index: sharing.indexOf(module), count: sharing.length } : undefined;
}

/** Every tensor of a model, and the biases that its linear layers might have, by its name in Hugging Face's files. */
export function ggufTensors(config: ModelConfig): Map<string, GgufPlace> {
  const { gguf } = familyOf(config);
  const rowOrders = gguf.rows(config);
  const columnOrders = gguf.columns?.(config) ?? {};
  const places = new Map<string, GgufPlace>();
  const add = ({ row, path }: PlacedRow, block = ''): void => {
    const ofExpert = row.kind === 'expert' || (row.kind === 'vector' && row.stacked !== undefined);
    const [, before, index, behind] = (ofExpert && /^(.*)\.(\d+)(\..*)$/.exec(row.module)) || [];
    const module = index === undefined ? row.module : `${before}${behind}`;
    const part = index === undefined ? undefined : partOf(gguf.names, module);
    for (const end of endsOf(row)) {
      const own = [module, end].filter((part) => part !== '').join('.');
      const rows = rowOrders[own] ?? rowOrders[module];
      const columns = end === 'weight' ? columnOrders[module] : undefined;
      const values = row.kind === 'vector' ? gguf.values?.(row) : undefined;
      places.set([path, end].join('.'), {
        name: `${block}${gguf.names[own] ?? `${gguf.names[module]!}.${end}`}`,
        ...(rows && { rows }),
        ...(columns && { columns }),
        ...(row.kind === 'vector' && row.shape.length === 3 && { squeezed: true }),
        ...(values && { values }),
        ...(index !== undefined && { expert: Number(index) }),
        ...(part && { part }),
      });
    }
  };
  const { stem, layers, head } = rowsOf(config);
  for (const row of stem) add(row);
  for (const [i, rows] of layers.entries()) for (const row of rows) add(row, `blk.${i}.`);
  for (const row of head) add(row);
  return places;
}

/** The values of a vector of floats as the other side has them, in F32. @throws ERR_FILE for those that it has not. */
export function convertedValues(
  name: string,
  bytes: Uint8Array,
  convert: (value: number) => number,
  dtype: 'F32' | 'BF16' | 'F16' = 'F32',
): Uint8Array {
  const values = floatsOf({ dtype, bytes });
  const result = values.map(convert);
  const wrong = result.findIndex((value, i) => Number.isNaN(value) && !Number.isNaN(values[i]));
  if (wrong >= 0) throw new LoRAError('ERR_FILE', `${name} has ${values[wrong]!}, which no model gives`);
  return bytesOfFloats(result);
}

/** Parts of equal sizes in another order. `back`: from the order of a GGUF file to Hugging Face's. */
export function reordered(bytes: Uint8Array, order: Uint32Array, back: boolean): Uint8Array {
  const moved = new Uint8Array(bytes.length);
  reorderInto(moved, bytes, order, back);
  return moved;
}

function reorderInto(moved: Uint8Array, bytes: Uint8Array, order: Uint32Array, back: boolean): void {
  const width = bytes.length / order.length;
  for (const [to, from] of order.entries()) {
    const [source, target] = back ? [to, from] : [from, to];
    moved.set(bytes.subarray(source * width, (source + 1) * width), target * width);
  }
}

/** The columns of a matrix of so many rows in another order; `back` as above. */
export function reorderedColumns(
  bytes: Uint8Array,
  rows: number,
  { order }: ColumnOrder,
  back: boolean,
): Uint8Array {
  const moved = new Uint8Array(bytes.length);
  const width = bytes.length / rows;
  const rowOf = (of: Uint8Array, row: number): Uint8Array => of.subarray(row * width, (row + 1) * width);
  for (let row = 0; row < rows; row++) reorderInto(rowOf(moved, row), rowOf(bytes, row), order, back);
  return moved;
}

/** Whether the columns of a matrix in such blocks can be put into another order: no block holds columns of two groups. */
export const movesWhole = ({ width }: ColumnOrder, { values }: Pick<GgufBlock, 'values'>): boolean =>
  width % values === 0;
