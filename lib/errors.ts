/** The one error class of the package. */

/**
 * Which kind of failure it is. Each code has its cause and remedy on the page of errors.
 *
 * `ERR_DEVICE_LOST`: a GPU stopped after an error (a fault in a kernel, a card that fell off the bus). Every call on
 * that device fails with it until the process ends; other devices go on. `ERR_DEVICE_UNAVAILABLE`: it could not be
 * opened, and the message says why.
 */
export type ErrorCode =
  | 'ERR_ARGUMENT'
  | 'ERR_DISPOSED'
  | 'ERR_BUSY'
  | 'ERR_OUT_OF_MEMORY'
  | 'ERR_DEVICE_UNAVAILABLE'
  | 'ERR_DEVICE_LOST'
  | 'ERR_UNSUPPORTED'
  | 'ERR_FILE'
  | 'ERR_HUB'
  | 'ERR_SAFETENSORS'
  | 'ERR_ADAPTER'
  | 'ERR_DATA'
  | 'ERR_NON_FINITE'
  | 'ERR_DISTRIBUTED'
  | 'ERR_BINARY';

/** Names and values of files stand in messages, and may be as long as the file. */
const longestMessage = 8000;

const shortened = (message: string): string =>
  message.length <= longestMessage
    ? message
    : `${message.slice(0, longestMessage - 2000)}… (${message.length} characters) …${message.slice(-1900)}`;

/**
 * What every failure of this package is an instance of. Programs branch on `code`; people read `message`,
 * which opens with the name of the op: `[add] expected shapes that broadcast but received [2] and [3]`.
 *
 * @example
 * try {
 *   x.add(y);
 * } catch (error) {
 *   if (!(error instanceof LoRAError) || error.code !== 'ERR_ARGUMENT') throw error;
 *   console.error(error.op, error.message); // 'add', '[add] expected …'
 * }
 */
export class LoRAError extends Error {
  /** Which kind of failure it is. */
  readonly code: ErrorCode;
  /** The op or function that failed, where there is one. */
  readonly op?: string;

  /** For layers and data sources of your own that fail as the library does. */
  constructor(code: ErrorCode, message: string, { op, cause }: { op?: string; cause?: unknown } = {}) {
    super(shortened(message), cause === undefined ? undefined : { cause });
    this.code = code;
    if (op !== undefined) this.op = op;
  }

  static {
    // On the prototype, as built-in errors have it, so that it does not show as a property of each error.
    Object.defineProperty(this.prototype, 'name', {
      value: 'LoRAError',
      writable: true,
      configurable: true,
    });
  }
}

/** @internal The error of an op, whose name stands before the message. */
export const loraError = (op: string, code: ErrorCode, message: string, cause?: unknown): LoRAError =>
  new LoRAError(code, `[${op}] ${message}`, { op, cause });

/** @internal Whether something failed for want of memory. */
export const isOutOfMemory = (error: unknown): error is LoRAError =>
  error instanceof LoRAError && error.code === 'ERR_OUT_OF_MEMORY';
