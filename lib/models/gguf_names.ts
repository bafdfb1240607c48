/** What llama.cpp calls the modules of a model, and the order in which it keeps the rows of q and k. */
import type { ModelConfig } from './config';
import { families } from './families';
import { blockPath, blockTable, EMBEDDING, HEAD, NORM } from './tensor_table';

/** The rows of a matrix in a GGUF file: row i of it is row `order[i]` of Hugging Face's. */
export type RowOrder = Uint32Array;

/** A module of a model in a GGUF file. */
export interface GgufModule {
  /** Without `.weight`. */
  readonly name: string;
  /** Absent: the rows stand as in Hugging Face's files. */
  readonly rows?: RowOrder;
}

/** Heads whose numbers i and headDim/2 + i are turned together become heads whose numbers 2i and 2i + 1 are. */
function pairedRows(heads: number, headDim: number): RowOrder {
  const half = headDim / 2;
  return Uint32Array.from({ length: heads * headDim }, (_, row) => {
    const within = row % headDim;
    return row - within + (within % 2) * half + Math.floor(within / 2);
  });
}

/** Every module of a model that has tensors, by its path. */
export function ggufModules(config: ModelConfig): Map<string, GgufModule> {
  const { block, pairedRows: paired } = families[config.modelType].gguf;
  const orders = new Map<string, RowOrder>();
  if (paired) {
    orders.set('self_attn.q_proj', pairedRows(config.numAttentionHeads, config.headDim));
    orders.set('self_attn.k_proj', pairedRows(config.numKeyValueHeads, config.headDim));
  }
  const modules = new Map<string, GgufModule>([[EMBEDDING, { name: 'token_embd' }]]);
  for (let i = 0; i < config.numHiddenLayers; i++)
    for (const { module } of blockTable(config)) {
      const rows = orders.get(module);
      modules.set(blockPath(i, module), { name: `blk.${i}.${block[module]!}`, ...(rows && { rows }) });
    }
  modules.set(NORM, { name: 'output_norm' });
  modules.set(HEAD, { name: 'output' });
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
