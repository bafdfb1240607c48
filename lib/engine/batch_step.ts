/**
 * One step of the sequences that run: tokens of each go through the model, a row each. The ops of a step are recorded once for each
 * number of rows; what changes between steps lies in a buffer that is written before each run.
 */
import { disposeChanges } from '../linear/expert_module';
import { atOnce } from '../tensor/pace';
import { entry } from '../native/calls';
import { memoryUsage, type Device } from '../native/device';
import type { Past } from '../ops/attention_paged';
import type { AdapterUse } from '../peft/adapter_use';
import { writeBytes } from '../tensor/create';
import { rawEmpty, rawView } from '../tensor/raw';
import { recordProgram, type Program } from '../tensor/program';
import { moved, noGrad, runUntracked, tidy } from '../tensor/scope';
import type { Tensor } from '../tensor/tensor';
import { drawTokens, RecordedSampler, type Draws } from './draw';
import { engineStack, type EngineModel } from './model';
import { pageLength } from './pages';
import { requestsOf, type Request, type Row } from './request';
import type { AdapterSlots } from './slots';
import { layersOf, type Kept } from './states';

const bytesOn = (device: Device): number => memoryUsage().byDevice[device] ?? 0;

interface Recorded {
  readonly program: Program;
  /** [m, vocab], of the last run. */
  readonly logits: Tensor;
  readonly sampler: RecordedSampler;
  /** Of m rows: ids, lengths, slots of adapters, starts in tables of angles, slots of states, page tables, one after the other; i32. */
  readonly input: Tensor;
  /** What is written there. */
  readonly values: Int32Array<ArrayBuffer>;
  /** What all of it takes. */
  readonly bytes: number;
}

/** What a recording depends on beside the number of rows. */
interface Basis {
  /** Pages of the longest sequence that it takes. */
  readonly width: number;
  /** Whatever else is read where it was when the step was recorded. */
  readonly others: readonly unknown[];
}

export class BatchStep {
  readonly #model: EngineModel;
  readonly #kept: Kept;
  readonly #slots: AdapterSlots;
  readonly #own: AdapterUse | undefined;
  readonly #keptSteps: number;
  readonly #recorded = new Map<number, Recorded>();
  #basis: Basis | undefined;

  /** `own`: the adapter of all rows, which is then part of the recording; `keptSteps`: so many recordings stay, those that ran last. */
  constructor(model: EngineModel, kept: Kept, slots: AdapterSlots, keptSteps: number, own?: AdapterUse) {
    this.#keptSteps = keptSteps;
    this.#model = model;
    this.#kept = kept;
    this.#slots = slots;
    this.#own = own;
  }

  /** Enqueues a step. Draw i is that of `order[i]`. */
  run(rows: readonly Row[]): { order: readonly Row[]; draws: Draws } {
    const slots = this.#own ? new Map<Request, number>() : this.#slots.assign(requestsOf(rows));
    const slotOf = ({ request }: Row): number => slots.get(request) ?? -1;
    // Rows with one adapter follow each other, so that they are one product.
    const order = [...rows].sort((a, b) => slotOf(a) - slotOf(b));
    const { program, logits, sampler, input, values } = this.#recordedFor(order);
    const m = order.length;
    const { width } = this.#basis!;
    values.fill(0);
    for (let i = 0; i < m; i++) {
      const { request, offset } = order[i]!;
      const { pages, slot } = request;
      const position = request.computed + offset;
      values[i] = request.tokenAt(position);
      values[m + i] = position + 1;
      values[2 * m + i] = slotOf(order[i]!);
      values[3 * m + i] = this.#model.tableStart?.(request.longest) ?? 0;
      values[4 * m + i] = slot?.number ?? 0;
      for (let page = 0; page < pages.length; page++) values[5 * m + i * width + page] = pages[page]!.number;
    }
    entry(() => {
      writeBytes(input, new Uint8Array(values.buffer));
      sampler.prepare(order);
      program.run();
    }, engineStack);
    return { order, draws: drawTokens(logits, order, sampler) };
  }

  #recordedFor(rows: readonly Row[]): Recorded {
    const pages = Math.max(...rows.map(({ request }) => request.pages.length));
    const basis = this.#basis;
    const others = this.#others();
    if (!basis || basis.width < pages || basis.others.some((value, i) => value !== others[i])) {
      this.dispose();
      // A power of two, so that a growing text is seldom a reason to record again.
      const width = 2 ** Math.ceil(Math.log2(Math.max(16, pages)));
      this.#basis = { width, others };
    }
    const m = rows.length;
    let recorded = this.#recorded.get(m);
    this.#recorded.delete(m);
    if (!recorded) {
      const [oldest] = this.#recorded.keys();
      if (this.#recorded.size >= this.#keptSteps) this.#drop(oldest!);
      recorded = this.#record(m);
    }
    this.#recorded.set(m, recorded);
    return recorded;
  }

  /** What the recordings take. */
  get bytes(): number {
    let bytes = 0;
    for (const recorded of this.#recorded.values()) bytes += recorded.bytes;
    return bytes;
  }

  #others(): readonly unknown[] {
    const adapter = this.#own?.adapter;
    return adapter ? [adapter.version, adapter.scale] : [this.#slots.table];
  }

  /** Has the changes of the adapter compute what they keep for their version: in a recording, each run would compute it again. */
  #prepareOwn(): void {
    for (const linear of this.#model.linears) {
      const applied = this.#own?.adapter?.applied(linear.path);
      if (applied && 'forward' in applied.delta) applied.delta.fused?.(linear, applied.use);
    }
    for (const experts of this.#model.experts) {
      const applied = this.#own?.adapter?.applied(experts.path);
      if (applied) disposeChanges(experts.changes(applied));
    }
  }

  #record(m: number): Recorded {
    const { device } = this.#model;
    const { width } = this.#basis!;
    const layers = layersOf(this.#kept);
    const made: { dispose(): void }[] = [];
    const owned = <T extends { dispose(): void }>(one: T): T => {
      made.push(one);
      return one;
    };
    try {
      return runUntracked(() =>
        noGrad(() => {
          const maxPositions = width * pageLength;
          this.#model.prepare(maxPositions);
          this.#prepareOwn();
          const before = bytesOn(device);
          const input = owned(rawEmpty([m * (5 + width)], 'i32', device));
          const part = (row: number, shape: readonly number[]): Tensor => rawView(input, row * m, shape);
          // One call of the caller: the stack of each op would cost more than the op.
          const program = entry(() =>
            recordProgram(device, () =>
              tidy(() => {
                const past: Past = {
                  layers,
                  pageTable: part(5, [m, width]),
                  lengths: part(1, [m]),
                  slots: this.#kept.slots && part(4, [m]),
                  tableStart: this.#model.tableStart && part(3, [m]),
                  maxPositions,
                  phase: 'decode',
                };
                const use: AdapterUse = {
                  ...(this.#own ?? { adapter: null, rows: this.#slots.rows(part(2, [m])) }),
                  phase: 'decode',
                };
                const hidden = atOnce(this.#model.hiddenStates(part(0, [m, 1]), use, past));
                const rows = moved(hidden, (t) => rawView(t, 0, [m, t.shape[2]!]));
                return [this.#model.logits(rows, use)];
              }),
            ),
          );
          const logits = owned(program).outputs[0]!;
          const values = new Int32Array(input.numel);
          const sampler = new RecordedSampler(logits);
          return { program, logits, sampler, input, values, bytes: bytesOn(device) - before };
        }),
      );
    } catch (error) {
      for (const one of made) one.dispose();
      throw error;
    }
  }

  #drop(m: number): void {
    const { program, sampler, input } = this.#recorded.get(m)!;
    this.#recorded.delete(m);
    program.dispose();
    sampler.dispose();
    input.dispose();
  }

  dispose(): void {
    for (const m of [...this.#recorded.keys()]) this.#drop(m);
    this.#basis = undefined;
  }
}
