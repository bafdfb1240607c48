/** Sentences for what the hub refuses: what is the matter, and what to do. */
import { LoRAError, loraError } from '../errors';
import type { Answer } from './connection';
import { kindNames, type RepositoryName } from './names';
import type { HubSettings } from './settings';

/** What a failure is about. */
export interface Subject {
  readonly op: string;
  readonly repository: RepositoryName;
  readonly settings: HubSettings;
}

export function hubError({ op }: Subject, message: string, cause?: unknown): LoRAError {
  return loraError(op, 'ERR_HUB', message, cause);
}

/** The address of a repository, which is also the page where terms are accepted. */
export const pageOf = ({ repository: { kind, id }, settings }: Subject): string =>
  `${settings.endpoint}/${kind === 'model' ? '' : `${kindNames[kind].plural}/`}${id}`;

/** Where nothing of that name is on the hub, the path may have been meant. */
const noFolder = ({ repository: { bare, source, kind } }: Subject): string =>
  bare ? `there is no ${kind === 'model' ? '' : 'file or '}folder ${source}, and ` : '';

/** The error for an answer that is neither a success nor a failure that may pass. `file` is what was asked for. */
export function refusal(subject: Subject, { status, headers }: Answer, file?: string): LoRAError {
  const { repository, settings } = subject;
  const { id, revision } = repository;
  const code = headers.get('x-error-code');
  const said = headers.get('x-error-message') ?? '';
  const { token, tokenFrom } = settings;
  const login = 'give a token: `hf auth login`, HF_TOKEN, or { token }';
  if (code === 'GatedRepo')
    return hubError(
      subject,
      `${id} is gated: accept its terms on ${pageOf(subject)}, then ${
        token === undefined ? login : `try again; the token from ${tokenFrom} may not read it yet`
      }`,
    );
  if (code === 'RevisionNotFound') return hubError(subject, `${id} has no revision ${revision}`);
  if (code === 'EntryNotFound' && file !== undefined)
    return hubError(subject, `${id} has no ${file} at ${revision}`);
  if (status === 401 && /credentials|token/i.test(said) && token !== undefined)
    return hubError(subject, `the hub refuses the token from ${tokenFrom}: it may have been revoked`);
  if (status === 403 && /disabled/i.test(said)) return hubError(subject, `the hub has closed ${id}`);
  if (code === 'RepoNotFound' || status === 401 || status === 404)
    return hubError(
      subject,
      `${noFolder(subject)}the hub has no ${kindNames[repository.kind].word} ${id}, or it is private: check the name${
        token === undefined ? `, or ${login}` : `; the token from ${tokenFrom} may not read it`
      }`,
    );
  if (status === 403)
    return hubError(
      subject,
      `the hub does not let ${token === undefined ? 'those without a token' : `the token from ${tokenFrom}`} read ${id}: see ${pageOf(subject)}`,
    );
  return hubError(subject, `the hub answers ${status} for ${file ?? id}`);
}

/** The error for what the hub does not take. `doing` is what it was asked for, `said` its own words. */
export function pushRefusal(subject: Subject, answer: Answer, doing: string, said: string): LoRAError {
  const { repository, settings } = subject;
  const { id, revision } = repository;
  const { status } = answer;
  const words = said === '' ? '' : `: it says ${JSON.stringify(said)}`;
  if (status === 401)
    return hubError(subject, `the hub refuses the token from ${settings.tokenFrom}${words}`);
  if (status === 403)
    return hubError(
      subject,
      `the token from ${settings.tokenFrom} may not write to ${id}: it needs the role write, in the organization too${words}`,
    );
  if (status === 412)
    return hubError(subject, `${id} has got another commit on ${revision} meanwhile: push again`);
  return hubError(subject, `the hub answers ${status} where it ${doing}${words}`);
}

/** The error for a failure that did not pass. */
export function unreachable(subject: Subject, error: Error): LoRAError {
  return hubError(
    subject,
    `${noFolder(subject)}${subject.settings.endpoint} gives no ${subject.repository.id}: ${error.message}`,
    error,
  );
}
