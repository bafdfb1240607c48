/**
 * Which requests run. All that have their prompt computed make one token per step, together; between two steps one of the others
 * gets a part of its prompt computed. Yu et al., "Orca: A Distributed Serving System for Transformer-Based Generative Models" (2022).
 */
import { vectorsAmong } from '../data/sequence_plan';
import { isOutOfMemory, loraError } from '../errors';
import { pageLength, pagesFor } from './pages';
import type { Part, Pool } from './pool';
import type { PrefixCache } from './prefixes';
import type { Request } from './request';
import type { Kept } from './states';

/** How long a request that sits out keeps its pages from others, in milliseconds: a slow consumer costs no second computation. */
export const patienceMs = 1000;

export interface SchedulerLimits {
  /** Sequences that make a token in one step. */
  readonly maxBatchSize: number;
  /** Tokens of a prompt that are computed between two steps. */
  readonly prefillChunk: number;
}

/** A part of a prompt: positions [request.computed, end). */
export interface Chunk {
  readonly request: Request;
  readonly end: number;
}

/** What runs next. */
export interface Plan {
  readonly chunk: Chunk | undefined;
  /** The requests that make a token together, the oldest first; each has a page for its position. */
  readonly rows: readonly Request[];
}

export class Scheduler {
  readonly #kept: Kept;
  readonly #prefixes: PrefixCache;
  readonly #limits: SchedulerLimits;
  /** Names the weights that a request computes with. */
  readonly #weightsOf: (request: Request) => string;
  readonly #now: () => number;
  /** The oldest first. */
  readonly #waiting: Request[] = [];
  /** Those that hold pages, or will for their next part, the oldest first. */
  #running: Request[] = [];
  #step = 0;
  /** How often a running request lost its pages. */
  preemptions = 0;

  constructor(
    kept: Kept,
    prefixes: PrefixCache,
    limits: SchedulerLimits,
    weightsOf: (request: Request) => string,
    now: () => number = () => performance.now(),
  ) {
    this.#kept = kept;
    this.#prefixes = prefixes;
    this.#limits = limits;
    this.#weightsOf = weightsOf;
    this.#now = now;
  }

  get waiting(): number {
    return this.#waiting.filter(({ ended }) => !ended).length;
  }
  get running(): number {
    return this.#running.filter(({ ended }) => !ended).length;
  }
  /** All requests that have not ended. */
  get all(): readonly Request[] {
    return [...this.#running, ...this.#waiting];
  }

  /** The next one that would begin: one that sits out has nothing to do. */
  get #next(): Request | undefined {
    return this.#waiting.find(({ held }) => !held);
  }
  /** Whether one that would begin has no place. */
  get blocked(): boolean {
    return this.#next !== undefined;
  }

  submit(request: Request): void {
    this.#waiting.push(request);
  }

  /** Drops requests that have ended, lets others begin, and chooses what runs next. */
  plan(): Plan {
    const now = this.#now();
    for (const request of this.#running)
      request.heldSince = request.held ? Math.min(request.heldSince, now) : Infinity;
    this.#admit();
    this.#step++;
    const rows = this.#nextRows();
    const chunk = this.#nextChunk();
    // Both may have taken the pages of younger requests.
    return { chunk, rows: rows.filter((request) => this.#running.includes(request)) };
  }

  #admit(): void {
    this.#running = this.#running.filter((request) => this.#stays(request));
    for (let i = this.#waiting.length - 1; i >= 0; i--)
      if (this.#waiting[i]!.ended) this.#waiting.splice(i, 1);
    let active = this.#running.filter(({ held }) => !held).length;
    while (active < this.#limits.maxBatchSize) {
      const request = this.#next;
      if (!request || !this.#hasRoom(request)) return;
      this.#waiting.splice(this.#waiting.indexOf(request), 1);
      request.start();
      insertByAge(this.#running, request);
      active++;
    }
  }

  /** Whether it has sat out for so long that others may have its pages. */
  #sleeps({ heldSince }: Request): boolean {
    return this.#now() - heldSince >= patienceMs;
  }

  /** Whether it and those that run will have pages to their ends: nobody has to lose any then. One that is alone begins in any case. */
  #hasRoom(request: Request): boolean {
    const staying = this.#running.filter((other) => !this.#sleeps(other));
    if (staying.length === 0) return true;
    const taken = new Set(staying.flatMap(({ pages }) => pages));
    const known = this.#prefixes.known(this.#weightsOf(request), request.ids, request.ids.length - 1);
    let needed = taken.size + pagesFor(request.maxPositions) - known.filter((page) => taken.has(page)).length;
    for (const other of staying) needed += other.pagesMissing(other.maxPositions);
    const { pages, slots } = this.#kept;
    const fits = (pool: Pool, count: number): boolean => count <= pool.capacity || count <= pool.affordable;
    return fits(pages, needed) && (!slots || fits(slots, staying.length + 1));
  }

  #stays(request: Request): boolean {
    if (!request.ended) return true;
    this.#share(request);
    request.release();
    return false;
  }

  /** Lets others read what it has computed. */
  #share(request: Request): void {
    if (request.pages.length === 0 || request.weights !== this.#weightsOf(request)) return;
    // Pages of generated tokens have no states behind them, so nobody could go on from there.
    const length = this.#kept.slots ? Math.min(request.computed, request.promptLength) : request.computed;
    this.#prefixes.add(request.weights, request.ids, request.pages, length);
  }

  /** The next part of a prompt, of the request that was served longest ago; it has pages for it. */
  #nextChunk(): Chunk | undefined {
    const candidates = this.#running
      .filter(({ prefilling, held, ended }) => prefilling && !held && !ended)
      .sort((a, b) => a.served - b.served);
    for (const request of candidates) {
      if (request.pages.length === 0 && !this.#begin(request)) continue;
      if (!request.prefilling) continue; // all of it was known
      const end = this.#endOfPart(request);
      if (!this.#reserve(request, end)) continue;
      request.served = this.#step;
      return { request, end };
    }
    return undefined;
  }

  /** Where the next part of a prompt ends. A state is computed in chunks of a page, which parts must not cut. */
  #endOfPart({ promptLength, computed, keptAt }: Request): number {
    const { prefillChunk } = this.#limits;
    if (!this.#kept.slots) return Math.min(promptLength, computed + prefillChunk);
    const whole = pageLength * Math.max(1, Math.floor(prefillChunk / pageLength));
    return Math.min(promptLength, computed + whole, keptAt[0] ?? Infinity);
  }

  /** Takes the pages that are known already; false where it gets no slot. The last token of what it has is computed in any case. */
  #begin(request: Request): boolean {
    if (!this.#reserve(request, 0)) return false;
    request.weights = this.#weightsOf(request);
    const { ids, weights } = request;
    const { pages, states } = this.#prefixes.match(weights, ids, ids.length - 1);
    request.pages.push(...pages);
    request.computed = pages.length * pageLength;
    if (request.generated === 0)
      request.cachedTokens = request.computed - vectorsAmong(ids, request.computed);
    const { slots } = this.#kept;
    if (!slots) return true;
    if (states) slots.copy(states, request.slot!);
    // Its last page end, for the same prompt and longer ones, and where it leaves a text that is known, for others that begin alike.
    const last = request.promptLength - 1;
    const ends = [this.#prefixes.pagesKnown(weights, ids, last), Math.floor(last / pageLength)];
    request.keptAt = [...new Set(ends)]
      .map((page) => page * pageLength)
      .filter((at) => at > request.computed);
    return true;
  }

  /** Notes that a part of the prompt has been computed. */
  chunkDone({ request, end }: Chunk): void {
    if (request.pages.length === 0) return; // it ended meanwhile
    request.computed = end;
    this.#share(request);
    if (request.keptAt[0] === end) this.#keepStates(request);
  }

  #keepStates(request: Request): void {
    const slots = this.#kept.slots!;
    request.keptAt = request.keptAt.slice(1);
    this.#prefixes.keepStates(request.weights, request.ids, request.computed, () => {
      const slot = this.#take(slots, 1, false)?.[0];
      if (slot) slots.copy(request.slot!, slot);
      return slot;
    });
  }

  /** Notes that the position of a row has been computed. */
  rowDone(request: Request): void {
    if (request.pages.length > 0) request.computed++;
  }

  /** Those of the step, of the ones that were served longest ago. */
  #nextRows(): Request[] {
    const ready = this.#running.filter(({ prefilling, held, ended }) => !prefilling && !held && !ended);
    const chosen = [...ready].sort((a, b) => a.served - b.served).slice(0, this.#limits.maxBatchSize);
    const rows: Request[] = [];
    for (const request of ready) {
      if (!chosen.includes(request) || !this.#running.includes(request)) continue; // it may have lost its pages
      if (!this.#reserve(request, request.computed + 1)) continue;
      request.served = this.#step;
      rows.push(request);
    }
    return rows;
  }

  /** Gets pages for `positions` where no other request has to lose any; whether it has them. */
  hasPagesFor(request: Request, positions: number): boolean {
    const pages = this.#take(this.#kept.pages, request.pagesMissing(positions), false);
    if (pages) request.pages.push(...pages);
    return pages !== undefined;
  }

  /** Gets a slot, where layers have states, and pages for `positions`, if need be those of a request that sleeps or is younger. One that is alone and gets none fails. */
  #reserve(request: Request, positions: number): boolean {
    const { pages, slots } = this.#kept;
    for (;;) {
      const missing = request.pagesMissing(positions);
      const homeless = slots !== undefined && request.slot === undefined;
      if (missing === 0 && !homeless) return true;
      const others = this.#running.filter((other) => other !== request && other.pages.length > 0);
      const alone = others.length === 0;
      try {
        const parts = homeless ? this.#take(slots, 1, alone) : this.#take(pages, missing, alone);
        if (parts) {
          if (homeless) [request.slot] = parts;
          else request.pages.push(...parts);
          continue;
        }
      } catch (error) {
        if (!alone) throw error;
        if (isOutOfMemory(error) && pages.reclaim()) continue;
        request.fail(tooLarge(request, error));
        return false;
      }
      const victim = this.#victim(others);
      if (this.#sleeps(victim) || victim.arrival > request.arrival) this.#preempt(victim);
      else {
        this.#preempt(request);
        return false;
      }
    }
  }

  /** Pages or slots that are free, that nobody uses any more, or that there is memory for. `atAnyCost`: where there is none, it throws. */
  #take(pool: Pool, count: number, atAnyCost: boolean): Part[] | undefined {
    const evict = (parts: number): void =>
      pool === this.#kept.slots ? this.#prefixes.evictStates(parts) : this.#prefixes.evict(parts);
    if (count > pool.free) evict(count - (pool.affordable - pool.used));
    try {
      return pool.take(count, atAnyCost);
    } catch (error) {
      if (!isOutOfMemory(error)) throw error;
      evict(count - pool.free);
      if (count <= pool.free) return pool.take(count);
      if (atAnyCost) throw error;
      return undefined;
    }
  }

  /** Who loses its pages first: one that sleeps, else the youngest. */
  #victim(requests: readonly Request[]): Request {
    return requests.findLast((request) => this.#sleeps(request)) ?? requests.at(-1)!;
  }

  /**
   * Gives memory of the pools to work that found too little: states that are kept for later, pages that nobody uses, else those of a request
   * that gives way. False where all there is belongs to one request.
   */
  freePages(): boolean {
    const { pages: pool, slots } = this.#kept;
    if (slots) this.#prefixes.evictStates(slots.used);
    if (slots && slots.free > 0) return this.#shrink(slots, slots.used);
    for (;;) {
      this.#prefixes.evict(Math.ceil(pool.capacity / 8) - pool.free);
      if (pool.free > 0) {
        return this.#shrink(pool, Math.max(pool.used, Math.floor((pool.capacity * 7) / 8)));
      }
      const holders = this.#running.filter(({ pages }) => pages.length > 0);
      if (holders.length < 2) return pool.reclaim();
      this.#preempt(this.#victim(holders));
    }
  }

  #shrink(pool: Pool, capacity: number): true {
    try {
      pool.shrink(capacity);
    } catch (error) {
      if (!isOutOfMemory(error)) throw error;
      this.loseAllPages();
    }
    return true;
  }

  /** Takes all pages back, because their memory failed; the requests compute their tokens again. */
  loseAllPages(): void {
    for (const request of [...this.#running]) this.#takeBack(request);
    this.#prefixes.keepOnly(() => false);
    this.#kept.pages.clear();
    this.#kept.slots?.clear();
  }

  /** Takes its pages back. It keeps its tokens, and computes them again when there is room. */
  #preempt(request: Request): void {
    this.preemptions++;
    this.#share(request); // what is not needed at once may still be there
    this.#takeBack(request);
  }

  /** Has requests begin again whose states are in doubt: work on them failed, and may have written them already. */
  restart(requests: readonly Request[]): void {
    for (const request of requests) if (this.#running.includes(request)) this.#takeBack(request);
  }

  #takeBack(request: Request): void {
    request.release();
    request.heldSince = Infinity;
    this.#running.splice(this.#running.indexOf(request), 1);
    insertByAge(this.#waiting, request);
  }
}

/** What a request fails with that gets too little memory though it has all of it. */
export function tooLarge(request: Request, error: unknown): unknown {
  if (!isOutOfMemory(error)) return error;
  const reason = error.message.replace(/^\[\w+\] /, '');
  return loraError(
    'generate',
    'ERR_OUT_OF_MEMORY',
    `expected memory for the keys and values of ${request.ids.length} tokens and the work on them, but with all that could be given back it ${reason}`,
    error,
  );
}

/** Requests are numbered as they come. */
function insertByAge(requests: Request[], request: Request): void {
  const at = requests.findIndex(({ arrival }) => arrival > request.arrival);
  requests.splice(at < 0 ? requests.length : at, 0, request);
}
