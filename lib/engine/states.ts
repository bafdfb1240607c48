/**
 * What sequences keep between two calls: pages, and where layers keep states a slot for each sequence. A state has as many numbers after a
 * thousand tokens as after one, and is written over by the next ones, so it is copied where another text is to go on from it.
 */
import type { Tensor } from '../tensor/tensor';
import type { LayerStates, Past } from '../ops/attention_paged';
import type { EngineLayer, EngineModel } from './model';
import { PagePool } from './pages';
import { boundless, partBytes, Pool, type Part, type PoolMemory } from './pool';

/** The states of a sequence in all layers. */
export type Slot = Part;

/** What each layer keeps of a sequence, in f32: its name and its shape. */
const statesOfLayer = (layer: EngineLayer): [name: string, shape: readonly number[]][] =>
  layer.kind === 'state' ? Object.entries(layer.states) : [];

const shapesOf = (layers: readonly EngineLayer[]): (readonly number[])[] =>
  layers.flatMap(statesOfLayer).map(([, shape]) => shape);

/** Bytes of a slot in all layers; 0: no layer keeps a state. */
export const slotBytes = (layers: readonly EngineLayer[]): number =>
  partBytes({ shapes: shapesOf(layers), dtype: 'f32' });

/** Slots of all layers at once. */
export class SlotPool extends Pool {
  readonly #layers: readonly EngineLayer[];

  constructor({ layers, device }: Pick<EngineModel, 'layers' | 'device'>, most: number, memory: PoolMemory) {
    super({ shapes: shapesOf(layers), dtype: 'f32', device, most, first: 4 }, memory);
    this.#layers = layers;
  }

  /** Of each layer that keeps states, those of all slots. Others when the pool has grown or shrunk. */
  get layers(): (LayerStates | undefined)[] {
    let at = 0;
    return this.#layers.map((layer) => {
      if (layer.kind !== 'state') return undefined;
      const named = statesOfLayer(layer).map(([name]): [string, Tensor] => [name, this.tensors[at++]!]);
      return { states: Object.fromEntries(named) };
    });
  }
}

/** What sequences keep. */
export interface Kept {
  readonly pages: PagePool;
  /** Absent: no layer keeps a state. */
  readonly slots: SlotPool | undefined;
}

/** For each sequence that makes a token a slot that it writes, and others that keep the states of prompts for later ones. */
export const mostSlots = (maxBatchSize: number): number => 4 * maxBatchSize;

/** The pools of a model within `limitBytes`: slots take up to half of them, and pages what is left. */
export function keptFor(
  model: Pick<EngineModel, 'layers' | 'dtype' | 'device'>,
  limits: { readonly kvCacheBytes: number; readonly maxBatchSize: number },
  memory: PoolMemory = boundless,
): Kept {
  const bytes = slotBytes(model.layers);
  if (bytes === 0) return { pages: new PagePool(model, limits.kvCacheBytes, memory), slots: undefined };
  const half = Math.max(1, Math.floor(limits.kvCacheBytes / 2 / bytes));
  const most = Math.min(half, mostSlots(limits.maxBatchSize));
  return {
    pages: new PagePool(model, limits.kvCacheBytes - most * bytes, memory),
    slots: new SlotPool(model, most, memory),
  };
}

/** What the ops of a call find in each layer. */
export function layersOf({ pages, slots }: Kept): Past['layers'] {
  const states = slots?.layers;
  return states ? pages.layers.map((layer, i) => states[i] ?? layer) : pages.layers;
}

/** Bytes of what somebody refers to, and of what there is memory for. */
export const bytesOf = ({ pages, slots }: Kept): { used: number; capacity: number; states: number } => {
  const bytes = (pool: Pool | undefined, count: 'used' | 'capacity'): number =>
    pool ? pool[count] * pool.partBytes : 0;
  return {
    used: bytes(pages, 'used') + bytes(slots, 'used'),
    capacity: bytes(pages, 'capacity') + bytes(slots, 'capacity'),
    states: bytes(slots, 'used'),
  };
};
