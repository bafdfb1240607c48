/** Looks at the bytes of JSON while they come, so that a body which would take long to parse is refused before it is. */
import {
  closeList,
  closeObject,
  colon,
  comma,
  JsonOutside,
  openList,
  openObject,
} from '../formats/json_scanner';
import { defaultLimits } from '../formats/limits';
import { ApiError, invalid } from './api_error';

/** Most keys, lists and objects, each of which costs the parser up to a microsecond. */
const maxKeys = 2 ** 15;
/** Most commas, which stand between items and cost a twentieth of it: the ids of long prompts are such items. */
const maxItems = 2 ** 19;
/** The body for which these are made; they grow with a larger one. */
const usualBytes = 4 * 2 ** 20;

/**
 * Counts what parsing takes long for: levels of lists and objects within each other, keys, lists and objects, and items. The parser takes about
 * a second for millions of them, and holds the event loop meanwhile. What is no JSON is for the parser to tell.
 */
export class BodyScan {
  readonly #maxKeys: number;
  readonly #maxItems: number;
  #depth = 0;
  #keys = 0;
  #items = 0;
  readonly #outside = new JsonOutside();
  #refusal: ApiError | undefined;

  constructor(maxBodyBytes: number) {
    const times = Math.max(1, maxBodyBytes / usualBytes);
    this.#maxKeys = Math.floor(maxKeys * times);
    this.#maxItems = Math.floor(maxItems * times);
  }

  /** Why the body is refused, once that is known: nothing after it is looked at. */
  get refusal(): ApiError | undefined {
    return this.#refusal;
  }

  /** Looks at the next bytes. */
  take(piece: Uint8Array): void {
    if (this.#refusal) return;
    const outside = this.#outside;
    for (let i = 0; i < piece.length; i++) {
      const byte = piece[i];
      if (!outside.next(byte)) continue;
      if (byte === openList || byte === openObject) {
        this.#keys++;
        if (++this.#depth > defaultLimits.nesting) return this.#refuseDepth();
      } else if (byte === closeList || byte === closeObject) this.#depth--;
      else if (byte === colon) this.#keys++;
      else if (byte === comma) this.#items++;
    }
    if (this.#keys > this.#maxKeys) this.#refuseCount(this.#maxKeys, 'keys, lists and objects');
    else if (this.#items > this.#maxItems) this.#refuseCount(this.#maxItems, 'items in lists and objects');
  }

  #refuseDepth(): void {
    this.#refusal = invalid(`expected a body that is nested at most ${defaultLimits.nesting} levels deep`);
  }

  #refuseCount(most: number, what: string): void {
    this.#refusal = new ApiError(413, `expected a body of at most ${most} ${what}`, {
      code: 'request_too_large',
    });
  }
}
