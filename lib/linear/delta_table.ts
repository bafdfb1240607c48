/** The changes of several adapters to the layers of a model, for calls whose rows have adapters of their own. */
import type { NativeChange, NativeTable } from '../native/binding';
import { binding } from '../native/calls';
import { nativeDevice, type Device } from '../native/device';
import type { DType } from '../native/dtype';
import { FrozenWeight } from '../tensor/frozen_weight';
import { rawCast } from '../tensor/raw';
import { temporaries } from '../tensor/scope';
import type { Tensor } from '../tensor/tensor';
import type { AddedOperands } from './delta';

/** A layer that some adapter changes. */
export interface DeltaSite {
  readonly outFeatures: number;
  readonly inFeatures: number;
}

export interface DeltaTableOptions {
  /** How many adapters there is room for. */
  slots: number;
  /** The largest rank that one may have. */
  maxRank: number;
  /** What up and down are kept as; see `dtypeFor`. Default: f32. */
  dtype?: 'f32' | 'bf16';
}

/**
 * Slots × sites on one device. An entry names up, down and the factor of a change and holds them; calls read their values when they run, so
 * that training of them is seen at once. Who computes a factor from them sets the slot again. A table of bf16 keeps copies of up and down,
 * which follow from them likewise: half the bytes to read.
 *
 * @example
 * const table = new DeltaTable('cpu', [layer], { slots: 2, maxRank: 16 });
 * table.set(0, [delta.branch({ scale: 1 })]);
 * loraLinearGroup(x, [{ weight, site: 0 }], { phase: 'decode', rows: { table, slots } }); // slots [m] i32: 0, or −1 for none
 */
export class DeltaTable {
  /** @internal */
  readonly handle: NativeTable;
  readonly dtype: 'f32' | 'bf16';

  /** @throws ERR_UNSUPPORTED for bf16 where the device does not read it; see `dtypeFor`. */
  constructor(
    readonly device: Device,
    sites: readonly DeltaSite[],
    { slots, maxRank, dtype = 'f32' }: DeltaTableOptions,
  ) {
    const shapes = sites.map(({ outFeatures, inFeatures }) => [outFeatures, inFeatures]);
    this.handle = binding().createDeltaTable(nativeDevice(device), shapes, slots, maxRank, dtype);
    this.dtype = dtype;
  }

  /** The dtype of a table for decode steps on activations of `dtype`: bf16 where both allow it. */
  static dtypeFor(dtype: DType, device: Device): 'f32' | 'bf16' {
    return dtype === 'bf16' && binding().readsDeltas(nativeDevice(device), dtype) ? 'bf16' : 'f32';
  }

  /**
   * Puts the changes of an adapter, one per site, into a slot, in the order of the calls on the device; null: none.
   *
   * @throws ERR_ARGUMENT for a slot outside of the table, another shape than that of the site, or a rank above maxRank.
   */
  set(slot: number, changes: readonly (AddedOperands | undefined)[] | null): void {
    const packed: FrozenWeight[] = []; // the table holds them on
    try {
      temporaries(() => {
        const entries = changes?.map((change) => {
          if (!change?.up || !change.down) return null;
          const { up, down, scale = 1, factor } = change;
          return { ...this.#kept(up, down, packed), scale, factor: factor?.handle ?? null };
        });
        binding().setDeltaSlot(this.handle, slot, entries ?? null);
      });
    } finally {
      for (const weight of packed) weight.dispose();
    }
  }

  /** up and down themselves, or copies; a packed one is added to `packed`. */
  #kept(up: Tensor, down: Tensor, packed: FrozenWeight[]): Pick<NativeChange, 'up' | 'down'> {
    if (this.dtype === 'f32') return { up: up.handle, down: down.handle };
    const weight = FrozenWeight.pack(rawCast(up, this.dtype));
    packed.push(weight);
    return { up: weight.handle, down: rawCast(down, this.dtype).handle };
  }

  /** Frees it; legal while calls that read it are queued. */
  dispose(): void {
    binding().release(this.handle);
  }
}
