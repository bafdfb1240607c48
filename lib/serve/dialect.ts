/** How the APIs tell of failures. */
import type { ApiError } from './api_error';

export interface Dialect {
  /** Whether events are named by their `type`. */
  readonly named: boolean;
  /** The body of an answer with the status of the error. */
  body(error: ApiError, requestId: string): object;
  /** The last event of a stream that has begun. */
  event(error: ApiError, requestId: string): object;
}

export const openaiDialect: Dialect = {
  named: false,
  body: (error) => error.toJSON(),
  event: (error) => error.toJSON(),
};

/** Anthropic's kinds of errors by status; other ones below 500 are invalid requests. */
const anthropicTypes: Readonly<Record<number, string>> = {
  401: 'authentication_error',
  403: 'permission_error',
  404: 'not_found_error',
  413: 'request_too_large',
  429: 'rate_limit_error',
  503: 'overloaded_error',
};

const anthropicError = ({ status, message }: ApiError, request_id: string): object => ({
  type: 'error',
  error: {
    type: anthropicTypes[status] ?? (status < 500 ? 'invalid_request_error' : 'api_error'),
    message,
  },
  request_id,
});

export const anthropicDialect: Dialect = { named: true, body: anthropicError, event: anthropicError };
