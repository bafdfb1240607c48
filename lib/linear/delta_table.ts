/** The changes of several adapters to the layers of a model, for calls whose rows have adapters of their own. */
import type { NativeTable } from '../native/binding';
import { binding } from '../native/calls';
import { nativeDevice, type Device } from '../native/device';
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
}

/**
 * Slots × sites on one device. An entry names A, B and the factor of a change and holds them; calls read their values when they run, so
 * that training of A and B is seen at once. Who computes a factor from them sets the slot again.
 *
 * @example
 * const table = new DeltaTable('cpu', [layer], { slots: 2, maxRank: 16 });
 * table.set(0, [delta.branch({ scale: 1 })]);
 * loraLinearGroup(x, [{ weight, site: 0 }], { phase: 'decode', rows: { table, slots } }); // slots [m] i32: 0, or −1 for none
 */
export class DeltaTable {
  /** @internal */
  readonly handle: NativeTable;

  constructor(
    readonly device: Device,
    sites: readonly DeltaSite[],
    { slots, maxRank }: DeltaTableOptions,
  ) {
    const shapes = sites.map(({ outFeatures, inFeatures }) => [outFeatures, inFeatures]);
    this.handle = binding().createDeltaTable(nativeDevice(device), shapes, slots, maxRank);
  }

  /**
   * Puts the changes of an adapter, one per site, into a slot, in the order of the calls on the device; null: none.
   *
   * @throws ERR_ARGUMENT for a slot outside of the table, another shape than that of the site, or a rank above maxRank.
   */
  set(slot: number, changes: readonly (AddedOperands | undefined)[] | null): void {
    const entries = changes?.map((change) => {
      if (!change?.up || !change.down) return null;
      const { up, down, scale = 1, factor } = change;
      return { up: up.handle, down: down.handle, scale, factor: factor?.handle ?? null };
    });
    binding().setDeltaSlot(this.handle, slot, entries ?? null);
  }

  /** Frees it; legal while calls that read it are queued. */
  dispose(): void {
    binding().release(this.handle);
  }
}
