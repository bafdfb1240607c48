/** AdamW over flat state. */
import { inspect } from 'node:util';
import type { NativeGuard } from '../native/binding';
import { alreadyReported, binding, call, entry } from '../native/calls';
import { nativeDevice } from '../native/device';
import { LoRAError } from '../errors';
import { rawFilled, rawView } from '../tensor/raw';
import { runDetached } from '../tensor/scope';
import { checkSaved, restore, settle, type StateDict, type StateValue } from '../tensor/state';
import { handleOf, type Parameter, type Tensor } from '../tensor/tensor';
import { check, checkInteger, checkNumber, checkOptions, describe, numelOf } from '../validate';
import { checkParameters } from './parameters';

const op = 'AdamW';

/** Settings of all parameters, or of a group. */
export interface AdamWOptions {
  /** The learning rate. Default 1e-3. */
  lr?: number | undefined;
  /** β₁ and β₂, how slowly the moments move. Default [0.9, 0.999]. */
  betas?: readonly [number, number] | undefined;
  /** Keeps the denominator from 0. Default 1e-8. */
  eps?: number | undefined;
  /** Decoupled: p ← p·(1 − lr·weightDecay); default 0.01. */
  weightDecay?: number | undefined;
}

/** Parameters with settings of their own. */
export interface ParameterGroup extends AdamWOptions {
  /** The parameters of the group; one parameter is in one group. */
  params: Iterable<Parameter>;
}

interface Slot {
  readonly param: Parameter;
  readonly m: Tensor;
  readonly v: Tensor;
  /** How many updates this parameter has had. */
  steps: number;
}

interface Group {
  readonly slots: Slot[];
  readonly m: Tensor; // flat, [total]; the slots view it
  readonly v: Tensor;
  /** lr relative to that of the optimizer. */
  factor: number;
  betas: readonly [number, number];
  eps: number;
  weightDecay: number;
}

const settings = ['lr', 'betas', 'eps', 'weightDecay'] as const;

/**
 * Adam with decoupled weight decay, in f32 (Loshchilov & Hutter, "Decoupled Weight Decay Regularization",
 * 2019). Per parameter with a gradient g, at its t-th update:
 *   p ← p·(1 − lr·decay);  m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;
 *   p ← p − lr/(1−β₁ᵗ) · m / (√(v/(1−β₂ᵗ)) + eps)
 * A parameter without a gradient is left as it is. An update whose gradient failed does not run; the next
 * step() or stateDict() then throws that failure, and zeroGrad() clears it.
 *
 * @example
 * const optimizer = new AdamW(layer.parameters(), { lr: 1e-3 });
 * loss.backward();
 * optimizer.step();
 * optimizer.zeroGrad();
 */
export class AdamW {
  readonly #groups: Group[];
  /** @internal Remembers failed updates. An own property that cannot be cloned. */
  readonly handle: NativeGuard;
  #lr: number;
  #disposed = false;

  /**
   * For parameters with one setting, or for groups with settings of their own.
   *
   * @throws ERR_ARGUMENT for an empty list, a parameter that is listed twice, a setting out of range.
   * @example
   * const optimizer = new AdamW([
   *   { params: [layer.up], lr: 1e-3 },
   *   { params: [layer.down], lr: 1e-4, weightDecay: 0 },
   * ]);
   */
  constructor(params: Iterable<Parameter> | readonly ParameterGroup[], options: AdamWOptions = {}) {
    checkOptions(op, options, settings);
    this.#lr = options.lr ?? 1e-3;
    checkSettings(options);
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
    const groups = grouped ? (list as ParameterGroup[]) : [{ params: list as Parameter[] }];
    for (const group of groups) {
      checkOptions(op, group, ['params', ...settings]);
      checkSettings(group);
    }
    const lists = groups.map((group) => checkParameters(op, group.params));
    const all = lists.flat();
    check(new Set(all).size === all.length, op, 'a parameter is in two groups');
    this.handle = binding().createGuard();
    this.#groups = runDetached(null, () =>
      groups.map((group, i) => makeGroup(lists[i]!, group, options, this.#lr)),
    );
  }

  /** The learning rate. Setting it scales that of every group alike, so that a schedule acts on all. */
  get lr(): number {
    return this.#lr;
  }
  set lr(value: number) {
    checkNumber(op, 'lr', value, 0);
    this.#lr = value;
  }

  /**
   * Updates every parameter that has a gradient; one call per group.
   *
   * @throws the failure of an op that an earlier update depended on, until zeroGrad() clears it.
   */
  step(): void {
    this.#check('step');
    entry(() => {
      binding().checkGuard(this.handle);
      for (const { param } of this.#groups.flatMap((group) => group.slots))
        handleOf(param, op, param.name ? `parameter '${param.name}'` : 'a parameter');
      for (const group of this.#groups) this.#stepGroup(group);
    });
  }

  #stepGroup(group: Group): void {
    const { betas, eps, weightDecay } = group;
    // Parameters that were left out before are at another t; usually there is one bucket.
    const buckets = new Map<number, Slot[]>();
    for (const slot of group.slots) {
      const { grad } = slot.param;
      if (grad === null || grad.disposed) continue;
      const bucket = buckets.get(slot.steps);
      if (bucket) bucket.push(slot);
      else buckets.set(slot.steps, [slot]);
    }
    for (const [steps, slots] of buckets) {
      const segments = slots.map(({ param, m, v }) => ({
        param: param.handle,
        grad: param.grad!.handle,
        m: m.handle,
        v: v.handle,
      }));
      const lr = this.#lr * group.factor;
      call().adamw(
        segments,
        { lr, beta1: betas[0], beta2: betas[1], eps, weightDecay, step: steps + 1 },
        this.handle,
      );
      for (const slot of slots) {
        slot.steps++;
        slot.param.version++;
      }
    }
  }

  /** Frees the gradients, and clears a failed update that the program has been told of. */
  zeroGrad(): void {
    this.#check('zeroGrad');
    for (const { param } of this.#groups.flatMap((g) => g.slots)) {
      param.grad?.dispose();
      param.grad = null;
    }
    // A failure that was not reported yet stays; else a loop of step() and zeroGrad() would lose updates silently.
    if (alreadyReported(() => binding().checkGuard(this.handle))) binding().clearGuard(this.handle);
  }

  /** Moments, counts and settings; throws when an update failed. */
  stateDict(): StateDict {
    this.#check('stateDict');
    binding().checkGuard(this.handle);
    return {
      lr: this.#lr,
      groups: this.#groups.map((g) => ({
        factor: g.factor,
        betas: [...g.betas],
        eps: g.eps,
        weightDecay: g.weightDecay,
        steps: g.slots.map((slot) => slot.steps),
        m: g.m.detach(),
        v: g.v.detach(),
      })),
    };
  }

  /** @internal Waits for the updates that are queued. @throws the failure of one, for which stateDict() may come too early. */
  async [settle](): Promise<void> {
    if (this.#disposed) return;
    await binding().synchronize(nativeDevice(this.#groups[0]!.m.device));
    binding().checkGuard(this.handle);
  }

  /** Takes what stateDict() gave, bit for bit. @throws ERR_ARGUMENT when groups or shapes differ. */
  loadStateDict(state: StateDict): void {
    this.#check('loadStateDict');
    checkOptions(op, state, ['lr', 'groups']);
    const { lr, groups } = state;
    checkNumber(op, 'lr of the state', lr, 0);
    check(
      Array.isArray(groups) && groups.length === this.#groups.length,
      op,
      `expected a state of ${this.#groups.length} groups but received ${describe(groups)}`,
    );
    const saved = (groups as Record<string, StateValue>[]).map((s, i) => {
      const group = this.#groups[i]!;
      checkOptions(op, s, ['factor', 'betas', 'eps', 'weightDecay', 'steps', 'm', 'v']);
      const { factor, betas, eps, weightDecay, steps, m, v } = s;
      checkNumber(op, 'factor of the state', factor, 0);
      checkSettings({ betas, eps, weightDecay } as AdamWOptions);
      check(
        Array.isArray(steps) && steps.length === group.slots.length,
        op,
        `expected steps of ${group.slots.length} parameters but received ${describe(steps)}`,
      );
      steps.forEach((n: unknown) => checkInteger(op, 'steps of the state', n));
      checkSaved(op, 'm', group.m.shape, m);
      checkSaved(op, 'v', group.v.shape, v);
      return { factor, betas, eps, weightDecay, steps, m, v } as unknown as Group & { steps: number[] };
    });
    this.#lr = lr;
    saved.forEach((s, i) => {
      const group = this.#groups[i]!;
      group.factor = s.factor;
      group.betas = [s.betas[0], s.betas[1]];
      group.eps = s.eps;
      group.weightDecay = s.weightDecay;
      restore(op, 'm', group.m, s.m);
      restore(op, 'v', group.v, s.v);
      group.slots.forEach((slot, j) => (slot.steps = s.steps[j]!));
    });
  }

  /** Whether dispose() was called. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /** Frees the moments, and keeps the parameters. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const { m, v, slots } of this.#groups) {
      for (const t of [m, v, ...slots.flatMap((slot) => [slot.m, slot.v])]) t.dispose();
    }
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  toString(): string {
    const n = this.#groups.reduce((sum, g) => sum + g.m.numel, 0);
    return `AdamW(lr ${this.#lr}, ${n} parameters in ${this.#groups.length} group${this.#groups.length === 1 ? '' : 's'})`;
  }

  toJSON(): string {
    return this.toString();
  }

  [inspect.custom](): string {
    return this.toString();
  }

  #check(name: string): void {
    if (!this.#disposed) return;
    throw new LoRAError('ERR_DISPOSED', `[${op}] ${name}: the optimizer has been disposed`, { op });
  }
}

function checkSettings({ lr, betas, eps, weightDecay }: AdamWOptions): void {
  if (lr !== undefined) checkNumber(op, 'lr', lr, 0);
  if (eps !== undefined) checkNumber(op, 'eps', eps, 0);
  if (weightDecay !== undefined) checkNumber(op, 'weightDecay', weightDecay, 0);
  if (betas === undefined) return;
  check(
    Array.isArray(betas) &&
      betas.length === 2 &&
      betas.every((b) => typeof b === 'number' && b >= 0 && b < 1),
    op,
    `expected betas to be two numbers of at least 0 and below 1 but received ${describe(betas)}`,
  );
}

function makeGroup(params: readonly Parameter[], own: AdamWOptions, shared: AdamWOptions, lr: number): Group {
  check(params.length > 0, op, 'expected at least one parameter in a group');
  const total = params.reduce((sum, p) => sum + numelOf(p.shape), 0);
  const { device } = params[0]!;
  const [m, v] = [rawFilled([total], 0, 'f32', device), rawFilled([total], 0, 'f32', device)];
  let offset = 0;
  const slots = params.map((param) => {
    const slot = { param, m: rawView(m, offset, param.shape), v: rawView(v, offset, param.shape), steps: 0 };
    offset += param.numel;
    return slot;
  });
  check(
    own.lr === undefined || lr > 0 || own.lr === 0,
    op,
    'expected the lr of the optimizer to be above 0 when a group has its own',
  );
  return {
    slots,
    m,
    v,
    factor: own.lr === undefined ? 1 : lr === 0 ? 0 : own.lr / lr,
    betas: own.betas ?? shared.betas ?? [0.9, 0.999],
    eps: own.eps ?? shared.eps ?? 1e-8,
    weightDecay: own.weightDecay ?? shared.weightDecay ?? 0.01,
  };
}
