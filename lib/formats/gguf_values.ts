/** The values of a GGUF file's metadata, read strictly: one of the wrong kind is an error that names its key. */
import { loraError } from '../errors';
import { describe } from '../validate';
import type { GgufValue, NumericList } from './gguf_header';

const op = 'from_pretrained';

/** The shortest decimal number that is this f32: files have 9.999999747378752e-06 where their model's configuration had 1e-5. */
export function shortest(value: number): number {
  if (Math.fround(value) !== value) return value;
  for (let digits = 1; digits <= 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === value) return short;
  }
  return value;
}

const isText = (value: GgufValue): value is string => typeof value === 'string';
const isCount = (value: GgufValue): value is number =>
  typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;

/** The metadata of one file. Every reader gives undefined for a key that is not there. */
export class GgufValues {
  constructor(
    /** The file, for messages. */
    readonly path: string,
    private readonly values: ReadonlyMap<string, GgufValue>,
  ) {}

  has(key: string): boolean {
    return this.values.has(key);
  }

  /** The keys that begin so. */
  keysFrom(prefix: string): string[] {
    return [...this.values.keys()].filter((key) => key.startsWith(prefix));
  }

  /** A value as it stands. */
  get(key: string): GgufValue | undefined {
    return this.values.get(key);
  }

  /** @throws with the name of the file. */
  fail(message: string, code: 'ERR_FILE' | 'ERR_UNSUPPORTED' = 'ERR_FILE'): never {
    throw loraError(op, code, `${this.path} ${message}`);
  }

  #wrong(key: string, expected: string, received: unknown): never {
    return this.fail(`has ${key} = ${describe(received)}: expected ${expected}`);
  }

  text(key: string): string | undefined {
    const value = this.values.get(key);
    return value === undefined || isText(value) ? value : this.#wrong(key, 'text', value);
  }

  flag(key: string): boolean | undefined {
    const value = this.values.get(key);
    return value === undefined || typeof value === 'boolean'
      ? value
      : this.#wrong(key, 'true or false', value);
  }

  number(key: string): number | undefined {
    const value = this.values.get(key);
    if (value === undefined) return undefined;
    if (typeof value !== 'number' || !Number.isFinite(value)) this.#wrong(key, 'a finite number', value);
    return shortest(value);
  }

  count(key: string): number | undefined {
    const value = this.values.get(key);
    return value === undefined || isCount(value) ? value : this.#wrong(key, 'a count', value);
  }

  /**
   * A count, or a list of one for each layer that is the same in all of them.
   * @throws ERR_UNSUPPORTED where layers differ.
   */
  countOfLayers(key: string): number | undefined {
    const list = this.values.get(key);
    if (typeof list !== 'object') return this.count(key);
    const [first, ...others] = this.numbers(key)!;
    if (first === undefined || !isCount(first)) this.#wrong(key, 'a count', list);
    if (others.some((value) => value !== first))
      this.fail(`has other values of ${key} in other layers, which is not supported`, 'ERR_UNSUPPORTED');
    return first;
  }

  texts(key: string): readonly string[] | undefined {
    const value = this.values.get(key);
    if (value === undefined) return undefined;
    if (typeof value !== 'object' || ArrayBuffer.isView(value))
      return this.#wrong(key, 'a list of texts', value);
    // A list of no elements has the type that its writer gave it.
    return value.every(isText) ? value : this.#wrong(key, 'a list of texts', value);
  }

  numbers(key: string): Exclude<NumericList, BigInt64Array | BigUint64Array> | readonly [] | undefined {
    const value = this.values.get(key);
    if (value === undefined) return undefined;
    if (!ArrayBuffer.isView(value) || value instanceof BigInt64Array || value instanceof BigUint64Array)
      return this.#wrong(key, 'a list of numbers', value);
    return value;
  }
}
