/** One text that follows a grammar. It keeps what it has taken, so that another thread can go on where one has ended. */
import type { TokenConstraint } from './constraint';
import type { SchemaGrammar } from './json_schema';

/** What tells a text which tokens may come next. */
export interface Matcher {
  /** Says that a text has taken tokens; gives whether the answer may take long. */
  taken(text: Match, tokens: readonly number[]): boolean;
  /** Asks what could follow tokens; gives whether an answer comes. */
  lookAhead(text: Match, tokens: readonly number[]): boolean;
  /** Forgets a text. */
  leave(text: Match): void;
}

export class Match implements TokenConstraint {
  bits: Int32Array<ArrayBuffer> | undefined;
  foreseen: string | undefined;
  ahead: readonly Int32Array<ArrayBuffer>[] = [];
  late = false;
  /** Whether it wants to know `foreseen`. */
  readonly foresees: boolean;
  readonly grammar: SchemaGrammar;
  /** The tokens that it has. */
  readonly tokens: number[] = [];
  #matcher: Matcher | undefined;
  /** Answers that have not come from the matcher; the last of them says what follows now. */
  #awaited = 0;
  /** Whether `ahead` is on its way. */
  #looking = false;
  #wait: PromiseWithResolvers | undefined;
  #failure: { error: unknown } | undefined;
  #ended = false;

  constructor(grammar: SchemaGrammar, foresees = false) {
    this.grammar = grammar;
    this.foresees = foresees;
  }

  async ready(): Promise<void> {
    if (this.#failure) throw this.#failure.error;
    if ((this.bits && !this.#looking) || this.#ended) return;
    this.#wait ??= withResolvers();
    await this.#wait.promise;
  }

  lookAhead(ids: readonly number[]): void {
    this.ahead = [];
    if (this.#ended || this.#failure || !this.bits || !allows(this.bits, ids[0])) return;
    this.#looking = this.#matcher!.lookAhead(this, ids);
  }

  accept(ids: readonly number[]): void {
    if (this.#ended || this.#failure) return;
    this.bits = undefined;
    this.ahead = [];
    this.tokens.push(...ids);
    this.late = this.#matcher!.taken(this, ids);
  }

  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#matcher?.leave(this);
    this.#settle();
  }

  // ---- for matchers --------------------------------------------------------------------------

  /** Goes over to a matcher, which is told its tokens anew. */
  moveTo(matcher: Matcher): void {
    this.#matcher = matcher;
    this.#awaited = 0;
    if (!this.#looking) return;
    this.#looking = false; // nobody answers any more; it goes on without
    this.#settle();
  }

  /** Notes that a question about it is on its way. */
  asked(): void {
    this.#awaited++;
  }

  take(bits: Int32Array<ArrayBuffer>, foreseen?: string): void {
    if (--this.#awaited > 0) return; // it has taken a token since
    this.bits = bits;
    this.foreseen = foreseen;
    this.#settle();
  }

  takeAhead(masks: readonly Int32Array<ArrayBuffer>[]): void {
    this.#awaited--;
    this.#looking = false;
    this.ahead = masks;
    this.#settle();
  }

  fail(error: unknown): void {
    this.#failure ??= { error };
    this.#settle();
  }

  #settle(): void {
    this.late = false;
    const wait = this.#wait;
    this.#wait = undefined;
    if (this.#failure) wait?.reject(this.#failure.error);
    else wait?.resolve();
  }
}

const allows = (bits: Int32Array, id: number | undefined): boolean =>
  id !== undefined && ((bits[id >> 5]! >> (id & 31)) & 1) === 1;

interface PromiseWithResolvers {
  readonly promise: Promise<void>;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

function withResolvers(): PromiseWithResolvers {
  let settle: [() => void, (error: unknown) => void];
  const promise = new Promise<void>((...functions) => (settle = functions));
  const [resolve, reject] = settle!;
  return { promise, resolve, reject };
}
