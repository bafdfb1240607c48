/** The adapters whose rows share a batch: each has a slot of a table, and a row says which slot is its own. */
import { DeltaTable } from '../linear/delta_table';
import type { Linear } from '../linear/linear';
import type { Device } from '../native/device';
import { loraLinearGroup } from '../ops';
import type { Adapter } from '../peft/adapter';
import { largestRank, tableOperands } from '../peft/table_operands';
import type { Tensor } from '../tensor/tensor';
import type { RowDeltas } from './model';
import type { Request } from './request';

interface Slot {
  readonly adapter: Adapter;
  readonly scale: number;
}

export class AdapterSlots {
  readonly #linears: readonly Linear[];
  readonly #device: Device;
  readonly #count: number;
  readonly #ids = new WeakMap<Adapter, number>();
  readonly #shares = new WeakMap<Adapter, boolean>();
  readonly #sites: ReadonlyMap<string, number>;
  #lastId = 0;
  #slots: (Slot | undefined)[] = [];
  #maxRank = 0;
  #table: DeltaTable | undefined;

  /** `count`: how many adapters a batch may have. */
  constructor(linears: readonly Linear[], device: Device, count: number) {
    this.#linears = linears;
    this.#device = device;
    this.#count = count;
    this.#sites = new Map(linears.map(({ path }, site) => [path, site]));
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
    if (shares === undefined)
      this.#shares.set(adapter, (shares = tableOperands(adapter, this.#linears) !== undefined));
    return shares;
  }

  /** The table that steps read; another one after an adapter of a larger rank came; undefined before the first adapter. */
  get table(): DeltaTable | undefined {
    return this.#table;
  }

  /** The slot of each request that has an adapter; all of them share a batch. */
  assign(requests: readonly Request[]): Map<Request, number> {
    const wanted = new Set(requests.flatMap(({ plan }) => plan.adapter ?? []));
    for (const adapter of wanted) this.#place(adapter, wanted);
    const slots = new Map<Request, number>();
    for (const request of requests) {
      const { adapter } = request.plan;
      if (adapter) slots.set(request, this.#slotOf(adapter));
    }
    return slots;
  }

  #slotOf(adapter: Adapter): number {
    return this.#slots.findIndex((slot) => slot?.adapter === adapter);
  }

  #place(adapter: Adapter, wanted: ReadonlySet<Adapter>): void {
    const known = this.#slotOf(adapter);
    if (known >= 0 && this.#slots[known]!.scale === adapter.scale) return;
    const operands = tableOperands(adapter, this.#linears)!;
    this.#makeRoom(largestRank(operands));
    const free = Array.from({ length: this.#count }, (_, i) => i).find((i) => {
      const holder = this.#slots[i]?.adapter;
      return !holder || !wanted.has(holder);
    });
    const slot = this.#slotOf(adapter) >= 0 ? this.#slotOf(adapter) : free!;
    this.#table!.set(slot, operands);
    this.#slots[slot] = { adapter, scale: adapter.scale };
  }

  /** Makes a table for this rank where there is none; what an older one held moves to it. */
  #makeRoom(rank: number): void {
    if (this.#table && rank <= this.#maxRank) return;
    this.#maxRank = Math.max(rank, this.#maxRank);
    const table = new DeltaTable(this.#device, this.#linears, {
      slots: this.#count,
      maxRank: this.#maxRank,
    });
    this.#table?.dispose();
    this.#table = table;
    const placed = this.#slots;
    this.#slots = [];
    placed.forEach((slot, i) => {
      if (!slot || slot.adapter.disposed) return;
      table.set(i, tableOperands(slot.adapter, this.#linears)!);
      this.#slots[i] = { adapter: slot.adapter, scale: slot.adapter.scale };
    });
  }

  /** The layers of a step whose rows have these slots, [m] i32, −1 for none. */
  rows(slots: Tensor): RowDeltas | undefined {
    const table = this.#table;
    if (!table) return undefined;
    return {
      distinct: [],
      forward: (x, linears) =>
        loraLinearGroup(
          x,
          linears.map(({ path, weight, bias }) => ({ weight, bias, site: this.#sites.get(path) })),
          { phase: 'decode', rows: { table, slots } },
        ),
    };
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
