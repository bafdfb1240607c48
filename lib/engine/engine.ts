/**
 * Generates for many requests at once. One loop per model: in each turn it enqueues a part of a prompt and one step for all
 * sequences that run, hands out the tokens of the step before while the device computes, and waits for those of this one.
 */
import { isOutOfMemory, loraError } from '../errors';
import { threadSetting } from '../native/device';
import { defaultsOf, engineOptions } from '../options/serving';
import type { Adapter } from '../peft/adapter';
import type { AdapterUse } from '../peft/adapter_use';
import { check, checkInteger, checkOptions } from '../validate';
import { BatchStep } from './batch_step';
import { drawTokens, noDraws, type Draws } from './draw';
import type { EngineModel } from './model';
import { pageLength, pagesFor } from './pages';
import { prefill } from './prefill';
import { PrefixCache } from './prefixes';
import { Request, requestsOf, type RequestPlan, type Row } from './request';
import { patienceMs, Scheduler, tooLarge, type Chunk } from './scheduler';
import { AdapterSlots } from './slots';
import { propose, whyNoSpeculation } from './speculation';
import { bytesOf, keptFor, type Kept } from './states';
import { WorkingMemory } from './working_memory';

export const defaultLimits: Readonly<EngineLimits> = defaultsOf(engineOptions);

/** The options of {@link CausalLM.configureEngine}. */
export interface EngineOptions {
  /** Maximum number of sequences that generate a token in one step. Default 16. */
  maxBatchSize?: number | undefined;
  /** Maximum number of waiting requests; one more fails with ERR_BUSY. Default 256. */
  maxQueued?: number | undefined;
  /** Maximum bytes of keys, values and states, of all requests and of those cached for later ones. Default 1 GiB. */
  kvCacheBytes?: number | undefined;
  /** Maximum tokens of a prompt that are processed between two steps of the others; of a model whose layers keep states in multiples of 64. Default 256. */
  prefillChunk?: number | undefined;
}

/** The bounds of an engine. */
export type EngineLimits = { -readonly [Name in keyof EngineOptions]-?: number };

/** Checks bounds and fills in the defaults. */
export function engineLimits(options: EngineOptions): EngineLimits {
  const op = 'configureEngine';
  checkOptions(op, options, Object.keys(defaultLimits));
  const limits = { ...defaultLimits };
  for (const name of Object.keys(defaultLimits) as (keyof EngineLimits)[]) {
    const value = options[name];
    if (value === undefined) continue;
    checkInteger(op, name, value);
    check(value >= 1, op, `expected ${name} of at least 1 but received ${value}`);
    limits[name] = value;
  }
  return limits;
}

/** What an engine does. */
export interface EngineStats {
  /** Running requests. */
  running: number;
  /** Waiting requests. */
  waiting: number;
  /** Bytes of keys, values and states in use, including those cached for later requests. */
  kvCacheBytes: number;
  /** Bytes of keys, values and states for which memory is allocated now. */
  kvCacheCapacity: number;
  /** Of kvCacheBytes, those of states: a model with layers that are not attention has one for each text, and others at the ends of prompts. */
  stateBytes: number;
  /** Maximum tokens of a prompt and its text together that fit into kvCacheBytes; a request for more is refused. */
  maxTokens: number;
  /** How many requests found the beginning of their prompt in the cache. */
  prefixHits: number;
  /** How many tokens these beginnings had in total. */
  cachedTokens: number;
  /** How often a request lost its memory to another and recomputed its tokens. */
  preemptions: number;
  /** How many steps were made. */
  steps: number;
  /** How many tokens were drawn. */
  tokens: number;
  /** How many tokens were proposed for texts that speculate. */
  proposedTokens: number;
  /** How many of them were right: each saved a step. */
  acceptedTokens: number;
  /** Whether texts may speculate: those of a model on a GPU, or with layers that keep a state, do not. */
  speculates: boolean;
}

/** One draw for each of these rows is on its way. */
interface Pending {
  readonly rows: readonly Row[];
  readonly draws: Draws;
}

export class Engine {
  readonly #model: EngineModel;
  readonly #limits: EngineLimits;
  readonly #keptSteps: number;
  readonly #kept: Kept;
  readonly #prefixes: PrefixCache;
  readonly #scheduler: Scheduler;
  readonly #slots: AdapterSlots;
  /** The recorded steps of sequences that share a batch (null), and of each adapter that does not. */
  readonly #steps = new Map<Adapter | null, BatchStep>();
  #looping = false;
  /** Whether a request came, went on or ended since the last plan. */
  #woken = false;
  #arrivals = 0;
  /** Counts changes of the base weights. */
  #base = 0;
  /** Of the weights that the recorded steps were made with, and the kept prefixes. */
  #revision = 0;
  #stepCount = 0;
  #tokens = 0;
  #proposedTokens = 0;
  #acceptedTokens = 0;
  /** Wakes the engine when those that sit out have done so for long. */
  #alarm: NodeJS.Timeout | undefined;

  /** `keptSteps`: recordings of steps that stay, each of another number of rows. */
  constructor(model: EngineModel, limits: EngineLimits, keptSteps = Infinity) {
    this.#keptSteps = keptSteps;
    this.#model = model;
    this.#limits = limits;
    this.#kept = keptFor(model, limits, new WorkingMemory(model.device, this));
    this.#prefixes = new PrefixCache(this.#kept);
    this.#slots = new AdapterSlots(model.linears, model.device, model.dtype, limits.maxBatchSize);
    this.#scheduler = new Scheduler(this.#kept, this.#prefixes, limits, (request) =>
      this.#weightsOf(request),
    );
  }

  /** Whether requests run or wait; one that was left does not, though its last step may be under way. */
  get busy(): boolean {
    return this.#scheduler.all.some(({ ended }) => !ended);
  }

  get stats(): EngineStats {
    const { used, capacity, states } = bytesOf(this.#kept);
    return {
      running: this.#scheduler.running,
      waiting: this.#scheduler.waiting,
      kvCacheBytes: used,
      kvCacheCapacity: capacity,
      stateBytes: states,
      maxTokens: this.#kept.pages.most * pageLength,
      prefixHits: this.#prefixes.hits,
      cachedTokens: this.#prefixes.cachedTokens,
      preemptions: this.#scheduler.preemptions,
      steps: this.#stepCount,
      tokens: this.#tokens,
      proposedTokens: this.#proposedTokens,
      acceptedTokens: this.#acceptedTokens,
      speculates: whyNoSpeculation(this.#model) === undefined,
    };
  }

  /**
   * Takes a request in.
   * @throws ERR_BUSY when maxQueued requests wait; ERR_ARGUMENT for one that kvCacheBytes could never hold.
   */
  submit(plan: RequestPlan): Request {
    const { maxQueued, kvCacheBytes } = this.#limits;
    if (this.#scheduler.waiting >= maxQueued)
      throw loraError(
        'generate',
        'ERR_BUSY',
        `${maxQueued} requests wait already (configureEngine({ maxQueued }) allows more)`,
      );
    const request = new Request(plan, this.#arrivals++, this.#kept, () => this.#wake());
    check(
      pagesFor(request.maxPositions) <= this.#kept.pages.most,
      'generate',
      `expected a prompt and maxNewTokens of at most ${this.#kept.pages.most * pageLength - plan.sequence.vectors} tokens together, which kvCacheBytes ${kvCacheBytes} hold, but received ${plan.prompt.length} and ${plan.maxNewTokens}`,
    );
    if (plan.maxNewTokens === 0) request.finishEmpty();
    else this.#scheduler.submit(request);
    this.#wake();
    return request;
  }

  /** Forgets what was computed with the base weights that were replaced. */
  baseChanged(): void {
    this.#base++;
    this.#prefixes.keepOnly(() => false);
    this.forgetSteps();
    this.#slots.dispose(); // factors follow from the base too
  }

  /** Forgets an adapter that is removed. */
  adapterRemoved(adapter: Adapter): void {
    this.#steps.get(adapter)?.dispose();
    this.#steps.delete(adapter);
    this.#slots.remove(adapter);
    const removed = `${this.#slots.idOf(adapter)}:`;
    this.#prefixes.keepOnly((weights) => !weights.startsWith(removed));
  }

  /** Frees all memory; no request may run. The next one takes some anew. */
  dispose(): void {
    clearTimeout(this.#alarm);
    this.forgetSteps();
    this.#slots.dispose();
    this.#prefixes.keepOnly(() => false);
    this.#kept.pages.clear();
    this.#kept.slots?.clear();
  }

  /** Frees what is kept for later requests, for another engine; not while this one is at work. */
  giveUp(): boolean {
    if (this.#looping || this.#scheduler.running > 0 || this.#kept.pages.capacity === 0) return false;
    this.dispose();
    return true;
  }

  /** What the recordings of steps take. */
  get recordedBytes(): number {
    let bytes = 0;
    for (const step of this.#steps.values()) bytes += step.bytes;
    return bytes;
  }

  /** Drops the recordings; the next step of each number of rows is recorded again. */
  forgetSteps(): void {
    for (const step of this.#steps.values()) step.dispose();
    this.#steps.clear();
  }

  /** Names all that a page follows from beside its tokens. Counters: what is changed and changed back has another name. */
  #weightsOf(request: Request): string {
    const { adapter } = request.plan;
    const start = this.#model.tableStart?.(request.longest) ?? 0;
    const own = adapter ? `${this.#slots.idOf(adapter)}:${adapter.revision}` : 'base';
    return `${own}:${this.#base}:${threadSetting()}:${start}`;
  }

  // ---- the loop ------------------------------------------------------------------------------

  #wake(): void {
    this.#woken = true;
    clearTimeout(this.#alarm);
    if (this.#looping) return;
    this.#looping = true;
    // In a microtask, so that requests that are made together begin together.
    queueMicrotask(() => void this.#run());
  }

  async #run(): Promise<void> {
    try {
      await this.#turns();
    } catch (error) {
      // A fault of the engine itself: nobody waits for ever, and the process goes on.
      for (const request of this.#scheduler.all) request.fail(error);
      this.#scheduler.loseAllPages();
    } finally {
      this.#looping = false;
    }
  }

  async #turns(): Promise<void> {
    let fresh: readonly Request[] = []; // with tokens that are not delivered
    for (;;) {
      this.#woken = false;
      const revision = this.#model.revision();
      if (revision !== this.#revision) this.baseChanged();
      this.#revision = revision;
      const { chunk, rows } = this.#scheduler.plan();
      const pending: Pending[] = [];
      if (chunk) pending.push(...(await this.#computeChunk(chunk)));
      if (rows.some(({ plan }) => plan.constraint)) await constraintsKnown(rows);
      await this.#speculate(rows);
      for (const group of this.#groups(rows)) pending.push(...this.#computeRows(group));
      for (const request of fresh) deliver(request);
      const idle = !chunk && rows.length === 0 && fresh.length === 0;
      if (idle && !this.#woken) {
        if (this.#scheduler.blocked) this.#alarm = setTimeout(() => this.#wake(), patienceMs);
        return;
      }
      fresh = [];
      for (const { rows, draws } of pending) fresh = [...fresh, ...(await this.#take(rows, draws))];
    }
  }

  /** Gives the places that are left in a step to tokens that may follow. */
  async #speculate(requests: readonly Request[]): Promise<void> {
    if (!requests.some(({ plan }) => plan.speculation)) return;
    const hasPages = (request: Request, positions: number): boolean =>
      this.#scheduler.hasPagesFor(request, positions);
    propose(requests.filter(holdsPages), this.#limits.maxBatchSize, hasPages);
    const constrained = requests.filter(({ plan, proposed }) => plan.constraint && proposed.length > 0);
    for (const { plan, proposed } of constrained) plan.constraint!.lookAhead(proposed);
    await constraintsKnown(constrained);
    for (const request of constrained)
      request.proposed = request.proposed.slice(0, request.plan.constraint!.ahead.length);
  }

  /** Rows that run in one step: all whose adapters share a batch, and those of each other adapter. */
  #groups(rows: readonly Request[]): Map<Adapter | null, Request[]> {
    const groups = new Map<Adapter | null, Request[]>();
    for (const request of rows) {
      const { adapter } = request.plan;
      const key = adapter && !this.#slots.shares(adapter) ? adapter : null;
      const group = groups.get(key);
      if (group) group.push(request);
      else groups.set(key, [request]);
    }
    return groups;
  }

  async #computeChunk(chunk: Chunk): Promise<Pending[]> {
    const { request, end } = chunk;
    for (let attempt = 0; holdsPages(request); attempt++)
      try {
        const wantsToken = end === request.ids.length;
        const result = await prefill(this.#model, this.#kept, chunk, wantsToken);
        try {
          const rows = [{ request, offset: 0 }];
          const draws = wantsToken ? drawTokens(result, rows) : noDraws(result);
          this.#scheduler.chunkDone(chunk);
          return [{ rows, draws }];
        } finally {
          result.dispose();
        }
      } catch (error) {
        this.#fellShort(error, [request], attempt);
      }
    return [];
  }

  #computeRows([own, all]: [Adapter | null, readonly Request[]]): Pending[] {
    // Those that were cancelled or gave way meanwhile have no pages any more.
    let requests = all.filter(holdsPages);
    for (let attempt = 0; requests.length > 0; attempt++, requests = requests.filter(holdsPages))
      try {
        let step = this.#steps.get(own);
        if (!step) {
          const use: AdapterUse | undefined = own ? { adapter: own } : undefined;
          this.#steps.set(
            own,
            (step = new BatchStep(this.#model, this.#kept, this.#slots, this.#keptSteps, use)),
          );
        }
        const { order, draws } = step.run(requests.flatMap(({ rows }) => rows));
        this.#stepCount++;
        for (const request of requests) this.#scheduler.rowDone(request);
        return [{ rows: order, draws }];
      } catch (error) {
        this.#fellShort(error, requests, attempt);
      }
    return [];
  }

  /** Has work on requests tried again that found too little memory, or fails them. What states had read is read twice then, so they begin again. */
  #fellShort(error: unknown, requests: readonly Request[], attempt: number): void {
    const { slots } = this.#kept;
    const before = slots ? Math.max(...requests.map((request) => request.shortages++)) : attempt;
    if (!this.#freedMemory(error, before))
      for (const request of requests) request.fail(tooLarge(request, error));
    else if (slots) this.#scheduler.restart(requests);
  }

  /** Whether memory was given back for work that found too little, so that it may be tried again: what can be made anew, then pages. */
  #freedMemory(error: unknown, attempt: number): boolean {
    if (!isOutOfMemory(error)) return false;
    if (attempt > 0) return this.#scheduler.freePages();
    this.forgetSteps();
    this.#slots.dispose();
    return true;
  }

  /** Waits for the draws. */
  async #take(rows: readonly Row[], draws: Draws): Promise<readonly Request[]> {
    let drawn;
    try {
      drawn = await draws.tokens();
    } catch (error) {
      // What the step wrote into its pages failed with it, and with them the memory that all pages are part of. Requests that lost
      // theirs to an earlier failure of this turn are not to blame: they begin again.
      for (const request of requestsOf(rows)) if (request.computed > 0) request.fail(error);
      this.#scheduler.loseAllPages();
      this.#slots.dispose(); // the failure may be that of the table, which the next step makes anew
      return [];
    }
    const fresh: Request[] = [];
    for (const request of drawn.length > 0 ? requestsOf(rows) : []) {
      // Otherwise it makes tokens again that it had before it lost its pages.
      if (request.computed !== request.ids.length) continue;
      const proposed = request.proposed.length;
      const taken = request.take(drawn.filter((_, i) => rows[i]!.request === request));
      this.#tokens += taken;
      if (proposed > 0) this.#noteProposed(request, proposed, taken - 1);
      fresh.push(request);
    }
    return fresh;
  }

  #noteProposed({ plan }: Request, proposed: number, accepted: number): void {
    this.#proposedTokens += proposed;
    this.#acceptedTokens += Math.max(0, accepted);
    plan.speculation!.note(proposed, Math.max(0, accepted));
  }
}

/** One that ended, or gave way to others, has none. */
const holdsPages = ({ pages }: Request): boolean => pages.length > 0;

/** Waits until it is known which tokens may be drawn; where that fails, the request does. */
async function constraintsKnown(requests: readonly Request[]): Promise<void> {
  for (const request of requests)
    try {
      await request.plan.constraint?.ready();
    } catch (error) {
      request.fail(error);
    }
}

/** Gives a request its tokens; what its tokenizer throws ends this request alone. */
function deliver(request: Request): void {
  try {
    request.deliver();
  } catch (error) {
    request.fail(error);
  }
}
