/**
 * Whether a request comes from a page of another site. Such a page reaches a server on this machine through the browser of who visits it:
 * under its own Origin, or under its own name as Host, which it lets lead to 127.0.0.1 after it has been loaded (DNS rebinding).
 */
import { check, describe, isListOf } from '../validate';
import { ApiError } from './api_error';
import type { Cors } from './cors';
import type { Incoming } from './exchange';

export interface SiteSettings {
  readonly apiKeys: readonly unknown[];
  /** Names beside those of this machine. */
  readonly allowedHosts: readonly string[];
  readonly cors: Cors;
}

/** The name or address in a host with or without a port, or in an origin; undefined for what is neither. */
function nameOf(url: string): string | undefined {
  try {
    return new URL(url).hostname;
  } catch {
    return undefined;
  }
}

/** Addresses need no list of names that lead to them: only a name can be made to lead elsewhere. */
const ownName = /^(localhost|127(\.\d+){3}|\[::1\])$/;
const ownAddress = /^((::ffff:)?127\.|::1$)/;

/** @throws ERR_ARGUMENT for what is no list of names. */
export function checkAllowedHosts(op: string, given: unknown): asserts given is readonly string[] {
  const isName = (one: unknown): one is string =>
    typeof one === 'string' && nameOf(`http://${one}`) === one.toLowerCase();
  const wrong: unknown = Array.isArray(given) ? given.find((one) => !isName(one)) : given;
  check(
    isListOf(given, isName),
    op,
    () =>
      `expected allowedHosts to be names such as 'chat.example.com', without a port, but received ${describe(wrong)}`,
  );
}

/**
 * Keys keep other sites out, since their pages have none. Without keys, who connects to an address of this machine has to name it as its own
 * programs do; elsewhere the server cannot know its names, unless it is told.
 * @throws 403
 */
export function checkSite(
  { headers, socket }: Incoming,
  { apiKeys, allowedHosts, cors }: SiteSettings,
): void {
  const guarded = apiKeys.length === 0 && ownAddress.test(socket?.localAddress ?? '');
  if (!guarded && allowedHosts.length === 0) return;
  const allowed = (name: string | undefined): boolean =>
    name !== undefined && (ownName.test(name) || allowedHosts.some((one) => one.toLowerCase() === name));
  const { host, origin } = headers;
  if (host !== undefined && !allowed(nameOf(`http://${host}`)))
    throw refusal(`the host ${describe(host)}`, 'host_not_allowed');
  if (origin !== undefined && !cors.allows(origin) && !allowed(nameOf(origin)))
    throw refusal(`pages of the origin ${describe(origin)}`, 'origin_not_allowed');
}

const refusal = (what: string, code: string): ApiError =>
  new ApiError(403, `${what} may not be used here: the server answers localhost and its allowedHosts`, {
    code,
  });
