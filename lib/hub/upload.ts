/** Large files into the storage of the hub, as Git LFS has it: the hub says what is missing, and where each of it goes, whole or in parts. */
import { isRecord } from '../validate';
import { passing, Refused, textOf, type Answer, type Connection } from './connection';
import type { PushedFile } from './pushed_file';

const lfsType = 'application/vnd.git-lfs+json';
/** Files that the hub is asked about at a time. */
export const batchFiles = 100;
/** Parts of a file that are sent at a time. */
const together = 4;
/** Times that the hub is asked for new addresses when storage refuses those that it gave. */
const renewals = 3;

/** A file whose hash is known. */
export interface LargeFile {
  readonly file: PushedFile;
  /** SHA-256 of its content. */
  readonly oid: string;
}

/** What an upload needs to know of its surroundings. */
export interface Upload {
  readonly connection: Connection;
  /** The address of the repository, of LFS. */
  readonly batchAddress: string;
  readonly branch: string;
  /** Bytes that were sent, or, below 0, that have to be sent once more. */
  readonly onBytes: (bytes: number, name: string) => void;
  /** The error for an answer that is no success. */
  readonly refuse: (answer: Answer, doing: string) => Promise<Error>;
  /** The error for an answer that does not say what it should. */
  readonly wrong: (message: string) => Error;
}

interface Action {
  readonly href: string;
  readonly header: Readonly<Record<string, string>>;
}

interface Actions {
  readonly upload: Action;
  readonly verify?: Action | undefined;
}

/** Storage refuses an address that it was given: it may have expired while other files were sent. */
class Expired extends Error {}

function actionOf(value: unknown): Action | undefined {
  if (!isRecord(value) || typeof value['href'] !== 'string') return undefined;
  const header = isRecord(value['header']) ? value['header'] : {};
  const texts = Object.entries(header).map(([name, text]) => [name, String(text)] as const);
  return { href: value['href'], header: Object.fromEntries(texts) };
}

/** What the hub wants of each file, by its hash; nothing of what it has. @throws what `wrong` gives */
async function ask(upload: Upload, files: readonly LargeFile[]): Promise<Map<string, Actions>> {
  const { connection, batchAddress, branch, wrong } = upload;
  const body = JSON.stringify({
    operation: 'upload',
    transfers: ['basic', 'multipart'],
    hash_algo: 'sha_256',
    ref: { name: branch },
    objects: files.map(({ oid, file }) => ({ oid, size: file.size })),
  });
  const headers = { accept: lfsType, 'content-type': lfsType };
  const json = await sendJson(upload, 'asks where large files go', () =>
    connection.ask(batchAddress, { method: 'POST', headers, body }),
  );
  const { transfer = 'basic', objects } = isRecord(json) ? json : {};
  if (transfer !== 'basic' && transfer !== 'multipart')
    throw wrong(`the hub takes large files by ${String(transfer).slice(0, 40)} alone, and not by LFS`);
  if (!Array.isArray(objects)) throw wrong('the hub does not say where large files go');
  const found = new Map<string, Actions>();
  for (const { oid, file } of files) {
    const object: unknown = objects.find((one) => isRecord(one) && one['oid'] === oid);
    if (!isRecord(object)) throw wrong(`the hub does not say where ${file.name} goes`);
    if (isRecord(object['error']))
      throw wrong(`the hub does not take ${file.name}: ${String(object['error']['message']).slice(0, 300)}`);
    const actions = isRecord(object['actions']) ? object['actions'] : {};
    if (actions['upload'] === undefined) continue;
    const to = actionOf(actions['upload']);
    if (to === undefined) throw wrong(`the hub gives no address for ${file.name}`);
    found.set(oid, { upload: to, verify: actionOf(actions['verify']) });
  }
  return found;
}

/** Makes a request until it succeeds, and reads the JSON of its answer. */
export async function sendJson(
  { connection, refuse }: Pick<Upload, 'connection' | 'refuse'>,
  doing: string,
  request: () => Promise<Answer>,
): Promise<unknown> {
  const text = await connection.persist(async () => {
    const answer = await request();
    try {
      const later = passing(answer);
      if (later !== undefined) throw later;
      if (answer.status >= 300) throw await refuse(answer, doing);
      return await textOf(answer);
    } finally {
      answer.close();
    }
  });
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

/** The address that an action leads to; from https, one of https. */
function checked({ connection, wrong }: Upload, href: string, name: string): string {
  const url = URL.canParse(href) ? new URL(href) : undefined;
  const secure = new URL(connection.settings.endpoint).protocol === 'https:';
  const usable = url?.protocol === 'https:' || (!secure && url?.protocol === 'http:');
  if (!usable || url.username !== '') throw wrong(`the hub gives no usable address for ${name}`);
  return href;
}

/** Sends a stretch of a file to an address of storage. @returns the answer's etag */
async function put(
  upload: Upload,
  { file }: LargeFile,
  href: string,
  headers: Record<string, string>,
  start: number,
  length: number,
): Promise<string | null> {
  const { connection, onBytes, refuse } = upload;
  const address = checked(upload, href, file.name);
  let counted = 0;
  const count = (bytes: number): void => {
    counted += bytes;
    onBytes(bytes, file.name);
  };
  return connection.persist(async () => {
    count(-counted);
    const body = file.body(start, length, count);
    const answer = await connection.ask(address, { method: 'PUT', headers, body, signed: true });
    try {
      await file.checkUnchanged(); // an answer may come before the end of the body is asked for
      const later = passing(answer);
      if (later !== undefined) throw later;
      if (answer.status === 403) throw new Expired();
      if (answer.status >= 300) throw await refuse(answer, `takes ${file.name}`);
      count(length - counted);
      return answer.headers.get('etag');
    } finally {
      answer.close();
    }
  });
}

/** Does something for each item, a few at a time. The first failure stops the others and is told when they have stopped. */
async function each<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  let next = 0;
  const failures: unknown[] = [];
  const worker = async (): Promise<void> => {
    while (next < items.length && failures.length === 0)
      await work(items[next++]!).catch((error: unknown) => void failures.push(error));
  };
  await Promise.all(Array.from({ length: Math.min(together, items.length) }, worker));
  if (failures.length > 0) throw failures[0];
}

/** Sends a file in parts, and has them put together. */
async function putParts(upload: Upload, large: LargeFile, { href, header }: Action): Promise<void> {
  const { connection, refuse, wrong } = upload;
  const { file, oid } = large;
  const size = Number(header['chunk_size']);
  const numbers = Object.keys(header)
    .filter((key) => /^\d+$/.test(key))
    .sort((a, b) => Number(a) - Number(b));
  const complete = numbers.every((key, i) => Number(key) === i + 1);
  if (!Number.isSafeInteger(size) || size < 1 || !complete || numbers.length !== Math.ceil(file.size / size))
    throw wrong(
      `the hub gives ${numbers.length} parts of ${size} bytes for the ${file.size} of ${file.name}`,
    );
  const etags: string[] = [];
  await each(numbers, async (key) => {
    const start = (Number(key) - 1) * size;
    const etag = await put(upload, large, header[key]!, {}, start, Math.min(size, file.size - start));
    if (etag === null) throw wrong(`storage does not say what it got of ${file.name}`);
    etags[Number(key) - 1] = etag;
  });
  const body = JSON.stringify({ oid, parts: etags.map((etag, i) => ({ partNumber: i + 1, etag })) });
  const headers = { accept: lfsType, 'content-type': lfsType };
  const address = checked(upload, href, file.name);
  await sendJson({ connection, refuse }, `puts the parts of ${file.name} together`, () =>
    connection.ask(address, { method: 'POST', headers, body, signed: true }),
  );
}

async function send(upload: Upload, large: LargeFile, { upload: to, verify }: Actions): Promise<void> {
  const { connection, refuse } = upload;
  const { file, oid } = large;
  if ('chunk_size' in to.header) await putParts(upload, large, to);
  else await put(upload, large, to.href, { ...to.header }, 0, file.size);
  if (verify === undefined) return;
  const headers = { ...verify.header, accept: lfsType, 'content-type': lfsType };
  const address = checked(upload, verify.href, file.name);
  const body = JSON.stringify({ oid, size: file.size });
  await sendJson({ connection, refuse }, `checks ${file.name}`, () =>
    connection.ask(address, { method: 'POST', headers, body }),
  );
}

/**
 * Sends those of the files, 100 at most, that the hub does not have. A part that is cut is sent again alone; where storage refuses an address, the hub is asked for
 * new ones, and what it has got by then is not sent again.
 *
 * Errors: what `refuse` and `wrong` give; ERR_FILE for a file that changes; Passing, Refused; the reason of the signal.
 */
export async function uploadLarge(upload: Upload, files: readonly LargeFile[]): Promise<void> {
  const { onBytes } = upload;
  let open = [...new Map(files.map((large) => [large.oid, large])).values()];
  for (const { file } of files.filter((large) => !open.includes(large))) onBytes(file.size, file.name);
  for (let renewed = 0; open.length > 0;) {
    const actions = await ask(upload, open);
    try {
      for (const large of [...open]) {
        await sendMissing(upload, large, actions.get(large.oid));
        open = open.filter((one) => one !== large);
      }
    } catch (error) {
      if (!(error instanceof Expired)) throw error;
      if (++renewed > renewals) throw new Refused('storage refuses the addresses that the hub gives (403)');
    }
  }
}

/** @throws Expired, and then nothing of the file is counted */
async function sendMissing(upload: Upload, large: LargeFile, actions: Actions | undefined): Promise<void> {
  const { file } = large;
  if (actions === undefined) return upload.onBytes(file.size, file.name);
  let counted = 0;
  const onBytes = (bytes: number, name: string): void => {
    counted += bytes;
    upload.onBytes(bytes, name);
  };
  try {
    await send({ ...upload, onBytes }, large, actions);
  } catch (error) {
    if (error instanceof Expired) onBytes(-counted, file.name);
    throw error;
  }
}
