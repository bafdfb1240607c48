/** Whose request it is, and that the time to find out tells nothing of a key. */
import crypto from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { ApiError } from '../../lib/serve/api_error';
import { Clients } from '../../lib/serve/clients';

const keys = ['first-secret', { key: 'x', name: 'short' }, 'a'.repeat(500), 'last-secret'];
const clients = new Clients(keys, 'createOpenAIHandler');

/** The name of the client with these headers, or the code and the words that it is refused with, and the comparisons on the way. */
function found(authorization: string | undefined) {
  const compared = jest.spyOn(crypto, 'timingSafeEqual');
  const hashed = jest.spyOn(crypto, 'createHash');
  try {
    const request = { headers: { authorization }, socket: { remoteAddress: '::1' } };
    let who: unknown;
    try {
      who = clients.of(request as unknown as IncomingMessage).name;
    } catch (error) {
      who = error instanceof ApiError ? [error.status, error.code] : error;
    }
    const lengths = compared.mock.calls.map(([a, b]) => [a.byteLength, b.byteLength]);
    return { who, lengths, hashed: hashed.mock.calls.map(([algorithm]) => algorithm) };
  } finally {
    compared.mockRestore();
    hashed.mockRestore();
  }
}

const unknown = [401, 'invalid_api_key'];

test.each<[what: string, authorization: string | undefined, who: unknown]>([
  ['the first key', 'Bearer first-secret', 'key-1'],
  ['one of a single character', 'bearer x', 'short'],
  ['a long one', `Bearer ${'a'.repeat(500)}`, 'key-3'],
  ['the last one, with spaces around it', 'Bearer  last-secret ', 'key-4'],
  ['the beginning of a key', 'Bearer first-secre', unknown],
  ['a key and more', 'Bearer first-secretx', unknown],
  ['one that differs in its last character', 'Bearer last-secreT', unknown],
  ['one of another length', `Bearer ${'a'.repeat(100_000)}`, unknown],
  ['characters beyond ASCII', 'Bearer schlüssel-\u{1f511}', unknown],
  ['bytes that look like a key', 'Bearer ﬁrst-secret', unknown],
  ['an empty one', 'Bearer ', unknown],
  ['no header', undefined, unknown],
  ['two keys', 'Bearer first-secret last-secret', unknown],
  ['another scheme', 'Basic first-secret', unknown],
])('%s: each key is compared once, as digests of one length, by timingSafeEqual', (_, authorization, who) => {
  expect(found(authorization)).toEqual({
    who,
    lengths: keys.map(() => [32, 32]),
    hashed: ['sha256'],
  });
});

test('keys that no header could carry are refused when the handler is made', () => {
  for (const key of ['', 'with space', 'schlüssel', 'line\n'])
    expect(() => new Clients([key], 'createOpenAIHandler')).toThrow(
      'expected the API key at place 1 to be a text of visible ASCII',
    );
});

test('without keys, clients are told apart by their addresses', () => {
  const open = new Clients([], 'createOpenAIHandler');
  const at = (remoteAddress: string) =>
    open.of({ headers: {}, socket: { remoteAddress } } as unknown as IncomingMessage).lane;
  expect(at('::1')).toBe(at('::1'));
  expect(at('::1')).not.toBe(at('::2'));
});
