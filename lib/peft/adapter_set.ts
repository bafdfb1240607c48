/** The adapters of a model: which there are, which is active, and which is merged into the base. */
import { loraError } from '../errors';
import type { ExpertModule } from '../linear/expert_module';
import type { Linear, PreparedMerge } from '../linear/linear';
import { binding } from '../native/calls';
import { nativeDevice } from '../native/device';
import { check, describe, suggest } from '../validate';
import { Adapter } from './adapter';

/** The options of {@link CausalLM.addAdapter}. */
export interface AddAdapterOptions {
  /** What calls name it by. Default 'default'. */
  name?: string | undefined;
  /** Decides the initial weights and the masks of dropout. Default 0. */
  seed?: number | undefined;
  /** Makes it the active one although there are others. Default false. */
  activate?: boolean | undefined;
}

/** A name, an adapter of this model, or null for the base alone; undefined is the active one, or what is merged. */
export type AdapterChoice = string | Adapter | null | undefined;

function busy(op: string, message: string): never {
  throw loraError(op, 'ERR_BUSY', message);
}

/** What an adapter may be merged into. */
type Mergeable = Linear | ExpertModule;

/** Puts W' in the place of W in every layer that the adapter changes, in all or in none; returns these layers. */
async function mergeInto(modules: readonly Mergeable[], adapter: Adapter): Promise<Mergeable[]> {
  const fresh = new Map<Mergeable, PreparedMerge>();
  try {
    for (const module of modules) {
      const applied = adapter.applied(module.path);
      if (!applied) continue;
      fresh.set(module, await module.prepareMerge(applied));
      // Not more than a layer is queued: a full queue would make the next call wait, and hold the event loop.
      await binding().synchronize(nativeDevice(module.base.device));
    }
  } catch (error) {
    for (const merged of fresh.values()) merged.dispose();
    throw error;
  }
  for (const merged of fresh.values()) merged.commit(); // in one turn of the event loop
  return [...fresh.keys()];
}

export class AdapterSet {
  readonly all = new Map<string, Adapter>();
  #active: Adapter | null = null;
  #merged: { adapter: Adapter; modules: readonly Mergeable[]; wasActive: boolean } | undefined;
  /** A merge that is under way. */
  #merging = false;
  /** What reads the weights: a training run, a generation, an evaluation, a save. */
  readonly #runs = new Set<{ training: boolean }>();
  #idle: (() => void)[] = [];
  /** Whether the base itself is trained. */
  #baseLocked = false;

  get active(): Adapter | null {
    return this.#active;
  }
  get merged(): Adapter | null {
    return this.#merged?.adapter ?? null;
  }

  /** Throws unless an adapter of this name can be added. */
  checkName(op: string, name: string): void {
    check(
      typeof name === 'string' && name !== '',
      op,
      `expected name to be a non-empty string but received ${describe(name)}`,
    );
    if (this.#baseLocked) busy(op, 'the weights of the model are trained: call freeze() first');
    check(!this.all.has(name), op, `expected a new name but the model already has an adapter '${name}'`);
  }

  add(adapter: Adapter, activate: boolean): void {
    this.all.set(adapter.name, adapter);
    if (activate || this.all.size === 1) this.#active = adapter;
  }

  #lookup(op: string, choice: AdapterChoice): Adapter | null {
    if (choice === undefined) return this.#active;
    if (choice === null) return null;
    if (choice instanceof Adapter) {
      check(
        this.all.get(choice.name) === choice,
        op,
        `expected an adapter of this model but received '${choice.name}', which was removed or belongs to another`,
      );
      return choice;
    }
    const found = this.all.get(choice);
    if (found) return found;
    const names = [...this.all.keys()];
    const near = typeof choice === 'string' ? suggest(choice, names) : undefined;
    const help = near ? `; did you mean '${near}'?` : `; it has ${names.join(', ') || 'none'}`;
    check(false, op, `the model has no adapter ${describe(choice)}${help}`);
  }

  /** One that is named: nothing does not mean the active one here. */
  #named(op: string, name: string | Adapter): Adapter {
    const adapter = name === undefined ? null : this.#lookup(op, name);
    check(adapter, op, `expected the name of an adapter but received ${describe(name)}`);
    return adapter;
  }

  /**
   * The adapter that a call runs with; null: the weights as they are. While one is merged there are no others: an adapter would run on top of
   * the merged one, and the base alone is not there.
   * @throws ERR_ARGUMENT, or ERR_BUSY while the merged state forbids it.
   */
  resolve(op: string, choice: AdapterChoice): Adapter | null {
    const adapter = this.#lookup(op, choice);
    const { merged } = this;
    if (merged === null || (choice === undefined && adapter === null)) return adapter;
    const wanted = adapter === null ? 'the base alone' : `adapter '${adapter.name}'`;
    const why =
      adapter === merged
        ? `${wanted} is merged into the base weights`
        : `${wanted}${choice === undefined ? ', the active one,' : ''} cannot be used while '${merged.name}' is merged into the base weights`;
    busy(op, `${why}: call unmerge() first${this.#active === null ? ', or name no adapter' : ''}`);
  }

  /** @throws where what resolve() gave, while `merged` was merged, has been removed since, or means other weights. */
  checkSince(op: string, adapter: Adapter | null, merged: Adapter | null): void {
    if (adapter) this.resolve(op, adapter);
    else if (merged !== this.merged)
      busy(op, `adapter '${(merged ?? this.merged)!.name}' was ${merged ? 'un' : ''}merged since the call`);
  }

  /** The adapters that are combined: a merged one is part of the weights. */
  resolveForCombining(op: string, choice: string | Adapter): Adapter {
    const adapter = this.#named(op, choice);
    if (adapter === this.merged)
      busy(op, `adapter '${adapter.name}' is merged into the base weights: call unmerge() first`);
    return adapter;
  }

  /** What a further call of the same work names to get what resolve() gave. */
  choiceOf(adapter: Adapter | null): AdapterChoice {
    return adapter ?? (this.#merged ? undefined : null);
  }

  activate(choice: string | Adapter | null): void {
    const adapter = this.#lookup('setAdapter', choice);
    this.checkActivates('setAdapter');
    this.#active = adapter;
  }

  /** @throws ERR_BUSY while an adapter is merged, with which no other one can be active. */
  checkActivates(op: string): void {
    const { merged } = this;
    if (merged)
      busy(
        op,
        `another adapter cannot become the active one while '${merged.name}' is merged into the base weights: call unmerge() first`,
      );
  }

  /**
   * Holds the weights and, unless it is the base alone, an adapter, until the returned function is called.
   * @throws ERR_BUSY while a merge is under way.
   */
  acquire(op: string, adapter: Adapter | null, { training = false } = {}): () => void {
    if (this.#merging) busy(op, 'an adapter is being merged');
    const release = adapter?.acquire();
    const run = { training };
    this.#runs.add(run);
    return () => {
      if (!this.#runs.delete(run)) return;
      release?.();
      this.#settle();
    };
  }

  /**
   * Keeps adapters away while the base is trained, until the returned function is called or unlockBase() has frozen it.
   * @throws ERR_BUSY while there are some, and while anything reads the weights.
   */
  lockBase(op: string): () => void {
    if (this.#baseLocked) busy(op, 'the weights of the model are trained already: call freeze() first');
    const [first] = this.all.keys();
    if (first !== undefined)
      busy(op, `the model has the adapter '${first}': call removeAdapter('${first}') first`);
    this.#checkUnread(op);
    this.#baseLocked = true;
    return () => void (this.#baseLocked = false);
  }

  /** Lets adapters come after `freeze`, but not where that fails. @throws ERR_BUSY while anything reads the weights. */
  unlockBase(op: string, freeze: () => void): void {
    this.#checkUnread(op);
    freeze();
    this.#baseLocked = false;
  }

  #checkUnread(op: string): void {
    if (this.#merging) busy(op, 'an adapter is being merged');
    if (this.#runs.size > 0) busy(op, 'a run or a generation reads the base weights');
  }

  #settle(): void {
    if (this.#runs.size > 0 || this.#merging) return;
    for (const idle of this.#idle.splice(0)) idle();
  }

  /** @throws ERR_BUSY while an adapter is trained. */
  checkNoTraining(op: string): void {
    for (const { training } of this.#runs)
      if (training) busy(op, 'a Trainer trains the model: await its run, or leave its loop');
  }

  /** Waits until nothing reads or changes the weights. */
  async idle(): Promise<void> {
    if (this.#runs.size > 0 || this.#merging) await new Promise<void>((resolve) => this.#idle.push(resolve));
  }

  /** @returns the adapter, which is disposed of. */
  remove(name: string): Adapter {
    const op = 'removeAdapter';
    const adapter = this.#named(op, name);
    if (adapter === this.merged)
      busy(op, `adapter '${name}' is merged into the base weights: call unmerge() first`);
    if (adapter.busy) busy(op, `adapter '${name}' is used by a run or a generation`);
    this.all.delete(adapter.name);
    if (this.#active === adapter) this.#active = null;
    adapter.dispose();
    return adapter;
  }

  async merge(modules: readonly Mergeable[], name: string | Adapter): Promise<void> {
    const op = 'merge';
    if (this.#merged)
      busy(op, `adapter '${this.#merged.adapter.name}' is merged already: call unmerge() first`);
    if (this.#merging) busy(op, 'an adapter is being merged');
    const adapter = this.#named(op, name);
    adapter.checkMergeable(op);
    if (this.#runs.size > 0) busy(op, 'a run or a generation reads the base weights');
    this.#merging = true;
    const release = adapter.acquire();
    try {
      const changed = await mergeInto(modules, adapter);
      const wasActive = this.#active === adapter;
      if (wasActive) this.#active = null;
      this.#merged = { adapter, modules: changed, wasActive };
    } finally {
      release();
      this.#merging = false;
      this.#settle();
    }
  }

  unmerge(): void {
    const op = 'unmerge';
    check(this.#merged, op, 'no adapter is merged');
    if (this.#runs.size > 0) busy(op, 'a run or a generation reads the base weights');
    const { adapter, modules, wasActive } = this.#merged;
    for (const module of modules) module.unmerge();
    this.#merged = undefined;
    if (wasActive) this.#active = adapter;
  }

  /** An adapter whose training would be lost when the base alone is saved. */
  get unsaved(): Adapter | undefined {
    return [...this.all.values()].find((adapter) => adapter.trained && adapter !== this.merged);
  }

  /**
   * The adapter that save() adds to the base; null: none.
   * @throws ERR_ARGUMENT when a trained adapter would be left out, ERR_BUSY while another is merged.
   */
  chooseToMerge(op: string, name: string | undefined): Adapter | null {
    const merge = name === undefined ? null : this.resolve(op, name);
    merge?.checkMergeable(op);
    if (merge && this.merged) busy(op, `'${this.merged.name}' is merged: call unmerge() first`);
    const lost = merge ? undefined : this.unsaved;
    check(
      lost === undefined,
      op,
      `adapter '${lost?.name}' was trained and would not be part of the model: pass { merge: '${lost?.name}' }, call merge('${lost?.name}') first, or save it alone with adapter.save() and removeAdapter('${lost?.name}')`,
    );
    return merge;
  }

  dispose(): void {
    this.#merged = undefined;
    for (const adapter of this.all.values()) adapter.dispose();
    this.all.clear();
    this.#active = null;
  }
}
