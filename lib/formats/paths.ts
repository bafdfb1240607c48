import { fileURLToPath } from 'node:url';
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
