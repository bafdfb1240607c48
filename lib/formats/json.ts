import { LoRAError } from '../errors';
import { InputFile } from './input';
import { jsonFault } from './json_scanner';
import type { Source } from './links';
import { checkLimit, checkNesting, defaultLimits, type Limits } from './limits';
import { recognize } from './recognize';

/** How a text file is read. */
export interface Reading {
  limits?: Limits | undefined;
  signal?: AbortSignal | undefined;
}

/** Which bound holds for the size of a text file. */
export type SizeLimit = 'jsonBytes' | 'tokenizerBytes';

/**
 * The file's text; ERR_FILE when it is missing, no regular file, larger than the bound, not UTF-8, or changed meanwhile. A byte
 * order mark is dropped.
 */
export async function readText(
  source: Source,
  { limits = defaultLimits, signal }: Reading = {},
  size: SizeLimit = 'jsonBytes',
): Promise<string> {
  const file = await InputFile.open(source, signal);
  const { path } = file;
  let bytes: Uint8Array;
  try {
    checkLimit(limits, size, file.size, `${path} has ${file.size} bytes`);
    bytes = await file.bytes(0, file.size);
    await file.checkUnchanged();
  } finally {
    await file.close();
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (error) {
    throw new LoRAError('ERR_FILE', `${path} is not UTF-8 text`, { cause: error });
  }
}

/** The parsed content of a JSON file; ERR_FILE when it is missing, not JSON, or beyond a bound. */
export async function readJson(source: Source, reading: Reading = {}, size?: SizeLimit): Promise<unknown> {
  const path = typeof source === 'string' ? source : source.path;
  return parseJson(await readText(source, reading, size), path, reading.limits);
}

/** The value of a JSON text that was read from `path`; ERR_FILE when it is not JSON, or nested beyond the bound. */
export function parseJson(text: string, path: string, limits = defaultLimits): unknown {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    const what = recognize(Buffer.from(text.slice(0, 512)));
    throw new LoRAError('ERR_FILE', `${path} ${what ?? `is not valid JSON: ${jsonFault(text)}`}`);
  }
  checkNesting(value, limits, path);
  return value;
}
