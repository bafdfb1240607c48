/** Scopes that follow the async context: tidy frees tensors, noGrad stops recording. */
import { AsyncLocalStorage } from 'node:async_hooks';
import { check, describe } from '../validate';

/** @internal The key of the scope that frees an object; a field is far cheaper than a WeakMap. */
export const owner = Symbol('owner');

interface Owned {
  dispose(): void;
  /** @internal */
  [owner]?: Scope | null;
}

/** The tensors made inside one tidy(). */
export class Scope {
  readonly owned = new Set<Owned>();
  closed = false;
  constructor(readonly parent: Scope | null) {}

  close(): void {
    this.closed = true;
    for (const item of [...this.owned]) item.dispose();
    this.owned.clear();
  }
}

/** Whether ops are recorded: now; later, when recomputed() runs them a second time; or never. */
type Recording = 'now' | 'later' | 'never';

interface Context {
  readonly scope: Scope | null;
  readonly recording: Recording;
}

const outside: Context = { scope: null, recording: 'now' };
const contexts = new AsyncLocalStorage<Context>();

function current(): Context {
  return contexts.getStore() ?? outside;
}

/** Whether ops are recorded for backward() here. */
export function isRecording(): boolean {
  return current().recording === 'now';
}

/**
 * Whether a gradient of what is computed here may be asked for: recorded now, or computed once more and recorded then. An op that has a
 * shorter form without a gradient chooses by this, so that recomputation gives the same bits.
 */
export function gradientIsWanted(): boolean {
  return current().recording !== 'never';
}

function adopt(item: Owned, from: Scope | null): void {
  let scope = from;
  while (scope?.closed) scope = scope.parent; // work that outlived its tidy()
  if (scope === null) return;
  scope.owned.add(item);
  item[owner] = scope;
}

/** Hands a new tensor to the innermost scope. */
export function track(item: Owned): void {
  const { scope } = current();
  if (scope !== null) adopt(item, scope);
}

/** Takes a tensor out of whatever scope owns it. */
export function untrack(item: Owned): void {
  const scope = item[owner];
  if (!scope) return; // keep() takes objects of the program too, which stay as they are
  scope.owned.delete(item);
  item[owner] = null;
}

/** f(x), with x freed: for a value that only the next op reads. */
export function moved<T extends Owned, R>(x: T, f: (x: T) => R): R {
  const y = f(x);
  x.dispose();
  return y;
}

/** Runs `fn` without recording, its new tensors owned by `scope` (null: by nobody). */
export function runDetached<T>(scope: Scope | null, fn: () => T): T {
  return contexts.run({ scope, recording: 'never' }, fn);
}

/** Runs `fn` without recording; it runs again, recorded, for its gradient. */
export function recordedLater<T>(fn: () => T): T {
  return contexts.run({ scope: current().scope, recording: 'later' }, fn);
}

/** Runs `fn` with recording and frees every tensor that it made. */
export function recordedTemporaries<T>(fn: () => T): T {
  const scope = new Scope(null);
  try {
    return contexts.run({ scope, recording: 'now' }, fn);
  } finally {
    scope.close();
  }
}

/** Runs `fn` without recording and frees every tensor it made. What shall live leaves by alias(). */
export function temporaries<T>(fn: () => T): T {
  const scope = new Scope(null);
  try {
    return runDetached(scope, fn);
  } finally {
    scope.close();
  }
}

/** The tensor that `fn` computes, without recording and owned by nobody; every other tensor that it makes is freed, also where it throws. */
export function computed<T>(fn: () => T): T {
  return runDetached(null, () => tidy(fn));
}

/** Runs `fn` as it is, but its new tensors are owned by nobody. */
export function runUntracked<T>(fn: () => T): T {
  return contexts.run({ scope: null, recording: current().recording }, fn);
}

function isPlain(value: object): boolean {
  const prototype = Object.getPrototypeOf(value) as object | null;
  return prototype === null || Object.getPrototypeOf(prototype) === null; // of any realm
}

/** Moves the tensors that `value` holds, in arrays, maps, sets and plain objects too, to the parent scope. */
function release(value: unknown, scope: Scope, seen = new Set<object>()): void {
  if (typeof value !== 'object' || value === null || seen.has(value)) return;
  seen.add(value);
  if (scope.owned.has(value as Owned)) {
    untrack(value as Owned);
    adopt(value as Owned, scope.parent);
    return;
  }
  if (ArrayBuffer.isView(value)) return;
  const tag = Object.prototype.toString.call(value);
  if (Array.isArray(value) || tag === '[object Set]') {
    for (const item of value as Iterable<unknown>) release(item, scope, seen);
  } else if (tag === '[object Map]') {
    for (const [key, item] of value as Map<unknown, unknown>) {
      release(key, scope, seen);
      release(item, scope, seen);
    }
  } else if (isPlain(value)) {
    for (const item of Object.values(value)) release(item, scope, seen);
  }
}

export function isThenable(value: unknown): value is PromiseLike<unknown> {
  return (
    (typeof value === 'object' || typeof value === 'function') &&
    value !== null &&
    typeof (value as { then?: unknown }).then === 'function'
  );
}

/**
 * Frees the tensors that were made inside `fn` when it ends, or when the promise it returns settles, except
 * those it returns (also inside arrays, objects and maps) and those given to `keep`. Parameters, gradients
 * and optimizer state are never freed by a scope. Scopes follow the async context: overlapping ones do not
 * touch each other.
 *
 * @example
 * const loss = await tidy(async () => {
 *   const loss = layer.forward(x).sub(target).square().mean();
 *   loss.backward();
 *   return loss.item();
 * });
 */
export function tidy<T>(fn: () => T): T {
  check(typeof fn === 'function', 'tidy', () => `expected a function but received ${describe(fn)}`);
  const { scope: parent, recording } = current();
  const scope = new Scope(parent);
  let pending = false;
  try {
    const result = contexts.run({ scope, recording }, fn);
    if (isThenable(result)) {
      pending = true;
      return settle(result, scope) as T;
    }
    release(result, scope);
    return result;
  } finally {
    if (!pending) scope.close();
  }
}

async function settle(result: PromiseLike<unknown>, scope: Scope): Promise<unknown> {
  try {
    const value = await result;
    release(value, scope);
    return value;
  } finally {
    scope.close();
  }
}

/**
 * Takes a tensor out of the tidy() scopes around it: it lives until it is disposed or collected.
 *
 * @example
 * let best: Tensor | undefined;
 * tidy(() => {
 *   best = keep(layer.forward(x));
 * });
 */
export function keep<T extends Owned>(tensor: T): T {
  check(
    typeof (tensor as Partial<Owned> | null)?.dispose === 'function',
    'keep',
    () => `expected a tensor but received ${describe(tensor)}`,
  );
  untrack(tensor);
  return tensor;
}

/**
 * Runs `fn`, sync or async, without recording: what it computes has no gradient, and nothing is kept for one.
 *
 * @example
 * const y = noGrad(() => layer.forward(x));
 */
export function noGrad<T>(fn: () => T): T {
  check(typeof fn === 'function', 'noGrad', () => `expected a function but received ${describe(fn)}`);
  return contexts.run({ scope: current().scope, recording: 'never' }, fn);
}
