import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { LoRAError } from '../errors';
import { check, describe } from '../validate';

/** A file-system path from a string or a file: URL. */
export function toPath(path: string | URL, op: string): string {
  if (path instanceof URL || Object.prototype.toString.call(path) === '[object URL]') {
    const url = new URL(String(path));
    check(url.protocol === 'file:', op, `expected a path or a file: URL but received ${url.href}`);
    return fileURLToPath(url);
  }
  check(typeof path === 'string' && path !== '', op, `expected a path but received ${describe(path)}`);
  check(!path.includes('\0'), op, 'expected a path without NUL characters');
  return path;
}

/** The id of a repository of the hub, with or without its prefix, and a revision. */
const repository = /^(?:hf:)?([A-Za-z0-9][\w.-]*\/([A-Za-z0-9][\w.-]*))(?:@(\S+))?$/;

/**
 * The path of a folder with a model or an adapter.
 * @throws ERR_UNSUPPORTED for what names a repository of the hub, and no folder here: nothing is downloaded.
 */
export function toFolder(source: string | URL, op: string): string {
  const path = toPath(source, op);
  const [, id, name, revision] = repository.exec(String(source)) ?? [];
  const prefixed = String(source).startsWith('hf:');
  if (!prefixed && (id === undefined || existsSync(path))) return path;
  const what = prefixed ? `${path} is of the hub` : `there is no folder ${path}`;
  const message = `[${op}] ${what}, and nothing is downloaded yet: ${download(id, name, revision)}`;
  throw new LoRAError('ERR_UNSUPPORTED', message, { op });
}

/** What to do in the place of a download. */
export const download = (id = 'ORG/NAME', name = 'NAME', revision?: string): string =>
  `download it (hf download ${id}${revision === undefined ? '' : ` --revision ${revision}`} --local-dir ${name}) and pass the folder`;
