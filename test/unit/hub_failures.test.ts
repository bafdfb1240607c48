/** What is said of each answer of the hub that is no success. */
import { refusal, type Subject } from '../../lib/hub/failures';
import type { Answer } from '../../lib/hub/connection';

const login = 'give a token: `hf auth login`, HF_TOKEN, or { token }';
const page = 'https://hub/org/name';

function said(
  status: number,
  headers: Record<string, string>,
  { token, bare = false, file }: { token?: string; bare?: boolean; file?: string } = {},
): string {
  const subject = {
    op: 'op',
    repository: { kind: 'model', id: 'org/name', revision: 'v1', source: './org/name', bare },
    settings: { endpoint: 'https://hub', token, tokenFrom: 'HF_TOKEN' },
  } as Subject;
  const error = refusal(subject, { status, headers: new Headers(headers) } as Answer, file);
  expect(error.code).toBe('ERR_HUB');
  return error.message;
}
const code = (name: string): Record<string, string> => ({ 'x-error-code': name });
const because = (message: string): Record<string, string> => ({ 'x-error-message': message });
const token = 'hf_x';

test.each<[what: string, message: string, sentence: string]>([
  [
    'gated, nobody asks',
    said(401, code('GatedRepo')),
    `org/name is gated: accept its terms on ${page}, then ${login}`,
  ],
  [
    'gated, with a token',
    said(403, code('GatedRepo'), { token }),
    `org/name is gated: accept its terms on ${page}, then try again; the token from HF_TOKEN may not read it yet`,
  ],
  ['no revision', said(404, code('RevisionNotFound')), 'org/name has no revision v1'],
  ['no file', said(404, code('EntryNotFound'), { file: 'a.json' }), 'org/name has no a.json at v1'],
  [
    'no entry where no file was asked for',
    said(404, code('EntryNotFound')),
    `the hub has no model org/name, or it is private: check the name, or ${login}`,
  ],
  [
    'a token that was revoked',
    said(401, because('Invalid credentials in Authorization header'), { token }),
    'the hub refuses the token from HF_TOKEN: it may have been revoked',
  ],
  [
    'the same words to one without a token',
    said(401, because('Invalid username or token'), {}),
    `the hub has no model org/name, or it is private: check the name, or ${login}`,
  ],
  [
    'the words of a revoked token with another status',
    said(403, because('this token may not'), { token }),
    `the hub does not let the token from HF_TOKEN read org/name: see ${page}`,
  ],
  ['closed', said(403, because('Access to this resource is disabled.')), 'the hub has closed org/name'],
  [
    'disabled, but not forbidden',
    said(500, because('this endpoint is disabled'), { file: 'a.json' }),
    'the hub answers 500 for a.json',
  ],
  [
    'no such repository, and a folder may have been meant',
    said(404, code('RepoNotFound'), { bare: true, token }),
    'there is no folder ./org/name, and the hub has no model org/name, or it is private: check the name; the token from HF_TOKEN may not read it',
  ],
  [
    'forbidden to all without a token',
    said(403, {}),
    `the hub does not let those without a token read org/name: see ${page}`,
  ],
  ['anything else', said(418, {}), 'the hub answers 418 for org/name'],
])('%s', (_, message, sentence) => expect(message).toBe(`[op] ${sentence}`));
