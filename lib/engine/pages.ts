/**
 * The memory of keys and values: pages of 64 positions in one pool of each layer, counted by those who refer to them.
 * Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention" (2023).
 */
import { pageSize as pageLength } from '../native/constants';
import { poolShape, type LayerPages, type Past } from '../ops/attention_paged';
import type { EngineLayer, EngineModel } from './model';
import { boundless, partBytes, Pool, type Part, type PoolMemory } from './pool';

export { pageLength };

/** How many pages hold so many positions. */
export const pagesFor = (positions: number): number => Math.ceil(positions / pageLength);

/** What the size of a page depends on, and where it lies. */
type PoolModel = Pick<EngineModel, 'layers' | 'dtype' | 'device'>;

/** A page of all layers. */
export type Page = Part;

/** The keys and the values of a page, of each layer that has pages of its own. */
const shapesOf = (layers: readonly EngineLayer[]): number[][] =>
  layers.flatMap((layer) => {
    if (layer.kind !== 'attention' || layer.keysOf !== undefined) return [];
    const [, ...shape] = poolShape(1, layer.kvHeads, layer.headDim);
    return [shape, shape];
  });

/** Bytes of a page in all layers. */
export const pageBytes = ({ layers, dtype }: Pick<PoolModel, 'layers' | 'dtype'>): number =>
  partBytes({ shapes: shapesOf(layers), dtype });

/** Pages of all layers at once: page p of a sequence is page p in every layer. */
export class PagePool extends Pool {
  readonly #model: PoolModel;

  constructor(model: PoolModel, limitBytes: number, memory: PoolMemory = boundless) {
    const { dtype, device } = model;
    const most = Math.max(0, Math.floor(limitBytes / pageBytes(model)));
    super({ shapes: shapesOf(model.layers), dtype, device, most, first: 8 }, memory);
    this.#model = model;
  }

  /** The pages of each layer; a layer without keys has none. Others when the pool has grown or shrunk. */
  get layers(): Past['layers'] {
    let at = 0;
    const all: Past['layers'][number][] = [];
    for (const layer of this.#model.layers) {
      const own = (): LayerPages => ({ k: this.tensors[at++]!, v: this.tensors[at++]! });
      if (layer.kind === 'state') all.push({ states: {} });
      else all.push(layer.keysOf === undefined ? own() : all[layer.keysOf]!);
    }
    return all;
  }
}
