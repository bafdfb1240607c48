/**
 * The adapters that requests name. Those that the server knows by their folders are loaded when they are first asked for; the one that
 * was used longest ago leaves where there are too many, and none leaves while a request uses it.
 */
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { toPath } from '../formats/paths';
import { isHubName } from '../hub/names';
import type { CausalLM } from '../models/causal_lm';
import type { Adapter } from '../peft/adapter';
import { readAdapter } from '../peft/adapter_files';
import { check, suggest } from '../validate';
import { AdapterFolder } from './adapter_folder';
import { ApiError } from './api_error';
import type { HandlerSettings } from './options';

/** An adapter that a request uses, or null for the base, until release() is called. */
export interface ServedUse {
  readonly adapter: Adapter | null;
  /** Says that nobody reads what it is used for, and how that is ended where others wait for an adapter. */
  stalled(end: () => void): void;
  /** Says that it is read again. */
  goesOn(): void;
  release(): void;
}

/** Since when nobody reads what an adapter is used for. */
interface Stall {
  readonly since: number;
  readonly end: () => void;
}

/** An adapter that the server knows by its folder. */
export interface Entry {
  readonly name: string;
  /** As the program, or the request that it came with, has it. */
  readonly path: string;
  /** Within the folder that requests may load from; absent where the program named it. */
  readonly folder?: AdapterFolder;
  /** The requests that use it, or wait for it. */
  readonly uses: Set<{ stall: Stall | undefined }>;
  /** Set while it is in memory, or on its way there. */
  loaded: Promise<Adapter> | undefined;
  /** Set while it is in memory. */
  adapter: Adapter | undefined;
  /** Whether it was taken from the list while requests used it. */
  removed: boolean;
}

/** What /v1/models says of one. */
export interface ServedModel {
  readonly name: string;
  /** The model that it changes; null of the base itself. */
  readonly parent: string | null;
  /** Where it lies. */
  readonly root: string;
}

/** Names that stand in URLs and JSON as they are. */
const servedName = /^[\w.@-][\w.:@/-]{0,255}$/;

/** @throws ERR_ARGUMENT for a name that requests could not give. */
export function checkServedName(op: string, name: string): void {
  check(
    servedName.test(name),
    op,
    `expected names of adapters of letters, digits and ._-:@/ but received '${name.slice(0, 256)}'`,
  );
}

/** Requests may not fill the memory with names. */
const maxEntries = 10_000;

/** An adapter that is wanted is freed of streams that nobody reads after this part of the time that they have otherwise. */
const wantedShare = 1 / 12;

const nothing = (): void => undefined;

/** Of what no request waits for. */
const kept = (adapter: Adapter | null): ServedUse => ({
  adapter,
  stalled: nothing,
  goesOn: nothing,
  release: nothing,
});

type AdapterSettings = Pick<HandlerSettings, 'op' | 'maxAdapters' | 'allowLoadFrom' | 'stallTimeoutMs'>;

export class ServedAdapters {
  readonly #model: CausalLM;
  readonly #op: string;
  readonly #most: number;
  readonly #wantedStallMs: number;
  /** The one that was asked for last is the last one. */
  readonly #entries = new Map<string, Entry>();
  /** Names of adapters that requests have unloaded: they are not looked for in the folder. */
  readonly #unloaded = new Set<string>();
  /** Those that this class loaded, by what they are called in the model: other names than the program gives. */
  readonly #inner = new Map<string, Entry>();
  /** Adapters that are in memory, or on their way there. */
  #resident = 0;
  /** Called when an adapter is no longer used or wanted, or has left. */
  #freed: (() => void)[] = [];
  /** Ends streams that nobody reads while others wait for an adapter. */
  #ending: NodeJS.Timeout | undefined;
  /** How often the files of an adapter were read. */
  loads = 0;

  readonly #folder: AdapterFolder | undefined;

  /** `base`: the name of the model without an adapter; `allowLoadFrom`: the folder that requests may load from. */
  constructor(
    model: CausalLM,
    readonly base: string,
    { op, maxAdapters, allowLoadFrom, stallTimeoutMs }: AdapterSettings,
  ) {
    this.#model = model;
    this.#op = op;
    this.#most = maxAdapters;
    this.#wantedStallMs = stallTimeoutMs * wantedShare;
    if (allowLoadFrom !== undefined) this.#folder = new AdapterFolder(allowLoadFrom);
  }

  /** Whether requests may load adapters. */
  get canLoad(): boolean {
    return this.#folder !== undefined;
  }

  /** Adapters in memory that were loaded because requests named them. */
  get resident(): number {
    return this.#resident;
  }

  /** Makes a folder known by a name. @throws ERR_ARGUMENT for a name that is taken, or that is none. */
  register(name: string, path: string | URL): void {
    const given = toPath(path, this.#op);
    this.#add(name, isHubName(given) && !existsSync(given) ? given : resolve(given));
  }

  /**
   * Makes an adapter of the folder known that requests may load from. It is looked up again whenever it is loaded.
   * @throws 400 for a name that is taken, 403 for a path that leads out of the folder, 404
   */
  async registerFrom(path: string, name: string): Promise<Entry> {
    const { path: found } = await this.#folder!.locate(path);
    if (this.#entries.size >= maxEntries)
      throw new ApiError(400, `there are ${maxEntries} adapters already`, { param: 'lora_name' });
    return this.#add(name, found, this.#folder);
  }

  /** Makes an adapter known whose name is that of a folder within the one that requests may load from; whether there is one. */
  async discover(name: string): Promise<boolean> {
    if (!(await this.#folder?.has(name)) || this.#unloaded.has(name)) return false;
    if (!this.has(name)) await this.registerFrom(name, name);
    return true;
  }

  /** Takes an adapter from the list until a request loads one by that name: to name it as a model is not enough. */
  unload(name: string): void {
    this.unregister(name);
    this.#unloaded.add(name);
    if (this.#unloaded.size > maxEntries) this.#unloaded.delete([...this.#unloaded.keys()][0]!);
  }

  #add(name: string, path: string, folder?: AdapterFolder): Entry {
    checkServedName(this.#op, name);
    check(!this.has(name), this.#op, `expected a new name but there is a model '${name}' already`);
    const entry: Entry = {
      name,
      path,
      folder,
      uses: new Set(),
      loaded: undefined,
      adapter: undefined,
      removed: false,
    };
    this.#entries.set(name, entry);
    return entry;
  }

  /** Whether the program named it, and not a request. */
  isFixed(name: string): boolean {
    const entry = this.#entries.get(name);
    return entry ? entry.folder === undefined : this.has(name);
  }

  /** Takes an adapter from the list: requests that use it go on, others no longer find it. */
  unregister(name: string): void {
    const entry = this.#entries.get(name);
    if (!entry) throw this.unknown(name);
    this.withdraw(entry);
  }

  /** The same of one adapter: its name stays where it has become that of another one. */
  withdraw(entry: Entry): void {
    if (this.#entries.get(entry.name) === entry) this.#entries.delete(entry.name);
    entry.removed = true;
    this.#leaveIfRemoved(entry);
  }

  /** Whether requests may name it. */
  has(name: string): boolean {
    return name === this.base || this.#entries.has(name) || this.#own(name) !== undefined;
  }

  /** An adapter that the program itself has added to the model. */
  #own(name: string): Adapter | undefined {
    return this.#inner.has(name) ? undefined : this.#model.adapters.get(name);
  }

  /** The base, then the adapters in the order of their names. */
  list(): ServedModel[] {
    const parent = this.base;
    const adapters = new Map<string, ServedModel>();
    for (const name of this.#model.adapters.keys())
      if (!this.#inner.has(name)) adapters.set(name, { name, parent, root: name });
    for (const { name, path } of this.#entries.values()) adapters.set(name, { name, parent, root: path });
    const sorted = [...adapters.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
    return [{ name: parent, parent: null, root: this.#model.directory }, ...sorted];
  }

  /** What a request is told that names another one. */
  unknown(name: string): ApiError {
    const near = suggest(
      name,
      this.list().map((model) => model.name),
    );
    const help = near === undefined ? '' : `; did you mean '${near}'?`;
    return new ApiError(404, `the model '${name.slice(0, 256)}' does not exist${help}`, {
      code: 'model_not_found',
      param: 'model',
    });
  }

  /** Holds the adapter of this name where it is in memory; undefined where it has to be loaded first, or is not known. */
  useNow(name: string): ServedUse | undefined {
    if (name === this.base) return kept(null);
    const entry = this.#entries.get(name);
    if (!entry) {
      const adapter = this.#own(name);
      return adapter && kept(adapter); // the program decides how long it stays
    }
    this.#entries.delete(name);
    this.#entries.set(name, entry);
    return entry.adapter && this.#held(entry).use(entry.adapter);
  }

  /**
   * Holds the adapter of this name, which is loaded where it is not in memory.
   * @throws 404; what loading throws; the reason of the signal.
   */
  async use(name: string, signal: AbortSignal): Promise<ServedUse> {
    const use = this.useNow(name);
    if (use) return use;
    const entry = this.#entries.get(name);
    if (!entry) throw this.unknown(name);
    return this.useEntry(entry, signal);
  }

  /** Holds one adapter, whatever its name means by now. @throws what loading throws; the reason of the signal. */
  async useEntry(entry: Entry, signal: AbortSignal): Promise<ServedUse> {
    signal.throwIfAborted();
    const { use, release } = this.#held(entry);
    let leave!: () => void;
    const left = new Promise<never>((_, reject) => {
      leave = () => reject(signal.reason as Error);
    });
    signal.addEventListener('abort', leave, { once: true });
    try {
      return use(await Promise.race([(entry.loaded ??= this.#load(entry)), left]));
    } catch (error) {
      release();
      throw error;
    } finally {
      signal.removeEventListener('abort', leave);
    }
  }

  /** Counts a use of an adapter, which is in memory or on its way there. */
  #held(entry: Entry): { use: (adapter: Adapter) => ServedUse; release: () => void } {
    const one: { stall: Stall | undefined } = { stall: undefined };
    entry.uses.add(one);
    const release = (): void => {
      if (!entry.uses.delete(one)) return;
      this.#leaveIfRemoved(entry);
      this.#wake();
    };
    const use = (adapter: Adapter): ServedUse => ({
      adapter,
      stalled: (end) => (one.stall = { since: performance.now(), end }),
      goesOn: () => (one.stall = undefined),
      release,
    });
    return { use, release };
  }

  async #load(entry: Entry): Promise<Adapter> {
    await this.#room(entry);
    const name = `${entry.name}#${++this.loads}`;
    this.#inner.set(name, entry);
    try {
      const place = await entry.folder?.locate(entry.path);
      const files = await readAdapter(place?.path ?? entry.path);
      await place?.checkUnchanged();
      const { activeAdapter } = this.#model;
      const adapter = await this.#model.loadAdapter(files, { name });
      // The first adapter of a model becomes the active one, which the program did not ask for.
      if (this.#model.activeAdapter === adapter) this.#model.setAdapter(activeAdapter);
      entry.adapter = adapter;
      this.#wake(); // who wanted it may have left meanwhile
      return adapter;
    } catch (error) {
      entry.loaded = undefined;
      this.#gone(name);
      throw error;
    }
  }

  /** Takes room for one more, where an adapter that nobody uses may have to leave. Rejects where nobody waits for it any more. */
  async #room(entry: Entry): Promise<void> {
    try {
      while (this.#resident >= this.#most) {
        if (entry.uses.size === 0) throw new Error('nobody waits for this adapter');
        const idle = [...this.#entries.values()].find(({ uses, adapter }) => adapter && uses.size === 0);
        if (idle) await this.#leave(idle);
        else await this.#whenFreed();
      }
      this.#resident++;
    } catch (error) {
      entry.loaded = undefined;
      throw error;
    }
  }

  #whenFreed(): Promise<void> {
    this.#ending ??= setInterval(() => this.#endStalled(), this.#wantedStallMs / 4).unref();
    return new Promise<void>((resolve) => this.#freed.push(resolve));
  }

  /** Ends the streams of the adapter that has been without a reader for the longest time, where that is long enough. */
  #endStalled(): void {
    if (this.#freed.length === 0) {
      clearInterval(this.#ending);
      this.#ending = undefined;
      return;
    }
    let longest: readonly Stall[] = [];
    let since = performance.now() - this.#wantedStallMs;
    for (const { uses } of this.#inner.values()) {
      const stalls = [...uses].flatMap(({ stall }) => stall ?? []);
      if (stalls.length === 0 || stalls.length < uses.size) continue;
      const last = Math.max(...stalls.map((stall) => stall.since));
      if (last <= since) [since, longest] = [last, stalls];
    }
    for (const { end } of longest) end();
  }

  #leaveIfRemoved(entry: Entry): void {
    // Where the program itself uses it, as only its own name in the model allows, it stays until the model goes.
    if (entry.removed && entry.uses.size === 0 && entry.loaded) this.#leave(entry).catch(nothing);
  }

  async #leave(entry: Entry): Promise<void> {
    const loaded = entry.loaded!;
    entry.loaded = entry.adapter = undefined; // before anybody else takes it
    const adapter = await loaded;
    await this.#model.removeAdapter(adapter.name);
    this.#gone(adapter.name);
  }

  #gone(name: string): void {
    this.#inner.delete(name);
    this.#resident--;
    this.#wake();
  }

  #wake(): void {
    for (const go of this.#freed.splice(0)) go();
  }
}
