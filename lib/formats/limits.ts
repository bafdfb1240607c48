/** What a file from a stranger may ask for: every count that a reader would otherwise trust has a bound, which a program may raise. */
import { LoRAError, type ErrorCode } from '../errors';
import { atOnce } from '../tensor/pace';
import { check, checkInteger, checkOptions } from '../validate';

/**
 * Bounds on what files may ask for, as the page on security lists them. Each has a default far above what published models need; a
 * file beyond one is refused with an error that names the bound and the option that raises it.
 *
 * @example
 * const file = await openSafetensors('many-tensors.safetensors', { limits: { headerBytes: 64 * 2 ** 20 } });
 */
export interface ReadLimits {
  /** Bytes of the header of a safetensors file (100000000 at most, which is the format’s own limit) or of a GGUF file. Default 16 MiB. */
  headerBytes?: number | undefined;
  /** Bytes of a JSON file other than tokenizer.json. Default 16 MiB. */
  jsonBytes?: number | undefined;
  /** Bytes of tokenizer.json. Default 64 MiB. */
  tokenizerBytes?: number | undefined;
  /** How deep the lists and objects of a JSON file may be nested. Default 127. */
  nesting?: number | undefined;
  /** Layers of a model. Default 1024. */
  layers?: number | undefined;
  /** Any width of a model: hidden and intermediate size, heads, head size, vocabulary, ids of a tokenizer. Default 4194304. */
  width?: number | undefined;
  /** Characters of a chat template. Default 262144. */
  templateCharacters?: number | undefined;
  /** Steps of one run of a chat template: one for each node, each element and each 16 characters that it handles. Each message and variable of the call allows 16 more. Default 500000. */
  templateSteps?: number | undefined;
  /** Ids in the lists of generation_config.json together: those that end a text, are biased or do not come. Each is an entry of every request. Default 16384. */
  generationIds?: number | undefined;
  /** Stop strings of generation_config.json, which each token of a text is compared with. Default 128. */
  stopStrings?: number | undefined;
  /** Values in the messages and tools of one conversation: lists, objects, texts, numbers. A template runs through them in one piece. Default 65536. */
  messageValues?: number | undefined;
  /** Steps of all runs of a chat template without `{% generation %}` blocks that look for the answers of one conversation. Default 50000000. */
  turnSteps?: number | undefined;
  /** Letters, digits, signs or spaces in a row in a text that becomes tokens: where an expression splits texts into words, it finds each in one piece. Default 262144. */
  wordCharacters?: number | undefined;
}

/** Every bound. */
export type Limits = Readonly<Required<{ [K in keyof ReadLimits]: number }>>;

export const defaultLimits: Limits = {
  headerBytes: 16 * 2 ** 20,
  jsonBytes: 16 * 2 ** 20,
  tokenizerBytes: 64 * 2 ** 20,
  nesting: 127,
  layers: 1024,
  width: 2 ** 22,
  templateCharacters: 2 ** 18,
  templateSteps: 500_000,
  generationIds: 2 ** 14,
  stopStrings: 128,
  messageValues: 2 ** 16,
  turnSteps: 50_000_000,
  wordCharacters: 2 ** 18,
};
const names = Object.keys(defaultLimits) as (keyof Limits)[];

/** The bounds of a call: the defaults, with those that it gives. */
export function readLimits(op: string, given: ReadLimits | undefined): Limits {
  if (given === undefined) return defaultLimits;
  checkOptions(op, given, names);
  const limits: Record<string, number> = { ...defaultLimits };
  for (const name of names) {
    const value = given[name];
    if (value === undefined) continue;
    checkInteger(op, `limits.${name}`, value);
    limits[name] = value;
  }
  check(
    limits['nesting']! <= 1000,
    op,
    `expected limits.nesting to be at most 1000 but received ${limits['nesting']}`,
  );
  return limits as unknown as Limits;
}

/** The end of a sentence about a bound. */
export const limitText = (limits: Limits, name: keyof Limits): string =>
  `the limit is ${limits[name]}, which limits.${name} raises`;

/** Throws unless a count that a file asks for is within a bound: `what` is the sentence without its end. */
export function checkLimit(
  limits: Limits,
  name: keyof Limits,
  count: number,
  what: string,
  { code = 'ERR_FILE', op }: { code?: ErrorCode; op?: string } = {},
): void {
  if (count <= limits[name]) return;
  const tag = op === undefined ? '' : `[${op}] `;
  throw new LoRAError(
    code,
    `${tag}${what}: ${limitText(limits, name)}`,
    op === undefined ? undefined : { op },
  );
}

/** The items of a list or an object of JSON. Object.values() takes twice as long for an object of many keys. */
export const childrenOf = (parent: object): unknown[] =>
  Array.isArray(parent) ? parent : Object.keys(parent).map((key) => (parent as Record<string, unknown>)[key]);

/** Throws for a parsed JSON value whose lists and objects are nested deeper than the bound. Takes no stack itself. */
export function checkNesting(value: unknown, limits: Limits, where: string): void {
  atOnce(nestingSteps(value, limits, where));
}

/** The same; yields where it may be interrupted. */
export function* nestingSteps(value: unknown, limits: Limits, where: string): Generator<void, void, void> {
  let level: object[] = typeof value === 'object' && value !== null ? [value] : [];
  for (let depth = 1; level.length > 0; depth++) {
    checkLimit(limits, 'nesting', depth, `${where} is nested ${depth} levels deep`);
    const next: object[] = [];
    for (const [i, parent] of level.entries()) {
      for (const child of childrenOf(parent))
        if (typeof child === 'object' && child !== null) next.push(child);
      if (i % 1024 === 0) yield;
    }
    level = next;
  }
}
