/** The values of config.json, read strictly. */
import { loraError } from '../../errors';
import { checkLimit, defaultLimits, type Limits } from '../../formats/limits';

/** @throws what says why the model is not loaded. */
export function refuse(code: 'ERR_UNSUPPORTED' | 'ERR_FILE', message: string): never {
  throw loraError('from_pretrained', code, message);
}

/** A parsed config.json. Each reader throws ERR_FILE for a value that is missing or of the wrong kind. */
export class ConfigJson {
  constructor(
    readonly raw: Readonly<Record<string, unknown>>,
    readonly limits: Limits = defaultLimits,
  ) {}

  /** The value of a key; undefined where it is absent or null. */
  get(key: string): unknown {
    return this.raw[key] ?? undefined;
  }

  integer(key: string, fallback?: number): number {
    const value = this.get(key) ?? fallback;
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0)
      refuse(
        'ERR_FILE',
        `expected ${key} of config.json to be a non-negative integer but received ${JSON.stringify(this.raw[key])}`,
      );
    return value;
  }

  positiveInteger(key: string, fallback?: number): number {
    const value = this.integer(key, fallback);
    if (value === 0) refuse('ERR_FILE', `expected ${key} of config.json to be positive but received 0`);
    return value;
  }

  /** A positive integer that memory or time grows with. */
  width(key: string, fallback?: number): number {
    const value = this.positiveInteger(key, fallback);
    checkLimit(this.limits, 'width', value, `config.json asks for ${key} = ${value}`, {
      op: 'from_pretrained',
    });
    return value;
  }

  /** A number that something is multiplied or divided by. */
  factor(key: string): number {
    const value = this.get(key) ?? 1;
    if (typeof value !== 'number' || !Number.isFinite(value) || value <= 0)
      refuse(
        'ERR_FILE',
        `expected ${key} of config.json to be a positive number but received ${JSON.stringify(value)}`,
      );
    return value;
  }

  /** A number that is not negative. */
  number(key: string, fallback?: number): number {
    const value = this.get(key) ?? fallback;
    if (typeof value !== 'number' || !Number.isFinite(value) || value < 0)
      refuse(
        'ERR_FILE',
        `expected ${key} of config.json to be a number but received ${JSON.stringify(this.raw[key])}`,
      );
    return value;
  }

  flag(key: string): boolean {
    const value = this.get(key) ?? false;
    if (typeof value !== 'boolean')
      refuse(
        'ERR_FILE',
        `expected ${key} of config.json to be true or false but received ${JSON.stringify(value)}`,
      );
    return value;
  }
}
