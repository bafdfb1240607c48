/** Who sends a request: the holder of an API key or, where there are no keys, the address that it comes from. */
import { createHash, timingSafeEqual } from 'node:crypto';
import { check, checkInteger, checkOptions, describe } from '../validate';
import { ApiError, tooMany } from './api_error';
import type { Incoming } from './exchange';

/** A key that clients send as `Authorization: Bearer KEY`, or as `x-api-key: KEY`. */
export interface ApiKey {
  /** The secret. */
  key: string;
  /** The name of its holder in logs and metrics. Default: 'key-1', 'key-2', … by position. */
  name?: string | undefined;
  /** Maximum number of open requests of its holder, waiting ones included; one more gets 429. Default: no limit. */
  maxConcurrent?: number | undefined;
}

/** Who sends requests, and how many of them are open. */
export class Client {
  #open = 0;

  constructor(
    /** For logs; undefined where there are no keys. */
    readonly name: string | undefined,
    /** What the queue tells clients apart by. */
    readonly lane: unknown,
    readonly maxConcurrent = Infinity,
  ) {}

  /** Counts a request until the returned function is called. @throws 429 for one too many. */
  open(): () => void {
    if (this.#open >= this.maxConcurrent)
      throw tooMany(`this API key may have ${this.maxConcurrent} requests at once`);
    this.#open++;
    return () => void this.#open--;
  }
}

const digest = (text: string): Buffer => createHash('sha256').update(text).digest();

export class Clients {
  readonly #keys: readonly { readonly digest: Buffer; readonly client: Client }[];

  constructor(keys: readonly (string | ApiKey)[], op: string) {
    this.#keys = keys.map((given, i) => {
      const one = typeof given === 'string' ? { key: given } : given;
      checkOptions(op, one, ['key', 'name', 'maxConcurrent']);
      const { key, name = `key-${i + 1}`, maxConcurrent } = one;
      check(
        typeof key === 'string' && /^[\x21-\x7e]+$/.test(key),
        op,
        `expected the API key at place ${i + 1} to be a text of visible ASCII characters`,
      );
      check(
        typeof name === 'string',
        op,
        `expected the name of an API key to be a text but received ${describe(name)}`,
      );
      if (maxConcurrent !== undefined) checkInteger(op, 'maxConcurrent', maxConcurrent, 1);
      return { digest: digest(key), client: new Client(name, `key ${i}`, maxConcurrent) };
    });
  }

  /** Who sends this request. @throws 401 without a key, or with one that is not known. */
  of({ headers, socket }: Incoming): Client {
    if (this.#keys.length === 0) return new Client(undefined, socket?.remoteAddress ?? socket);
    const { authorization = '', 'x-api-key': alone } = headers;
    const key =
      /^Bearer +(\S+) *$/i.exec(authorization)?.[1] ?? (typeof alone === 'string' ? alone : undefined);
    const given = digest(key ?? '');
    // All keys are compared, each in constant time: how long it takes says nothing about any of them.
    let found: Client | undefined;
    for (const { digest, client } of this.#keys) if (timingSafeEqual(digest, given)) found = client;
    if (found && key !== undefined) return found;
    throw new ApiError(
      401,
      key === undefined
        ? 'you must provide an API key: Authorization: Bearer KEY'
        : 'the API key is not known here',
      { code: 'invalid_api_key', type: 'authentication_error', headers: { 'www-authenticate': 'Bearer' } },
    );
  }
}
