/** The body of a request: JSON of a bounded size, which comes within a bounded time. */
import type { IncomingMessage } from 'node:http';
import { isRecord } from '../formats/json';
import { describe } from '../validate';
import { ApiError, invalid } from './api_error';
import { BodyScan } from './body_scan';
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

/**
 * All bytes of the body. What is left of one that is too long is not read: the connection is closed after the answer. One that the scan refuses
 * is read to its end, so that its client hears why, but not kept.
 */
function readBytes(request: IncomingMessage, { maxBodyBytes, bodyTimeoutMs }: BodyLimits): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const pieces: Buffer[] = [];
    const scan = new BodyScan(maxBodyBytes);
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
      } else if (scan.refusal) reject(scan.refusal);
      else resolve(Buffer.concat(pieces));
    };
    const take = (piece: Buffer): void => {
      bytes += piece.length;
      if (bytes > maxBodyBytes) return end(tooLarge(maxBodyBytes));
      scan.take(piece);
      if (scan.refusal) pieces.length = 0;
      else pieces.push(piece);
    };
    const cut = (): void => end(new ApiError(400, 'the body ended early', { headers: closing }));
    request.on('data', take).on('end', end).on('close', cut).on('error', end);
  });
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
