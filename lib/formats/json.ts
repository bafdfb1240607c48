import { readFile } from 'node:fs/promises';
import { LoRAError } from '../errors';
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

/** The file's text; ERR_FILE when it is missing or not UTF-8. A byte order mark is dropped. */
export async function readText(path: string): Promise<string> {
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (error) {
    throw new LoRAError('ERR_FILE', `cannot read ${path}: ${systemReason(error)}`, { cause: error });
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (error) {
    throw new LoRAError('ERR_FILE', `${path} is not UTF-8 text`, { cause: error });
  }
}

/** The parsed content of a JSON file; ERR_FILE when it is missing or not JSON. */
export async function readJson(path: string): Promise<unknown> {
  const text = await readText(path);
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    const what = recognise(Buffer.from(text.slice(0, 512)));
    const reason = what ?? `is not valid JSON: ${error instanceof Error ? error.message : String(error)}`;
    throw new LoRAError('ERR_FILE', `${path} ${reason}`, { cause: error });
  }
}

/** True for an object that JSON text could give: neither an array nor null. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
