/** Parameters with common settings: their flat state, their updates, and both as a saved state. */
import type { NativeGuard, NativeTensor } from '../native/binding';
import { rawFilled, rawView } from '../tensor/raw';
import { checkSaved, restore, type StateValue } from '../tensor/state';
import { Tensor, type Parameter } from '../tensor/tensor';
import { check, checkInteger, checkNumber, checkOptions, describe, isRecord } from '../validate';
import type { Rule, Settings } from './rule';

interface Slot {
  readonly param: Parameter;
  /** Its number in the optimizer, which the random bits of its rounding depend on. */
  readonly number: number;
  readonly state: ReadonlyMap<string, Tensor>;
  /** The native references of its state, as a call takes them. */
  readonly handles: Record<string, NativeTensor>;
  /** How many updates this parameter has had. */
  steps: number;
}

/** What a group begins with. */
interface GroupOptions<S> {
  /** lr relative to that of the optimizer. */
  readonly factor: number;
  readonly seed: number;
  readonly settings: S;
  /** The number of its first parameter. */
  readonly first: number;
}

export class GroupState<S extends Settings> {
  readonly #rule: Rule<S>;
  readonly #slots: readonly Slot[];
  /** By name, flat, [total]; the slots view them. */
  readonly #state = new Map<string, Tensor>();
  #factor: number;
  /** Of the rounding of its parameters; undefined where all are f32. */
  #seed: number | undefined;
  #settings: S;

  constructor(
    rule: Rule<S>,
    readonly params: readonly Parameter[],
    { factor, seed, settings, first }: GroupOptions<S>,
  ) {
    this.#rule = rule;
    this.#factor = factor;
    this.#seed = params.some(({ dtype }) => dtype === 'bf16') ? seed : undefined;
    this.#settings = settings;
    const slots = params.map((param, i) => {
      const handles: Slot['handles'] = {};
      return { param, number: first + i, state: new Map<string, Tensor>(), handles, steps: 0 };
    });
    for (const { name, dtype, length } of rule.state(settings)) {
      const lengths = params.map(({ numel }) => length(numel));
      const total = lengths.reduce((sum, n) => sum + n, 0);
      const flat = rawFilled([total], 0, dtype, params[0]!.device);
      this.#state.set(name, flat);
      let offset = 0;
      lengths.forEach((n, i) => {
        const { state, handles } = slots[i]!;
        const part = rawView(flat, offset, [n]);
        state.set(name, part);
        handles[name] = part.handle;
        offset += n;
      });
    }
    this.#slots = slots;
  }

  /** Bytes of its state. */
  get stateBytes(): number {
    let bytes = 0;
    for (const { numel } of this.#state.values()) bytes += 4 * numel; // f32 and i32
    return bytes;
  }

  /** Updates every parameter that has a gradient. `lr`: that of the optimizer. */
  step(lr: number, guard: NativeGuard): void {
    // Parameters that were left out before are at another t; usually there is one bucket.
    const buckets = new Map<number, Slot[]>();
    for (const slot of this.#slots) {
      const { grad } = slot.param;
      if (grad === null || grad.disposed) continue;
      const bucket = buckets.get(slot.steps);
      if (bucket) bucket.push(slot);
      else buckets.set(slot.steps, [slot]);
    }
    const seed = this.#seed;
    for (const [steps, slots] of buckets) {
      this.#rule.update({
        segments: slots.map(({ param, number, handles }) => ({
          ...handles,
          param: param.handle,
          grad: param.grad!.handle,
          ...(param.dtype === 'bf16' && { rounding: { seed: seed!, parameter: number, step: steps + 1 } }),
        })),
        settings: this.#settings,
        lr: lr * this.#factor,
        step: steps + 1,
        guard,
      });
      for (const slot of slots) {
        slot.steps++;
        slot.param.version++;
      }
    }
  }

  /** Its part of Optimizer.stateDict(). */
  stateDict(): Record<string, StateValue> {
    return {
      factor: this.#factor,
      ...(this.#seed !== undefined && { seed: this.#seed }),
      ...copied(this.#settings),
      steps: this.#slots.map((slot) => slot.steps),
      ...Object.fromEntries([...this.#state].map(([name, tensor]) => [name, tensor.detach()])),
    };
  }

  /** Checks its part of a saved state, that of group `i`, and gives what takes it. @throws ERR_ARGUMENT for one that does not fit. */
  prepared(saved: StateValue, i: number): () => void {
    const { op, defaults } = this.#rule;
    check(
      isRecord(saved),
      op,
      () => `expected group ${i} of the state to be an object but received ${describe(saved)}`,
    );
    const names = Object.keys(defaults);
    const foreign = Object.keys(saved).filter(
      (name) => saved[name] instanceof Tensor && !this.#state.has(name),
    );
    check(
      foreign.length === 0,
      op,
      `expected a state that keeps ${[...this.#state.keys()].join(', ') || 'no tensors'} but received one that keeps ` +
        `${foreign.join(', ')}: another optimizer, or one with other settings, saved it`,
    );
    const rounds = this.#seed === undefined ? [] : ['seed'];
    checkOptions(op, saved, ['factor', ...rounds, ...names, 'steps', ...this.#state.keys()]);
    const { factor, seed, steps } = saved;
    checkNumber(op, 'factor of the state', factor, 0);
    if (this.#seed !== undefined) checkInteger(op, 'seed of the state', seed);
    const settings = Object.fromEntries(names.map((name) => [name, saved[name]]));
    for (const name of names)
      check(settings[name] !== undefined, op, `expected ${name} of the state but received nothing`);
    this.#rule.check(settings as { readonly [K in keyof S]?: unknown });
    check(
      Array.isArray(steps) && steps.length === this.#slots.length,
      op,
      `expected steps of ${this.#slots.length} parameters but received ${describe(steps)}`,
    );
    for (const n of steps as unknown[]) checkInteger(op, 'steps of the state', n);
    for (const [name, own] of this.#state) {
      const tensor = saved[name];
      check(
        !(tensor instanceof Tensor) || tensor.dtype === own.dtype,
        op,
        `expected ${name} of the state to be ${own.dtype} but received ${describe(tensor)}`,
      );
      checkSaved(op, name, own, tensor);
    }
    const own = copied(settings as S);
    return () => {
      this.#factor = factor;
      this.#seed = seed as number | undefined;
      this.#settings = own;
      for (const [name, tensor] of this.#state) restore(op, name, tensor, saved[name]);
      this.#slots.forEach((slot, j) => (slot.steps = (steps as number[])[j]!));
    };
  }

  /** Frees the state. */
  dispose(): void {
    const views = this.#slots.flatMap(({ state }) => [...state.values()]);
    for (const tensor of [...this.#state.values(), ...views]) tensor.dispose();
  }
}

/** Settings that nobody else can change. */
function copied<S extends Settings>(settings: S): S {
  const copy = Object.entries(settings).map(([name, value]) => [
    name,
    typeof value === 'object' ? [...value] : value,
  ]);
  return Object.fromEntries(copy) as S;
}
