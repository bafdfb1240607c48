import { open } from 'node:fs/promises';
import { LoRAError } from '../errors';
import { checkLimit, checkNesting, defaultLimits, type Limits } from './limits';
import { recognise } from './recognise';

/** Why a file could not be read or written, from the error that Node gives. */
export function systemReason(error: unknown): string {
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  switch (code) {
    case 'ENOENT':
      return 'no such file';
    case 'ENOTDIR':
      return 'a part of the path is not a directory';
    case 'EISDIR':
      return 'it is a directory';
    case 'EACCES':
    case 'EPERM':
      return 'permission denied';
    case 'ENOSPC':
      return 'no space left on the device';
    case 'EROFS':
      return 'the file system is read-only';
    case undefined:
    default:
      return error instanceof Error ? error.message : String(error);
  }
}

/** Which bound holds for the size of a text file. */
export type SizeLimit = 'jsonBytes' | 'tokenizerBytes';

/** The file's text; ERR_FILE when it is missing, larger than the bound or not UTF-8. A byte order mark is dropped. */
export async function readText(
  path: string,
  limits = defaultLimits,
  size: SizeLimit = 'jsonBytes',
): Promise<string> {
  let bytes: Buffer;
  try {
    const file = await open(path);
    try {
      const { size: length } = await file.stat();
      checkLimit(limits, size, length, `${path} has ${length} bytes`);
      bytes = await file.readFile();
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof LoRAError) throw error;
    throw new LoRAError('ERR_FILE', `cannot read ${path}: ${systemReason(error)}`, { cause: error });
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (error) {
    throw new LoRAError('ERR_FILE', `${path} is not UTF-8 text`, { cause: error });
  }
}

/** The parsed content of a JSON file; ERR_FILE when it is missing, not JSON, or beyond a bound. */
export async function readJson(path: string, limits?: Limits, size?: SizeLimit): Promise<unknown> {
  const text = await readText(path, limits, size);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    const what = recognise(Buffer.from(text.slice(0, 512)));
    const reason = what ?? `is not valid JSON: ${error instanceof Error ? error.message : String(error)}`;
    throw new LoRAError('ERR_FILE', `${path} ${reason}`, { cause: error });
  }
  checkNesting(value, limits ?? defaultLimits, path);
  return value;
}

/** True for an object that JSON text could give: neither an array nor null. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
