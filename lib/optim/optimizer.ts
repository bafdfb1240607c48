/** What all optimizers have: groups of parameters, one learning rate, and failed updates that are reported. */
import { inspect } from 'node:util';
import type { NativeGuard } from '../native/binding';
import { alreadyReported, binding, entry } from '../native/calls';
import { nativeDevice } from '../native/device';
import { loraError } from '../errors';
import { gradientsFreed } from '../tensor/gradient_memory';
import { runDetached } from '../tensor/scope';
import { prepare, settle, type StateDict, type StateValue } from '../tensor/state';
import { handleOf, type Parameter } from '../tensor/tensor';
import { check, checkInteger, checkNumber, checkOptions, describe, numelOf } from '../validate';
import { GroupState } from './group';
import { checkParameters } from './parameters';
import type { Rule, Settings } from './rule';

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
  readonly #groups: readonly GroupState<S>[];
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
    return this.#groups.reduce((sum, { stateBytes }) => sum + stateBytes, 0);
  }

  #group(params: readonly Parameter[], own: OptionsOf<S>, shared: OptionsOf<S>): GroupState<S> {
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
    const factor = own.lr === undefined ? 1 : lr === 0 ? 0 : own.lr / lr;
    const seed = own.seed ?? shared.seed ?? 0;
    const first = this.#numbered;
    this.#numbered += params.length;
    return new GroupState(this.#rule, params, { factor, seed, settings, first });
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
      for (const param of this.#params())
        if (param.disposed)
          // Only the one that fails gets a name: there may be thousands.
          handleOf(param, this.#rule.op, param.name ? `parameter '${param.name}'` : 'a parameter');
      for (const group of this.#groups) group.step(this.#lr, this.handle);
    });
  }

  /** The parameters of all groups. */
  *#params(): Generator<Parameter, void, void> {
    for (const { params } of this.#groups) yield* params;
  }

  /** Frees the gradients, and clears a failed update that the program has been told of. */
  zeroGrad(): void {
    this.#check('zeroGrad');
    let freed = 0;
    for (const param of this.#params()) {
      if (param.grad) freed += param.numel;
      param.grad?.dispose();
      param.grad = null;
    }
    gradientsFreed(this.#groups[0]!.params[0]!.device, freed);
    // A failure that was not reported yet stays; else a loop of step() and zeroGrad() would lose updates silently.
    if (alreadyReported(() => binding().checkGuard(this.handle))) binding().clearGuard(this.handle);
  }

  /** State, counts and settings; throws when an update failed. */
  stateDict(): StateDict {
    this.#check('stateDict');
    binding().checkGuard(this.handle);
    return { lr: this.#lr, groups: this.#groups.map((group) => group.stateDict()) };
  }

  /** @internal Waits for the updates that are queued. @throws the failure of one, for which stateDict() may come too early. */
  async [settle](): Promise<void> {
    if (this.#disposed) return;
    await binding().synchronize(nativeDevice(this.#groups[0]!.params[0]!.device));
    binding().checkGuard(this.handle);
  }

  /** Takes what stateDict() gave, bit for bit. @throws ERR_ARGUMENT when groups, settings or shapes do not fit. */
  loadStateDict(state: StateDict): void {
    this[prepare](state)();
  }

  /** @internal Checks a state, and gives what takes it. */
  [prepare](state: StateDict): () => void {
    this.#check('loadStateDict');
    const { op } = this.#rule;
    checkOptions(op, state, ['lr', 'groups']);
    const { lr, groups } = state;
    checkNumber(op, 'lr of the state', lr, 0);
    check(
      Array.isArray(groups) && groups.length === this.#groups.length,
      op,
      `expected a state of ${this.#groups.length} groups but received ${describe(groups)}`,
    );
    // Spread, so that the holes of a sparse list are looked at as well.
    const takes = [...(groups as StateValue[])].map((saved, i) => this.#groups[i]!.prepared(saved, i));
    return () => {
      this.#lr = lr;
      for (const take of takes) take();
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
    for (const group of this.#groups) group.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  toString(): string {
    let n = 0;
    for (const { shape } of this.#params()) n += numelOf(shape);
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
