/** Failures of requests, in the shape and with the codes of OpenAI's API. */
import { LoRAError } from '../errors';

export interface ApiErrorDetails {
  /** Names the kind of failure for programs, as OpenAI's API does. */
  readonly code?: string;
  /** The field of the request that is to blame. */
  readonly param?: string;
  /** Default: by the status. */
  readonly type?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly cause?: unknown;
}

/** What a client is told. */
export class ApiError extends Error {
  readonly status: number;
  readonly type: string;
  readonly code: string | null;
  readonly param: string | null;
  readonly headers: Readonly<Record<string, string>>;

  constructor(status: number, message: string, details: ApiErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.status = status;
    this.type = details.type ?? (status < 500 ? 'invalid_request_error' : 'server_error');
    this.code = details.code ?? null;
    this.param = details.param ?? null;
    this.headers = details.headers ?? {};
  }

  /** The body of the answer. */
  toJSON(): object {
    const { message, type, param, code } = this;
    return { error: { message, type, param, code } };
  }
}

/** A field that is not as it should be. */
export const invalid = (message: string, param?: string, code?: string): ApiError =>
  new ApiError(400, message, { param, code });

/** A field of OpenAI's API that this server cannot honor: to ignore it would give another answer than was asked for. */
export const unsupported = (param: string, why: string): ApiError =>
  new ApiError(400, `${param} is not supported here: ${why}`, { param, code: 'unsupported_parameter' });

/** More work than there is room for; clients of OpenAI wait as long as Retry-After says and try again. */
export const tooMany = (message: string, seconds = 1): ApiError =>
  new ApiError(429, message, {
    type: 'rate_limit_error',
    code: 'rate_limit_exceeded',
    headers: { 'retry-after': String(seconds) },
  });

/** The server cannot do it now, and the client may try again. */
export const unavailable = (message: string, code: string, cause?: unknown): ApiError =>
  new ApiError(503, message, { code, cause, headers: { 'retry-after': '1' } });

/** What the client is told of any failure: the words of a mistake of its own, and nothing of what happened within. */
export function toApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof LoRAError)
    switch (error.code) {
      case 'ERR_ARGUMENT':
      case 'ERR_DATA':
        return new ApiError(400, error.message, { cause: error });
      case 'ERR_UNSUPPORTED':
        return new ApiError(400, error.message, { code: 'unsupported_value', cause: error });
      case 'ERR_BUSY':
        return unavailable(error.message, 'busy', error);
      case 'ERR_OUT_OF_MEMORY':
        return unavailable('there is too little memory for this request', 'out_of_memory', error);
      default:
    }
  return new ApiError(500, 'internal error', { cause: error });
}
