/** Which pages of other sites may use the server (https://fetch.spec.whatwg.org/#http-cors-protocol). */
import { check, checkOptions, describe } from '../validate';
import type { Incoming, Outgoing } from './exchange';

/** Which pages may use the server from a browser. */
export interface CorsOptions {
  /** Their origins, such as 'https://app.example'; '*' allows every page. */
  origin: string | readonly string[];
}

/** Seconds for which a browser need not ask again. */
const maxAge = '7200';

/** Whether a text is '*' or an origin as browsers send it. */
export function isOrigin(text: unknown): text is string {
  if (text === '*') return true;
  if (typeof text !== 'string' || text === 'null' || text.includes('*')) return false;
  try {
    return new URL(text).origin === text;
  } catch {
    return false;
  }
}

export class Cors {
  readonly #origins: ReadonlySet<string>;

  constructor(options: CorsOptions | undefined, op: string) {
    if (options !== undefined) checkOptions(op, options, ['origin']);
    const given: unknown = options === undefined ? [] : options.origin;
    const origins: readonly unknown[] = Array.isArray(given) ? given : [given];
    const wrong = origins.find((origin) => !isOrigin(origin));
    check(
      origins.every(isOrigin),
      op,
      `expected cors.origin to be '*' or origins such as 'https://app.example' but received ${describe(wrong)}`,
    );
    this.#origins = new Set(origins);
  }

  /** Whether pages of this origin may ask. */
  allows(origin: string): boolean {
    return this.#origins.has('*') || this.#origins.has(origin);
  }

  /** Lets the page that asks read the answer, whatever it will be. */
  open({ headers }: Incoming, response: Outgoing): void {
    if (this.#origins.size === 0) return;
    response.setHeader('vary', 'origin');
    const { origin } = headers;
    if (origin === undefined || !this.allows(origin)) return;
    response.setHeader('access-control-allow-origin', origin);
    response.setHeader('access-control-expose-headers', 'x-request-id, retry-after');
  }

  /** What a browser is told that asks before a page's request: no page is trusted with less than the whole API. */
  preflight({ headers }: Incoming, methods: string): Record<string, string> {
    const { origin, 'access-control-request-headers': asked } = headers;
    if (origin === undefined || !this.allows(origin)) return {};
    return {
      'access-control-allow-methods': methods,
      ...(typeof asked === 'string' && { 'access-control-allow-headers': asked }),
      'access-control-max-age': maxAge,
    };
  }
}
