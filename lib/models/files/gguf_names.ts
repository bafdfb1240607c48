/** What llama.cpp calls the modules of a model, and the order in which it keeps the rows of some. */
import type { ModelConfig } from '../config/model_config';
import { familyOf } from '../families';
import type { RowOrder } from '../families/gguf_layout';
import { rowsOf } from './tensor_table';

/** A module of a model in a GGUF file. */
export interface GgufModule {
  /** Without `.weight`. */
  readonly name: string;
  /** Absent: the rows stand as in Hugging Face's files. */
  readonly rows?: RowOrder;
}

/** Every module of a model that has tensors, by its path. */
export function ggufModules(config: ModelConfig): Map<string, GgufModule> {
  const { gguf } = familyOf(config);
  const orders = gguf.rows(config);
  const { stem, layers, head } = rowsOf(config);
  const modules = new Map<string, GgufModule>();
  for (const { path } of stem) modules.set(path, { name: gguf.names[path]! });
  for (const [i, rows] of layers.entries())
    for (const { path, row } of rows) {
      const order = orders[row.module];
      modules.set(path, { name: `blk.${i}.${gguf.names[row.module]!}`, ...(order && { rows: order }) });
    }
  for (const { path } of head) modules.set(path, { name: gguf.names[path]! });
  return modules;
}

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
