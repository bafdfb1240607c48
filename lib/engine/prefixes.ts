/**
 * Whole pages that several requests may read: those whose tokens, and all tokens before them, are the same under the same
 * weights. A page that no request refers to stays until its memory is wanted; the one that was used longest ago goes first.
 */
import { vectorsAmong } from '../data/sequence_plan';
import { pageLength, type Page } from './pages';
import type { Kept, Slot } from './states';

interface Node {
  readonly parent: Node | undefined;
  /** The key in its parent. */
  readonly key: string;
  readonly page: Page;
  readonly children: Map<string, Node>;
  /** The states after the last position of the page, where they were kept. */
  states: Slot | undefined;
}

/** The beginning of a text that need not be computed again. */
export interface Beginning {
  readonly pages: Page[];
  /** The states behind it, of a model that has states. */
  readonly states: Slot | undefined;
}

const keyOf = (ids: ArrayLike<number>, page: number): string =>
  Array.prototype.slice.call(ids, page * pageLength, (page + 1) * pageLength).join();

export class PrefixCache {
  readonly #kept: Kept;
  /** By what pages follow from beside tokens: the adapter and its version, the base, the start of the text in tables of angles. */
  readonly #roots = new Map<string, Map<string, Node>>();
  /** All pages, those that were used longest ago first. A page is used no later than the pages before it in a text. */
  readonly #byUse = new Set<Node>();
  /** How often a request found a page, and how many tokens these held, vectors before texts left out. */
  hits = 0;
  cachedTokens = 0;

  constructor(kept: Kept) {
    this.#kept = kept;
  }

  /** Pages that it holds. */
  get size(): number {
    return this.#byUse.size;
  }

  /** The pages of the longest beginning of ids[0 … most) that a request can go on from. */
  known(weights: string, ids: ArrayLike<number>, most: number): Page[] {
    return this.#usable(this.#path(weights, ids, most)).map(({ page }) => page);
  }

  /** Pages of the longest known beginning, from whose end a request may not be able to go on. */
  pagesKnown(weights: string, ids: ArrayLike<number>, most: number): number {
    return this.#path(weights, ids, most).length;
  }

  /** What known() gives, each page with a reference for the caller. */
  match(weights: string, ids: ArrayLike<number>, most: number): Beginning {
    const nodes = this.#usable(this.#path(weights, ids, most));
    for (const node of [...nodes].reverse()) this.#touch(node);
    for (const { page } of nodes) this.#kept.pages.retain(page);
    if (nodes.length > 0) this.hits++;
    const length = nodes.length * pageLength;
    this.cachedTokens += length - vectorsAmong(ids, length);
    return { pages: nodes.map(({ page }) => page), states: nodes.at(-1)?.states };
  }

  /** Of a path, what ends where states were kept; all of it where no layer has states. */
  #usable(nodes: Node[]): Node[] {
    if (!this.#kept.slots) return nodes;
    return nodes.slice(0, nodes.findLastIndex(({ states }) => states !== undefined) + 1);
  }

  #path(weights: string, ids: ArrayLike<number>, most: number): Node[] {
    const nodes: Node[] = [];
    let children = this.#roots.get(weights);
    for (let page = 0; children && (page + 1) * pageLength <= most; page++) {
      const node: Node | undefined = children.get(keyOf(ids, page));
      if (!node) break;
      nodes.push(node);
      children = node.children;
    }
    return nodes;
  }

  /**
   * Offers the pages of a text, of which the first `length` positions are computed. Where a page of the same tokens is known, the known
   * one stays.
   */
  add(weights: string, ids: ArrayLike<number>, pages: readonly Page[], length: number): void {
    const whole = Math.floor(length / pageLength);
    if (whole === 0) return;
    let children = this.#roots.get(weights);
    if (!children) this.#roots.set(weights, (children = new Map<string, Node>()));
    let parent: Node | undefined;
    const path: Node[] = [];
    for (let page = 0; page < whole; page++) {
      const key = keyOf(ids, page);
      let node: Node | undefined = children.get(key);
      if (!node) {
        node = { parent, key, page: pages[page]!, children: new Map(), states: undefined };
        this.#kept.pages.retain(node.page);
        children.set(key, node);
      }
      path.push(node);
      parent = node;
      children = node.children;
    }
    for (const node of path.reverse()) this.#touch(node);
  }

  /** Keeps the states behind ids[0 … length), whole pages that are known, in the slot that `copy` makes of them. */
  keepStates(weights: string, ids: ArrayLike<number>, length: number, copy: () => Slot | undefined): void {
    const nodes = this.#path(weights, ids, length);
    const last = nodes.at(-1);
    if (!last || nodes.length * pageLength !== length) return;
    last.states ??= copy();
  }

  /** Frees `count` slots, as far as there are any; the pages stay. */
  evictStates(count: number): void {
    let left = count;
    for (const node of this.#byUse) {
      if (left <= 0) return;
      if (!node.states) continue;
      this.#dropStates(node);
      left--;
    }
  }

  #dropStates(node: Node): void {
    if (node.states) this.#kept.slots!.release(node.states);
    node.states = undefined;
  }

  #release(node: Node): void {
    this.#byUse.delete(node);
    this.#kept.pages.release(node.page);
    this.#dropStates(node);
  }

  #touch(node: Node): void {
    this.#byUse.delete(node);
    this.#byUse.add(node);
  }

  /** Frees at least `count` pages that nobody else refers to, as far as there are any. */
  evict(count: number): void {
    let left = count;
    // A child is used no later than its parent, so one pass meets children first.
    for (const node of this.#byUse) {
      if (left <= 0) return;
      if (node.page.references > 1) continue;
      this.#remove(node);
      left--;
    }
  }

  /** Its children are pages that somebody reads beside one of his own for this part: they go with it. */
  #remove(node: Node): void {
    if (node.parent) node.parent.children.delete(node.key);
    else
      for (const [weights, roots] of this.#roots)
        if (roots.get(node.key) === node) {
          roots.delete(node.key);
          if (roots.size === 0) this.#roots.delete(weights);
        }
    this.#release(node);
    this.#drop(node.children);
  }

  #drop(nodes: ReadonlyMap<string, Node>): void {
    for (const node of nodes.values()) {
      this.#release(node);
      this.#drop(node.children);
    }
  }

  /** Forgets the pages that were computed with other weights than these. */
  keepOnly(isCurrent: (weights: string) => boolean): void {
    for (const [weights, roots] of [...this.#roots])
      if (!isCurrent(weights)) {
        this.#roots.delete(weights);
        this.#drop(roots);
      }
  }
}
