/** The adapters of a batch whose rows have their own. */
import { DeltaTable } from '../../linear/delta_table';
import { forwardGroup, type Linear } from '../../linear/linear';
import type { Device } from '../../native/device';
import { joinRows, splitRows } from '../../ops/rows';
import type { Adapter } from '../../peft/adapter';
import type { AdapterUse, RowDeltas } from '../../peft/adapter_use';
import { largestRank, tableForward, tableOperands } from '../../peft/table_operands';
import { fromBytes } from '../../tensor/create';
import { isRecording, track } from '../../tensor/scope';
import type { Tensor } from '../../tensor/tensor';

/** Neighboring rows of one adapter, and the number that their dropout masks are drawn with. */
interface Run {
  readonly adapter: Adapter | null;
  readonly count: number;
  readonly dropoutForward: number | undefined;
}

export class RowAdapters implements RowDeltas {
  readonly #runs: Run[] = [];
  /** In a call without gradients: all rows of a layer are then one product. */
  #inTable: RowDeltas['forward'] | undefined;

  /** One adapter per row; null: the base alone. `train`: with dropout. */
  constructor(
    readonly adapters: readonly (Adapter | null)[],
    train: boolean,
  ) {
    for (let i = 0; i < adapters.length;) {
      const adapter = adapters[i]!;
      let end = i + 1;
      while (end < adapters.length && adapters[end] === adapter) end++;
      this.#runs.push({ adapter, count: end - i, dropoutForward: adapter?.nextForward(train) });
      i = end;
    }
  }

  /** The adapters, each once. */
  get distinct(): Adapter[] {
    return [...new Set(this.adapters)].filter((adapter) => adapter !== null);
  }

  /**
   * Prepares a call on rows of `length` tokens. Without gradients and whole modules, the changes go into a table, which the current
   * scope frees.
   */
  prepare(linears: readonly Linear[], length: number, device: Device): void {
    const { distinct } = this;
    if (isRecording() && distinct.some(({ trainable }) => trainable)) return;
    if (this.#runs.some(({ dropoutForward }) => dropoutForward !== undefined)) return;
    const changed = linears.filter(({ path }) => distinct.some((adapter) => adapter.delta(path)));
    const operands = distinct.map((adapter) => tableOperands(adapter, changed));
    if (changed.length === 0 || !operands.every((list) => list !== undefined)) return;
    const maxRank = Math.max(...operands.map(largestRank));
    const table = new DeltaTable(device, changed, { slots: distinct.length, maxRank });
    track(table);
    operands.forEach((list, slot) => table.set(slot, list));
    const slots = this.adapters.flatMap((adapter) =>
      Array<number>(length).fill(adapter ? distinct.indexOf(adapter) : -1),
    );
    const ofRows = fromBytes(new Uint8Array(new Int32Array(slots).buffer), 'i32', [slots.length], device);
    this.#inTable = tableForward(table, changed, ofRows);
  }

  each(x: Tensor, f: (part: Tensor, use: AdapterUse) => Tensor): Tensor {
    const parts = splitRows(
      x,
      this.#runs.map(({ count }) => count),
    );
    const results = parts.map((part, i) => f(part, this.#runs[i]!)); // which consumes its part
    const joined = joinRows(results);
    for (const result of results) result.dispose();
    return joined;
  }

  /** x [b, .., in] → y [b, .., out] of each layer. */
  forward(x: Tensor, linears: readonly Linear[]): Tensor[] {
    if (this.#inTable) return this.#inTable(x, linears);
    const { distinct } = this;
    if (!linears.some(({ path }) => distinct.some((adapter) => adapter.delta(path))))
      return forwardGroup(
        x,
        linears.map((linear) => [linear, undefined]),
      );
    const parts = splitRows(
      x,
      this.#runs.map(({ count }) => count),
    );
    const results = this.#runs.map(({ adapter, dropoutForward }, i) =>
      forwardGroup(
        parts[i]!,
        linears.map((linear) => [linear, adapter?.applied(linear.path, dropoutForward)]),
      ),
    );
    const joined = linears.map((_, i) => joinRows(results.map((result) => result[i]!)));
    for (const part of [...parts, ...results.flat()]) part.dispose();
    return joined;
  }
}
