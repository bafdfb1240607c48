/** What all optimizers have: groups of parameters, flat state, and failed updates that are reported. */
import { inspect } from 'node:util';
import type { NativeGuard, NativeSegment, NativeTensor } from '../native/binding';
import { alreadyReported, binding, entry } from '../native/calls';
import { nativeDevice } from '../native/device';
import { loraError } from '../errors';
import { gradientsFreed } from '../tensor/gradient_memory';
import { rawFilled, rawView } from '../tensor/raw';
import { runDetached } from '../tensor/scope';
import { checkSaved, prepare, restore, settle, type StateDict, type StateValue } from '../tensor/state';
import type { DType } from '../native/dtype';
import { handleOf, Tensor, type Parameter } from '../tensor/tensor';
import { check, checkInteger, checkNumber, checkOptions, describe, isRecord, numelOf } from '../validate';
import { checkParameters } from './parameters';

/** Settings of all parameters, or of a group. */
export interface OptimizerOptions {
  /** The learning rate. Default 1e-3. */
  lr?: number | undefined;
  /** Of the stochastic rounding of parameters of bf16, which `trainAll({ stochasticRounding: true })` gives. Default 0. */
  seed?: number | undefined;
}

/** Parameters with settings of their own. */
export interface OptimizerGroup {
  /** The parameters of the group; one parameter is in one group. */
  params: Iterable<Parameter>;
}

/** The values of settings beside lr, by name. */
export type Settings = Readonly<Record<string, number | boolean | readonly number[]>>;

/** Parameters that one call of a native op updates: they have had the same number of updates. */
export interface Update<S extends Settings, State extends string = string> {
  /** Each parameter with its gradient and its state, by the names of `Rule.state`. */
  readonly segments: readonly NativeSegment<State>[];
  readonly settings: S;
  readonly lr: number;
  /** Which update of these parameters it is, from 1. */
  readonly step: number;
  /** Remembers a failure, after which nothing has changed. */
  readonly guard: NativeGuard;
}

/** A tensor that is kept for each parameter, zero at first. */
export interface StateTensor<Name extends string = string> {
  readonly name: Name;
  readonly dtype: DType;
  /** How many elements it has for a parameter of `numel`. */
  readonly length: (numel: number) => number;
}

/** State tensors of f32, an element for each of the parameter's. */
export const perElement = <Name extends string>(...names: readonly Name[]): StateTensor<Name>[] =>
  names.map((name) => ({ name, dtype: 'f32', length: (numel) => numel }));

/** What tells one optimizer from another. */
export interface Rule<S extends Settings, State extends string = string> {
  readonly op: string;
  /** The settings beside lr, with their defaults. */
  readonly defaults: S;
  /** Checks settings that are given; those of a saved state, too. */
  check(settings: { readonly [K in keyof S]?: unknown }): void;
  state(settings: S): readonly StateTensor<State>[];
  update(update: Update<S, State>): void;
}

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

interface Group<S> {
  readonly slots: readonly Slot[];
  /** By name, flat, [total]; the slots view them. */
  readonly state: ReadonlyMap<string, Tensor>;
  /** lr relative to that of the optimizer. */
  factor: number;
  /** Of the rounding of its parameters; undefined where all are f32. */
  seed: number | undefined;
  settings: S;
}

type OptionsOf<S> = OptimizerOptions & { readonly [K in keyof S]?: S[K] | undefined };

/**
 * The base of {@link AdamW}, {@link AdamW8bit}, {@link SGD} and {@link Lion}. A parameter without a gradient is left as it is. An update whose
 * gradient failed does not run; the next step() or stateDict() then throws that failure, and zeroGrad() clears it.
 *
 * @example
 * const optimizer: Optimizer = new SGD(layer.parameters(), { lr: 0.1, momentum: 0.9 });
 */
export abstract class Optimizer<S extends Settings = Settings> {
  readonly #rule: Rule<S>;
  readonly #groups: Group<S>[];
  /** @internal Remembers failed updates. An own property that cannot be cloned. */
  readonly handle: NativeGuard;
  #lr: number;
  #numbered = 0;
  #disposed = false;

  /** @internal */
  constructor(
    rule: Rule<S>,
    params: Iterable<Parameter> | readonly (OptimizerGroup & OptionsOf<S>)[],
    options: OptionsOf<S>,
  ) {
    this.#rule = rule;
    const { op } = rule;
    const names = ['lr', 'seed', ...Object.keys(rule.defaults)];
    checkOptions(op, options, names);
    this.#lr = options.lr ?? 1e-3;
    this.#checkSettings(options);
    const iterable = typeof params === 'object' && params !== null && Symbol.iterator in params;
    const has = typeof (params as { parameters?: unknown } | null | undefined)?.parameters === 'function';
    check(
      iterable,
      op,
      `expected a list of parameters but received ${describe(params)}${has ? ': pass its parameters()' : ''}`,
    );
    const list = [...params];
    check(list.length > 0, op, `expected at least one parameter but received ${describe(params)}`);
    const grouped = list.some((item) => typeof item === 'object' && item !== null && 'params' in item);
    const groups = (grouped ? list : [{ params: list }]) as (OptimizerGroup & OptionsOf<S>)[];
    for (const group of groups) {
      checkOptions(op, group, ['params', ...names]);
      this.#checkSettings(group);
    }
    const lists = groups.map((group) => checkParameters(op, group.params));
    const all = lists.flat();
    check(new Set(all).size === all.length, op, 'a parameter is in two groups');
    this.handle = binding().createGuard();
    this.#groups = entry(() =>
      runDetached(null, () => groups.map((group, i) => this.#group(lists[i]!, group, options))),
    );
  }

  /** @internal Bytes of its state. */
  get stateBytes(): number {
    let bytes = 0;
    for (const { state } of this.#groups) for (const { numel } of state.values()) bytes += 4 * numel; // f32 and i32
    return bytes;
  }

  #group(params: readonly Parameter[], own: OptionsOf<S>, shared: OptionsOf<S>): Group<S> {
    const { op, defaults } = this.#rule;
    check(params.length > 0, op, 'expected at least one parameter in a group');
    const lr = this.#lr;
    check(
      own.lr === undefined || lr > 0 || own.lr === 0,
      op,
      'expected the lr of the optimizer to be above 0 when a group has its own',
    );
    const settings = Object.fromEntries(
      Object.entries(defaults).map(([name, value]) => [name, own[name] ?? shared[name] ?? value]),
    ) as S;
    const state = new Map<string, Tensor>();
    const slots = params.map((param) => {
      const handles: Slot['handles'] = {};
      return { param, number: this.#numbered++, state: new Map<string, Tensor>(), handles, steps: 0 };
    });
    for (const { name, dtype, length } of this.#rule.state(settings)) {
      const lengths = params.map(({ numel }) => length(numel));
      const total = lengths.reduce((sum, n) => sum + n, 0);
      const flat = rawFilled([total], 0, dtype, params[0]!.device);
      state.set(name, flat);
      let offset = 0;
      lengths.forEach((n, i) => {
        const { state: own, handles } = slots[i]!;
        const part = rawView(flat, offset, [n]);
        own.set(name, part);
        handles[name] = part.handle;
        offset += n;
      });
    }
    const rounded = params.some((param) => param.dtype === 'bf16');
    return {
      slots,
      state,
      factor: own.lr === undefined ? 1 : lr === 0 ? 0 : own.lr / lr,
      seed: rounded ? (own.seed ?? shared.seed ?? 0) : undefined,
      settings,
    };
  }

  #checkSettings({ lr, seed, ...settings }: OptionsOf<S>): void {
    if (lr !== undefined) checkNumber(this.#rule.op, 'lr', lr, 0);
    if (seed !== undefined) checkInteger(this.#rule.op, 'seed', seed);
    this.#rule.check(settings as { readonly [K in keyof S]?: unknown });
  }

  /** @internal The name in messages and in the settings of a run. */
  get kind(): string {
    return this.#rule.op;
  }

  /** The learning rate. Setting it scales that of every group alike, so that a schedule acts on all. */
  get lr(): number {
    return this.#lr;
  }
  set lr(value: number) {
    checkNumber(this.#rule.op, 'lr', value, 0);
    this.#lr = value;
  }

  /**
   * Updates every parameter that has a gradient.
   *
   * @throws the failure of an op that an earlier update depended on, until zeroGrad() clears it.
   */
  step(): void {
    this.#check('step');
    entry(() => {
      binding().checkGuard(this.handle);
      for (const { param } of this.#slots())
        if (param.disposed)
          // Only the one that fails gets a name: there may be thousands.
          handleOf(param, this.#rule.op, param.name ? `parameter '${param.name}'` : 'a parameter');
      for (const group of this.#groups) this.#stepGroup(group);
    });
  }

  /** The slots of all groups. */
  *#slots(): Generator<Slot, void, void> {
    for (const { slots } of this.#groups) yield* slots;
  }

  #stepGroup({ slots: all, settings, factor, seed }: Group<S>): void {
    // Parameters that were left out before are at another t; usually there is one bucket.
    const buckets = new Map<number, Slot[]>();
    for (const slot of all) {
      const { grad } = slot.param;
      if (grad === null || grad.disposed) continue;
      const bucket = buckets.get(slot.steps);
      if (bucket) bucket.push(slot);
      else buckets.set(slot.steps, [slot]);
    }
    for (const [steps, slots] of buckets) {
      this.#rule.update({
        segments: slots.map(({ param, number, handles }) => ({
          ...handles,
          param: param.handle,
          grad: param.grad!.handle,
          ...(param.dtype === 'bf16' && { rounding: { seed: seed!, parameter: number, step: steps + 1 } }),
        })),
        settings,
        lr: this.#lr * factor,
        step: steps + 1,
        guard: this.handle,
      });
      for (const slot of slots) {
        slot.steps++;
        slot.param.version++;
      }
    }
  }

  /** Frees the gradients, and clears a failed update that the program has been told of. */
  zeroGrad(): void {
    this.#check('zeroGrad');
    let freed = 0;
    for (const { param } of this.#slots()) {
      if (param.grad) freed += param.numel;
      param.grad?.dispose();
      param.grad = null;
    }
    gradientsFreed(this.#groups[0]!.slots[0]!.param.device, freed);
    // A failure that was not reported yet stays; else a loop of step() and zeroGrad() would lose updates silently.
    if (alreadyReported(() => binding().checkGuard(this.handle))) binding().clearGuard(this.handle);
  }

  /** State, counts and settings; throws when an update failed. */
  stateDict(): StateDict {
    this.#check('stateDict');
    binding().checkGuard(this.handle);
    return {
      lr: this.#lr,
      groups: this.#groups.map(({ factor, seed, settings, slots, state }) => ({
        factor,
        ...(seed !== undefined && { seed }),
        ...copied(settings),
        steps: slots.map((slot) => slot.steps),
        ...Object.fromEntries([...state].map(([name, tensor]) => [name, tensor.detach()])),
      })),
    };
  }

  /** @internal Waits for the updates that are queued. @throws the failure of one, for which stateDict() may come too early. */
  async [settle](): Promise<void> {
    if (this.#disposed) return;
    await binding().synchronize(nativeDevice(this.#groups[0]!.slots[0]!.param.device));
    binding().checkGuard(this.handle);
  }

  /** Takes what stateDict() gave, bit for bit. @throws ERR_ARGUMENT when groups, settings or shapes do not fit. */
  loadStateDict(state: StateDict): void {
    this[prepare](state)();
  }

  /** @internal Checks a state, and gives what takes it. */
  [prepare](state: StateDict): () => void {
    this.#check('loadStateDict');
    const { op, defaults } = this.#rule;
    checkOptions(op, state, ['lr', 'groups']);
    const { lr, groups } = state;
    checkNumber(op, 'lr of the state', lr, 0);
    check(
      Array.isArray(groups) && groups.length === this.#groups.length,
      op,
      `expected a state of ${this.#groups.length} groups but received ${describe(groups)}`,
    );
    // Spread, so that the holes of a sparse list are looked at as well.
    const saved = [...(groups as Record<string, StateValue>[])].map((s, i) => {
      const group = this.#groups[i]!;
      check(
        isRecord(s),
        op,
        () => `expected group ${i} of the state to be an object but received ${describe(s)}`,
      );
      const names = Object.keys(defaults);
      const foreign = Object.keys(s).filter((name) => s[name] instanceof Tensor && !group.state.has(name));
      check(
        foreign.length === 0,
        op,
        `expected a state that keeps ${[...group.state.keys()].join(', ') || 'no tensors'} but received one that keeps ` +
          `${foreign.join(', ')}: another optimizer, or one with other settings, saved it`,
      );
      const rounds = group.seed === undefined ? [] : ['seed'];
      checkOptions(op, s, ['factor', ...rounds, ...names, 'steps', ...group.state.keys()]);
      const { factor, seed, steps } = s;
      checkNumber(op, 'factor of the state', factor, 0);
      if (group.seed !== undefined) checkInteger(op, 'seed of the state', seed);
      const settings = Object.fromEntries(names.map((name) => [name, s[name]]));
      for (const name of names)
        check(settings[name] !== undefined, op, `expected ${name} of the state but received nothing`);
      this.#rule.check(settings as { readonly [K in keyof S]?: unknown });
      check(
        Array.isArray(steps) && steps.length === group.slots.length,
        op,
        `expected steps of ${group.slots.length} parameters but received ${describe(steps)}`,
      );
      for (const n of steps as unknown[]) checkInteger(op, 'steps of the state', n);
      for (const [name, own] of group.state) {
        const tensor = s[name];
        check(
          !(tensor instanceof Tensor) || tensor.dtype === own.dtype,
          op,
          `expected ${name} of the state to be ${own.dtype} but received ${describe(tensor)}`,
        );
        checkSaved(op, name, own, tensor);
      }
      return {
        factor,
        seed: seed as number | undefined,
        settings: copied(settings as S),
        steps: steps as number[],
        tensors: s,
      };
    });
    return () => {
      this.#lr = lr;
      saved.forEach(({ factor, seed, settings, steps, tensors }, i) => {
        const group = this.#groups[i]!;
        group.factor = factor;
        group.seed = seed;
        group.settings = settings;
        for (const [name, tensor] of group.state) restore(op, name, tensor, tensors[name]);
        group.slots.forEach((slot, j) => (slot.steps = steps[j]!));
      });
    };
  }

  /** Whether dispose() was called. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /** Frees the state, and keeps the parameters. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const { state, slots } of this.#groups)
      for (const tensor of [...state.values(), ...slots.flatMap((slot) => [...slot.state.values()])])
        tensor.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  toString(): string {
    let n = 0;
    for (const { param } of this.#slots()) n += numelOf(param.shape);
    const groups = this.#groups.length;
    return `${this.#rule.op}(lr ${this.#lr}, ${n} parameters in ${groups} group${groups === 1 ? '' : 's'})`;
  }

  toJSON(): string {
    return this.toString();
  }

  [inspect.custom](): string {
    return this.toString();
  }

  #check(name: string): void {
    if (!this.#disposed) return;
    const { op } = this.#rule;
    throw loraError(op, 'ERR_DISPOSED', `${name}: the optimizer has been disposed`);
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
