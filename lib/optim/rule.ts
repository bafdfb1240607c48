/** What an optimizer is beside all that optimizers have: its settings, the state of a parameter, and the native op of its update. */
import type { NativeGuard, NativeSegment } from '../native/binding';
import type { DType } from '../native/dtype';

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
