/**
 * Which requests run. All that have their prompt computed make one token per step, together; between two steps one of the others
 * gets a part of its prompt computed. Yu et al., "Orca: A Distributed Serving System for Transformer-Based Generative Models" (2022).
 */
import { pageLength, type PagePool } from './pages';
import type { PrefixCache } from './prefixes';
import type { Request } from './request';

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
  readonly #pool: PagePool;
  readonly #prefixes: PrefixCache;
  readonly #limits: SchedulerLimits;
  /** Names the weights that a request computes with. */
  readonly #weightsOf: (request: Request) => string;
  /** The oldest first. */
  readonly #waiting: Request[] = [];
  /** Those that hold pages, or will for their next part, the oldest first. */
  #running: Request[] = [];
  #step = 0;
  /** How often a running request lost its pages to an older one. */
  preemptions = 0;

  constructor(
    pool: PagePool,
    prefixes: PrefixCache,
    limits: SchedulerLimits,
    weightsOf: (request: Request) => string,
  ) {
    this.#pool = pool;
    this.#prefixes = prefixes;
    this.#limits = limits;
    this.#weightsOf = weightsOf;
  }

  get waiting(): number {
    return this.#waiting.length;
  }
  get running(): number {
    return this.#running.length;
  }
  /** All requests that have not ended. */
  get all(): readonly Request[] {
    return [...this.#running, ...this.#waiting];
  }

  submit(request: Request): void {
    this.#waiting.push(request);
  }

  /** Drops requests that have ended, lets others begin, and chooses what runs next. */
  plan(): Plan {
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
    while (
      active < this.#limits.maxBatchSize &&
      this.#waiting.length > 0 &&
      this.#hasRoom(this.#waiting[0]!)
    ) {
      const request = this.#waiting.shift()!;
      request.start();
      insertByAge(this.#running, request);
      active++;
    }
  }

  /** Whether all that it has now would fit: one that lost its pages would lose them again. */
  #hasRoom(request: Request): boolean {
    if (this.#running.length === 0) return true;
    const needed = request.pagesMissing(request.ids.length);
    if (needed <= this.#pool.available) return true;
    // Those that sit out give way to it.
    const held = this.#running.reduce((sum, { held: idle, pages }) => sum + (idle ? pages.length : 0), 0);
    return needed <= this.#pool.available + this.#prefixes.evictable + held;
  }

  #stays(request: Request): boolean {
    if (!request.ended) return true;
    this.#share(request);
    request.releasePages();
    return false;
  }

  /** Lets others read what it has computed. */
  #share(request: Request): void {
    if (request.pages.length === 0 || request.weights !== this.#weightsOf(request)) return;
    this.#prefixes.add(request.weights, request.ids, request.pages, request.computed);
  }

  /** The next part of a prompt, of the request that was served longest ago; it has pages for it. */
  #nextChunk(): Chunk | undefined {
    const candidates = this.#running
      .filter(({ prefilling, held, ended }) => prefilling && !held && !ended)
      .sort((a, b) => a.served - b.served);
    for (const request of candidates) {
      if (request.pages.length === 0) this.#begin(request);
      if (!request.prefilling) continue; // all of it was known
      const end = Math.min(request.plan.prompt.length, request.computed + this.#limits.prefillChunk);
      if (!this.#reserve(request, end)) continue;
      request.served = this.#step;
      return { request, end };
    }
    return undefined;
  }

  /** Takes the pages that are known already. The last token of what it has is computed in any case. */
  #begin(request: Request): void {
    request.weights = this.#weightsOf(request);
    const pages = this.#prefixes.match(request.weights, request.ids, request.ids.length - 1);
    request.pages.push(...pages);
    request.computed = pages.length * pageLength;
    if (request.generated === 0) request.cachedTokens = request.computed;
  }

  /** Notes that a part of the prompt has been computed. */
  chunkDone({ request, end }: Chunk): void {
    if (request.pages.length === 0) return; // it ended meanwhile
    request.computed = end;
    this.#share(request);
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

  /** Gets pages for `positions`, if need be those of requests that sit out or are younger. One that is alone and gets none fails. */
  #reserve(request: Request, positions: number): boolean {
    for (;;) {
      const missing = request.pagesMissing(positions);
      if (missing === 0) return true;
      if (missing > this.#pool.available) this.#prefixes.evict(missing - this.#pool.available);
      let denied: unknown;
      try {
        const pages = this.#pool.take(missing);
        if (pages) {
          request.pages.push(...pages);
          return true;
        }
      } catch (error) {
        denied = error; // the system has less memory than the limit allows
        this.#prefixes.evict(missing);
        if (this.#pool.free >= missing) continue;
      }
      const others = this.#running.filter((other) => other !== request && other.pages.length > 0);
      const victim = others.findLast(({ held }) => held) ?? others.at(-1);
      if (!victim) request.fail(denied);
      else if (victim.held || victim.arrival > request.arrival) {
        this.#preempt(victim);
        continue;
      } else this.#preempt(request);
      return false;
    }
  }

  /** Takes all pages back, because their memory failed; the requests compute their tokens again. */
  loseAllPages(): void {
    for (const request of [...this.#running]) this.#takeBack(request);
    this.#prefixes.keepOnly(() => false);
    this.#pool.clear();
  }

  /** Takes its pages back. It keeps its tokens, and computes them again when there is room. */
  #preempt(request: Request): void {
    this.preemptions++;
    this.#share(request); // what is not needed at once may still be there
    this.#takeBack(request);
  }

  #takeBack(request: Request): void {
    request.releasePages();
    this.#running.splice(this.#running.indexOf(request), 1);
    insertByAge(this.#waiting, request);
  }
}

/** Requests are numbered as they come. */
function insertByAge(requests: Request[], request: Request): void {
  const at = requests.findIndex(({ arrival }) => arrival > request.arrival);
  requests.splice(at < 0 ? requests.length : at, 0, request);
}
