/** What a client is told of a failure within. */
import { LoRAError, type ErrorCode } from '../../lib/errors';
import { toApiError } from '../../lib/serve/api_error';

test.each<[ErrorCode, status: number, type: string, code: string | null, message: string]>([
  ['ERR_ARGUMENT', 400, 'invalid_request_error', null, 'said'],
  ['ERR_DATA', 400, 'invalid_request_error', null, 'said'],
  ['ERR_UNSUPPORTED', 400, 'invalid_request_error', 'unsupported_value', 'said'],
  ['ERR_BUSY', 503, 'server_error', 'busy', 'said'],
  ['ERR_OUT_OF_MEMORY', 503, 'server_error', 'out_of_memory', 'there is too little memory for this request'],
  ['ERR_FILE', 500, 'server_error', null, 'internal error'],
])('%s', (cause, status, type, code, message) => {
  const error = toApiError(new LoRAError(cause, 'said', {}));
  expect([error.status, error.headers['retry-after']]).toEqual([status, status === 503 ? '1' : undefined]);
  expect(error.toJSON()).toEqual({ error: { message, type, param: null, code } });
  expect(toApiError(error)).toBe(error);
});

test('what is no error of ours', () => {
  expect(toApiError(new Error('a secret')).toJSON()).toEqual({
    error: { message: 'internal error', type: 'server_error', param: null, code: null },
  });
});
