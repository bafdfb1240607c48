/** The body of a request: JSON of a bounded size, which comes within a bounded time. */
import { describe, isRecord } from '../validate';
import { ApiError, invalid } from './api_error';
import { BodyScan } from './body_scan';
import type { Incoming } from './exchange';
import type { Fields } from './fields';
import type { HeldBytes } from './waiting_bytes';

/** Whose body it is. */
export interface BodyOwner {
  readonly held: HeldBytes;
  /** Aborted where the body is not wanted any more. */
  readonly signal: AbortSignal;
}

export interface BodyLimits {
  readonly maxBodyBytes: number;
  readonly bodyTimeoutMs: number;
}

const closing = { connection: 'close' };

/**
 * Bytes of a body that is refused which are read all the same: a client that still writes when the connection closes does not hear why. Beyond
 * them it is closed.
 */
const maxDiscarded = 64 * 2 ** 20;

const tooLarge = (most: number): ApiError =>
  new ApiError(413, `expected a body of at most ${most} bytes`, {
    code: 'request_too_large',
    headers: closing,
  });

const endedEarly = (): ApiError => new ApiError(400, 'the body ended early', { headers: closing });

/** Why the body is refused before any of it is read. */
function refusalOf({ headers }: Incoming, { maxBodyBytes }: BodyLimits): ApiError | undefined {
  const { 'content-encoding': encoding, 'content-length': length } = headers;
  if (encoding !== undefined && encoding !== 'identity')
    return new ApiError(415, `expected a body without content-encoding but received ${describe(encoding)}`, {
      code: 'unsupported_media_type',
      headers: closing,
    });
  return Number(length ?? 0) > maxBodyBytes ? tooLarge(maxBodyBytes) : undefined;
}

/** All bytes of the body. One that is refused, before or on the way, is read to its end but not kept. */
function readBytes(
  request: Incoming,
  limits: BodyLimits,
  { held, signal }: BodyOwner,
  refused: ApiError | undefined,
): Promise<Buffer> {
  const { maxBodyBytes, bodyTimeoutMs } = limits;
  return new Promise((resolve, reject) => {
    if (request.destroyed) return reject(endedEarly());
    const pieces: Buffer[] = [];
    const scan = new BodyScan(maxBodyBytes);
    let refusal: Error | undefined = refused;
    let bytes = 0;
    const late = (): void =>
      end(
        new ApiError(408, `the body did not come within ${bodyTimeoutMs} ms`, {
          code: 'timeout',
          headers: closing,
        }),
      );
    const timer = setTimeout(late, bodyTimeoutMs);
    const end = (error?: Error): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', unwanted);
      request.off('data', take).off('end', whole).off('close', cut).off('error', cut);
      request.on('error', () => undefined); // of a connection that goes after it
      if (error) request.pause();
      if (refusal ?? error) reject((refusal ?? error)!);
      else resolve(Buffer.concat(pieces));
    };
    const take = (piece: Buffer): void => {
      bytes += piece.length;
      if (bytes > maxBodyBytes) refusal ??= tooLarge(maxBodyBytes);
      else if (!refusal) scan.take(piece);
      refusal ??= scan.refusal;
      if (!refusal) pieces.push(piece);
      else pieces.length = 0;
      if (!refusal) held.take(piece.length); // which may refuse it
      if (bytes > maxBodyBytes + maxDiscarded) end(refusal);
    };
    const unwanted = (): void => {
      refusal ??= signal.reason as Error;
      pieces.length = 0;
    };
    signal.addEventListener('abort', unwanted);
    const whole = (): void => end();
    const cut = (): void => end(endedEarly());
    request.on('data', take).on('end', whole).on('close', cut).on('error', cut);
  });
}

function parsed(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch {
    throw invalid('we could not parse the JSON body of your request', undefined, 'invalid_json');
  }
}

/**
 * The body that a parser has read before: its value, or its bytes or text.
 * @throws 500 where the parser keeps what it has read to itself, which only the program can mend.
 */
function parsedBefore({ body }: Incoming, { maxBodyBytes }: BodyLimits): unknown {
  if (body === undefined)
    throw new ApiError(
      500,
      'the body was read before the request came here, and request.body does not hold it: mount this handler before the body parser, ' +
        'or set request.body to what was parsed, as express.json() does (Fastify: request.raw.body = request.body; a Request: read a clone() of it)',
      { code: 'body_already_read' },
    );
  if (typeof body !== 'string' && !(body instanceof Uint8Array)) return body;
  const bytes = Buffer.from(body);
  if (bytes.length > maxBodyBytes) throw tooLarge(maxBodyBytes);
  const scan = new BodyScan(maxBodyBytes);
  scan.take(bytes);
  if (scan.refusal) throw scan.refusal;
  return parsed(bytes);
}

/** @throws 400 for what is no JSON object, 408, 413, 415; 500 where it is not to be had. */
export async function readFields(request: Incoming, limits: BodyLimits, owner: BodyOwner): Promise<Fields> {
  const { 'content-type': type = '' } = request.headers;
  // Pages of other sites may send other types to a server on this machine without asking.
  const wrongType = /^application\/json\s*(;|$)/i.test(type)
    ? undefined
    : new ApiError(415, `expected content-type application/json but received ${describe(type)}`, {
        code: 'unsupported_media_type',
        headers: closing,
      });
  const wasRead = request.wasRead || request.readableDidRead;
  if (wasRead && wrongType) throw wrongType;
  if (wasRead) owner.held.take(Math.min(Number(request.headers['content-length'] ?? 0), limits.maxBodyBytes));
  owner.signal.throwIfAborted();
  const value = wasRead
    ? parsedBefore(request, limits)
    : parsed(await readBytes(request, limits, owner, wrongType ?? refusalOf(request, limits)));
  if (!isRecord(value))
    throw invalid(`expected the body to be a JSON object but received ${describe(value)}`);
  return value;
}
