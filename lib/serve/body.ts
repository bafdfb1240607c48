/** The body of a request: JSON of a bounded size, which comes within a bounded time. */
import type { IncomingMessage } from 'node:http';
import { isRecord } from '../formats/json';
import { defaultLimits } from '../formats/limits';
import { describe } from '../validate';
import { ApiError, invalid } from './api_error';
import type { Fields } from './fields';

export interface BodyLimits {
  readonly maxBodyBytes: number;
  readonly bodyTimeoutMs: number;
}

const closing = { connection: 'close' };

const tooLarge = (most: number): ApiError =>
  new ApiError(413, `expected a body of at most ${most} bytes`, {
    code: 'request_too_large',
    headers: closing,
  });

/** All bytes of the body. What is left of one that is refused is not read: the connection is closed after the answer. */
function readBytes(request: IncomingMessage, { maxBodyBytes, bodyTimeoutMs }: BodyLimits): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const pieces: Buffer[] = [];
    let bytes = 0;
    const timer = setTimeout(
      () =>
        end(
          new ApiError(408, `the body did not come within ${bodyTimeoutMs} ms`, {
            code: 'timeout',
            headers: closing,
          }),
        ),
      bodyTimeoutMs,
    );
    const end = (error?: Error): void => {
      clearTimeout(timer);
      request.off('data', take).off('end', end).off('close', cut).off('error', end);
      request.on('error', () => undefined); // of a connection that goes after it
      if (error) {
        request.pause();
        reject(error);
      } else resolve(Buffer.concat(pieces));
    };
    const take = (piece: Buffer): void => {
      bytes += piece.length;
      if (bytes > maxBodyBytes) end(tooLarge(maxBodyBytes));
      else pieces.push(piece);
    };
    const cut = (): void => end(new ApiError(400, 'the body ended early', { headers: closing }));
    request.on('data', take).on('end', end).on('close', cut).on('error', end);
  });
}

const [quote, backslash, openList, closeList, openObject, closeObject] = Buffer.from('"\\[]{}');

/**
 * Whether lists and objects of JSON text are nested deeper than `most`. The text is looked at before it is parsed: the parser takes about
 * a second for millions of brackets within each other, and the event loop with it. What is no JSON is for the parser to tell.
 */
function isNestedDeeper(text: Uint8Array, most: number): boolean {
  let depth = 0;
  let inString = false;
  for (let i = 0; i < text.length; i++) {
    const byte = text[i];
    if (byte === quote) inString = !inString;
    else if (inString) {
      if (byte === backslash) i++;
    } else if (byte === openList || byte === openObject) {
      if (++depth > most) return true;
    } else if (byte === closeList || byte === closeObject) depth--;
  }
  return false;
}

/** @throws 400 for what is no JSON object, 408, 413, 415. */
export async function readFields(request: IncomingMessage, limits: BodyLimits): Promise<Fields> {
  const {
    'content-type': type = '',
    'content-encoding': encoding,
    'content-length': length,
  } = request.headers;
  // Pages of other sites may send other types to a server on this machine without asking.
  if (!/^application\/json\s*(;|$)/i.test(type))
    throw new ApiError(415, `expected content-type application/json but received ${describe(type)}`, {
      code: 'unsupported_media_type',
      headers: closing,
    });
  if (encoding !== undefined && encoding !== 'identity')
    throw new ApiError(415, `expected a body without content-encoding but received ${describe(encoding)}`, {
      code: 'unsupported_media_type',
      headers: closing,
    });
  if (Number(length ?? 0) > limits.maxBodyBytes) throw tooLarge(limits.maxBodyBytes);
  const bytes = await readBytes(request, limits);
  if (isNestedDeeper(bytes, defaultLimits.nesting))
    throw invalid(`expected a body that is nested at most ${defaultLimits.nesting} levels deep`);
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch {
    throw invalid('we could not parse the JSON body of your request', undefined, 'invalid_json');
  }
  if (!isRecord(value))
    throw invalid(`expected the body to be a JSON object but received ${describe(value)}`);
  return value;
}
