/** Matchers that do not depend on the realm in which an error was made. */
import type { ErrorCode } from '../../lib/index';

interface Shown {
  code?: string;
  message?: string;
  op?: string;
  stack?: string;
}

function verify(error: unknown, code: ErrorCode, message: RegExp | string): Shown {
  const shown = error as Shown;
  expect({ code: shown.code, message: shown.message }).toEqual({
    code,
    message: typeof message === 'string' ? message : (expect.stringMatching(message) as string),
  });
  // A sentence opens with the op, in brackets, which `op` holds too.
  const tag = /^\[([^\]]*)\] /.exec(shown.message ?? '');
  if (tag) expect(shown.op).toBe(tag[1] === '' ? 'the name of an op' : tag[1]);
  return shown;
}

/** The call throws with this code and sentence; gives the error. */
export function expectThrow(fn: () => unknown, code: ErrorCode, message: RegExp | string): Shown {
  let error: unknown;
  try {
    fn();
  } catch (e) {
    error = e;
  }
  if (error === undefined) throw new Error(`nothing was thrown; expected ${code}`);
  return verify(error, code, message);
}

/** The promise rejects with this code and sentence; gives the error. */
export async function expectReject(
  promise: Promise<unknown>,
  code: ErrorCode,
  message: RegExp | string,
): Promise<Shown> {
  let error: unknown;
  try {
    await promise;
  } catch (e) {
    error = e;
  }
  if (error === undefined) throw new Error(`nothing was rejected; expected ${code}`);
  return verify(error, code, message);
}
