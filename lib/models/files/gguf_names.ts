/** What llama.cpp calls the modules of a model, and the order in which it keeps the rows of some. */
import { bytesOfFloats, floatsOf } from '../../formats/floats';
import type { ModelConfig } from '../config/model_config';
import type { Row } from '../config/rows';
import { familyOf } from '../families';
import type { RowOrder } from '../families/gguf_layout';
import { rowsOf } from './tensor_table';

/** A module of a model in a GGUF file. */
export interface GgufModule {
  /** Without `.weight`. */
  readonly name: string;
  /** Absent: the rows stand as in Hugging Face's files. */
  readonly rows?: RowOrder;
  /** What is added to the values there; absent: nothing. */
  readonly offset?: number;
}

/** Every module of a model that has tensors, by its path. */
export function ggufModules(config: ModelConfig): Map<string, GgufModule> {
  const { gguf } = familyOf(config);
  const orders = gguf.rows(config);
  const described = (name: string, row: Row): GgufModule => {
    const order = orders[row.module];
    const isNorm = row.kind === 'vector' && row.tensor === 'weight';
    return {
      name,
      ...(order && { rows: order }),
      ...(isNorm && gguf.normOffset !== undefined && { offset: gguf.normOffset }),
    };
  };
  const { stem, layers, head } = rowsOf(config);
  const modules = new Map<string, GgufModule>();
  for (const { path, row } of stem) modules.set(path, described(gguf.names[path]!, row));
  for (const [i, rows] of layers.entries())
    for (const { path, row } of rows)
      modules.set(path, described(`blk.${i}.${gguf.names[row.module]!}`, row));
  for (const { path, row } of head) modules.set(path, described(gguf.names[path]!, row));
  return modules;
}

/** The values of a tensor of floats plus a number, in F32. */
export const shifted = (bytes: Uint8Array, by: number, dtype: 'F32' | 'BF16' | 'F16' = 'F32'): Uint8Array =>
  bytesOfFloats(floatsOf({ dtype, bytes }).map((value) => value + by));

/** The rows of a matrix in another order. `back`: from the order of a GGUF file to Hugging Face's. */
export function reordered(bytes: Uint8Array, order: RowOrder, back: boolean): Uint8Array {
  const width = bytes.length / order.length;
  const moved = new Uint8Array(bytes.length);
  for (const [to, from] of order.entries()) {
    const [source, target] = back ? [to, from] : [from, to];
    moved.set(bytes.subarray(source * width, (source + 1) * width), target * width);
  }
  return moved;
}
