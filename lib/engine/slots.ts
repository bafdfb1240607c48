/** The adapters whose rows share a batch: each has a slot of a table, and a row says which slot is its own. */
import { DeltaTable } from '../linear/delta_table';
import type { Linear } from '../linear/linear';
import { entry } from '../native/calls';
import type { Device } from '../native/device';
import type { Adapter } from '../peft/adapter';
import type { RowDeltas } from '../peft/adapter_use';
import {
  fitsTable,
  haveFactors,
  largestRank,
  tableForward,
  tableOperands,
  type TableOperands,
} from '../peft/table_operands';
import type { DType } from '../native/dtype';
import { noGrad, runUntracked } from '../tensor/scope';
import type { Tensor } from '../tensor/tensor';
import { engineStack } from './model';
import type { Request } from './request';

interface Slot {
  readonly adapter: Adapter;
  readonly scale: number;
  /** The version of the adapter where its entries hold what follows from it: factors, or copies of up and down. */
  readonly version: number | undefined;
}

export class AdapterSlots {
  readonly #linears: readonly Linear[];
  readonly #device: Device;
  readonly #dtype: DType;
  readonly #count: number;
  readonly #ids = new WeakMap<Adapter, number>();
  readonly #shares = new WeakMap<Adapter, boolean>();
  #lastId = 0;
  #slots: (Slot | undefined)[] = [];
  #maxRank = 0;
  #table: DeltaTable | undefined;

  /** `dtype`: that of the activations. `count`: how many adapters a batch may have. */
  constructor(linears: readonly Linear[], device: Device, dtype: DType, count: number) {
    this.#linears = linears;
    this.#device = device;
    this.#dtype = dtype;
    this.#count = count;
  }

  /** A number that no other adapter has or will have. */
  idOf(adapter: Adapter): number {
    let id = this.#ids.get(adapter);
    if (id === undefined) this.#ids.set(adapter, (id = ++this.#lastId));
    return id;
  }

  /** Whether rows of this adapter can be in a batch with those of others. */
  shares(adapter: Adapter): boolean {
    let shares = this.#shares.get(adapter);
    if (shares === undefined) this.#shares.set(adapter, (shares = fitsTable(adapter, this.#linears)));
    return shares;
  }

  /** The table that steps read; another one after an adapter of a larger rank came; undefined before the first adapter. */
  get table(): DeltaTable | undefined {
    return this.#table;
  }

  /** The slot of each request whose adapter changes layers; all of them share a batch. */
  assign(requests: readonly Request[]): Map<Request, number> {
    const changing = requests.flatMap((request) => {
      const { adapter } = request.plan;
      return adapter?.changesLayers ? [{ request, adapter }] : [];
    });
    const wanted = new Set(changing.map(({ adapter }) => adapter));
    for (const adapter of wanted) this.#place(adapter, wanted);
    return new Map(changing.map(({ request, adapter }) => [request, this.#slotOf(adapter)]));
  }

  #slotOf(adapter: Adapter): number {
    return this.#slots.findIndex((slot) => slot?.adapter === adapter);
  }

  #place(adapter: Adapter, wanted: ReadonlySet<Adapter>): void {
    const known = this.#slots[this.#slotOf(adapter)];
    const { scale } = adapter;
    if (known?.scale === scale && (known.version === undefined || known.version === adapter.version)) return;
    const operands = this.#operandsOf(adapter);
    this.#makeRoom(largestRank(operands));
    const free = Array.from({ length: this.#count }, (_, i) => i).find((i) => {
      const holder = this.#slots[i]?.adapter;
      return !holder || !wanted.has(holder);
    });
    this.#set(this.#slotOf(adapter) >= 0 ? this.#slotOf(adapter) : free!, adapter, operands);
  }

  /** A gradient is never wanted here, wherever the program called from. */
  #operandsOf(adapter: Adapter): TableOperands {
    return runUntracked(() => noGrad(() => tableOperands(adapter, this.#linears)!));
  }

  #set(slot: number, adapter: Adapter, operands: TableOperands): void {
    const table = this.#table!;
    entry(() => table.set(slot, operands), engineStack);
    const follows = table.dtype !== 'f32' || haveFactors(operands);
    const version = follows ? adapter.version : undefined;
    this.#slots[slot] = { adapter, scale: adapter.scale, version };
  }

  /** Makes a table for this rank where there is none; what an older one held moves to it. */
  #makeRoom(rank: number): void {
    if (this.#table && rank <= this.#maxRank) return;
    this.#maxRank = Math.max(rank, this.#maxRank);
    const table = new DeltaTable(this.#device, this.#linears, {
      slots: this.#count,
      maxRank: this.#maxRank,
      dtype: DeltaTable.dtypeFor(this.#dtype, this.#device),
    });
    this.#table?.dispose();
    this.#table = table;
    const placed = this.#slots;
    this.#slots = [];
    placed.forEach((slot, i) => {
      if (!slot || slot.adapter.disposed) return;
      this.#set(i, slot.adapter, this.#operandsOf(slot.adapter));
    });
  }

  /** The layers of a step whose rows have these slots, [m] i32, −1 for none. */
  rows(slots: Tensor): RowDeltas | undefined {
    const table = this.#table;
    if (!table) return undefined;
    // Adapters that change experts have steps of their own, so that nothing asks for `each`.
    const each = (): never => {
      throw new Error('expected adapters that a table holds');
    };
    return { distinct: [], forward: tableForward(table, this.#linears, slots, 'decode'), each };
  }

  /** Forgets an adapter that is removed. */
  remove(adapter: Adapter): void {
    const slot = this.#slotOf(adapter);
    if (slot < 0) return;
    this.#slots[slot] = undefined;
    this.#table!.set(slot, null);
  }

  /** Frees the table; the next assign() makes another. */
  dispose(): void {
    this.#table?.dispose();
    this.#table = undefined;
    this.#slots = [];
  }
}
