/** The body of a commit: JSON by lines, a header and then the files. */
import type { StreamedBody } from './connection';
import type { PushedFile } from './pushed_file';

/** A file that goes into the commit. */
export interface Change {
  readonly file: PushedFile;
  /** SHA-256 of what goes into large storage. */
  readonly oid?: string | undefined;
}

/** The first line of a message is the title of the commit. */
function headerOf(message: string, parentCommit: string): object {
  const [summary, ...rest] = message.trim().split(/\r?\n/);
  const description = rest.join('\n').trim();
  return { summary, ...(description !== '' && { description }), parentCommit };
}

/** A line for each file; what is small lies in it, in base64, and is read while it is sent. */
export function commitBody(message: string, parent: string, changes: readonly Change[]): StreamedBody {
  const lineOf = (key: string, value: object): string => JSON.stringify({ key, value });
  /** What is before the content of a small file, and behind it. */
  const around = (file: PushedFile): [string, string] => {
    const [before, after] = lineOf('file', { content: '\0', path: file.name, encoding: 'base64' }).split(
      '\\u0000',
    );
    return [before!, after!];
  };
  const largeLine = ({ file, oid }: Change): string =>
    lineOf('lfsFile', { path: file.name, algo: 'sha256', size: file.size, oid });
  const first = lineOf('header', headerOf(message, parent));
  const length = changes.reduce((sum, change) => {
    if (change.oid !== undefined) return sum + 1 + Buffer.byteLength(largeLine(change));
    const [before, after] = around(change.file);
    return sum + 1 + Buffer.byteLength(before + after) + 4 * Math.ceil(change.file.size / 3);
  }, Buffer.byteLength(first));
  async function* pieces(): AsyncGenerator<Uint8Array> {
    yield Buffer.from(first);
    for (const change of changes) {
      if (change.oid !== undefined) {
        yield Buffer.from(`\n${largeLine(change)}`);
        continue;
      }
      const [before, after] = around(change.file);
      yield Buffer.from(`\n${before}`);
      for await (const text of change.file.base64()) yield Buffer.from(text);
      yield Buffer.from(after);
    }
  }
  return { length, pieces };
}
