/** Checks the normalizer, pre-tokenizer, post-processor and decoder of tokenizer.json, which @huggingface/tokenizers takes for granted. */
import { loraError } from '../errors';
import { describe, isRecord } from '../validate';
import { LinearPattern, publishedPatterns } from './split_patterns';

export type Expect = (condition: unknown, what: string, received: unknown) => asserts condition;
type Json = Record<string, unknown>;

/** Published files have ten at most; each goes through the whole text. */
const maxComponents = 64;
/** How much longer a text may become by what replaces its parts. */
const maxGrowth = 256;
const longestAffix = 64;
/** Each writes every byte of what comes to it as a character, of which the next one sees two bytes. Published files have one. */
const maxByteLevels = 2;

/** The field of a component that holds the engine of its pattern; the component is checked, so no file has it. */
export const linearField = 'lora-native linear pattern';

const isText = (value: unknown): value is string => typeof value === 'string';
const isCount = (value: unknown, least: number): value is number =>
  Number.isSafeInteger(value) && (value as number) >= least;

/** Fields of short text, by the type of a component. */
const affixes: Readonly<Record<string, readonly string[]>> = {
  Prepend: ['prepend'],
  Metaspace: ['replacement', 'str_rep'],
  WordPiece: ['prefix'],
  BPEDecoder: ['suffix'],
  CTC: ['pad_token', 'word_delimiter_token'],
};
const lists = ['normalizers', 'pretokenizers', 'processors', 'decoders'];

export class ComponentCheck {
  readonly #path: string;
  readonly #expect: Expect;
  #count = 0;
  #byteLevels = 0;
  #growth = 1;

  constructor(path: string, expect: Expect) {
    this.#path = path;
    this.#expect = expect;
  }

  /** A component that the library may be given: `role` is its name in the file. */
  check(component: unknown, role: string): unknown {
    if (!isRecord(component)) return component;
    this.#expect(++this.#count <= maxComponents, `at most ${maxComponents} components`, 'more');
    const type = isText(component['type']) ? component['type'] : '';
    const made: Json = { ...component };
    delete made[linearField];
    if (type === 'Split' || type === 'Replace') this.#pattern(made, type);
    if (type === 'ByteLevel')
      this.#expect(++this.#byteLevels <= maxByteLevels, `at most ${maxByteLevels} ByteLevel`, 'more');
    if (type === 'TemplateProcessing') this.#template(made);
    if (type === 'BertProcessing' || type === 'RobertaProcessing')
      for (const key of ['sep', 'cls']) {
        const token = made[key];
        this.#expect(Array.isArray(token) && isText(token[0]), `"${key}" of ${type} to be [text, id]`, token);
      }
    if (type === 'FixedLength')
      this.#expect(
        isCount(made['length'], 1),
        '"length" of FixedLength to be a positive integer',
        made['length'],
      );
    if (type === 'Strip' && role === 'decoder')
      for (const key of ['start', 'stop'])
        this.#expect(
          made[key] == null || isCount(made[key], 0),
          `"${key}" of Strip to be a count`,
          made[key],
        );
    if (type === 'Prepend')
      this.#expect(isText(made['prepend']), '"prepend" of Prepend to be text', made['prepend']);
    for (const key of Object.hasOwn(affixes, type) ? affixes[type]! : []) {
      const value = made[key];
      this.#expect(
        value == null ||
          (isText(value) && value.length <= longestAffix && (value !== '' || type !== 'Metaspace')),
        `"${key}" of ${type} to be text of at most ${longestAffix} characters`,
        value,
      );
      if (type === 'Metaspace') this.#grow(isText(value) ? value.length : 1);
    }
    for (const key of lists) {
      const list = made[key];
      if (list == null) continue;
      this.#expect(Array.isArray(list), `"${key}" to be a list`, list);
      made[key] = (list as unknown[]).map((one) => {
        this.#expect(isRecord(one), `"${key}" to be a list of objects`, one);
        return this.check(one, role);
      });
    }
    return made;
  }

  /** Replacements go through what those before them have made. */
  #grow(factor: number): void {
    this.#growth *= Math.max(1, factor);
    this.#expect(
      this.#growth <= maxGrowth,
      `replacements that make a text at most ${maxGrowth} times as long`,
      `${this.#growth} times`,
    );
  }

  /** Without its pattern, a part that splits or replaces would be skipped with a warning, and the ids be wrong. */
  #pattern(made: Json, type: string): void {
    const { pattern } = made;
    this.#expect(
      isRecord(pattern) && (isText(pattern['String']) || isText(pattern['Regex'])),
      `the pattern of ${type} to be { String } or { Regex }`,
      isRecord(pattern) ? JSON.stringify(pattern) : pattern,
    );
    const { behavior } = made;
    this.#expect(behavior == null || isText(behavior), `"behavior" of ${type} to be text`, behavior);
    const { Regex: regex, String: text } = pattern;
    if (type === 'Replace') {
      const { content = '' } = made;
      this.#expect(isText(content), '"content" of Replace to be text', content);
      this.#grow(
        regex === undefined && isText(text) && text !== ''
          ? content.length / text.length
          : content.length + 1,
      );
      // The library hands it to String.replaceAll, in which a dollar sign refers to what was matched.
      made['content'] = regex === undefined ? content.replaceAll('$', '$$$$') : content;
    }
    if (!isText(regex)) {
      this.#expect((text as string).length <= 1024, 'patterns of at most 1024 characters', text);
      return;
    }
    if (type === 'Split' && publishedPatterns.has(regex)) return;
    try {
      made[linearField] = new LinearPattern(regex);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw loraError(
        'tokenizer',
        'ERR_UNSUPPORTED',
        `cannot use ${this.#path}: ${describe(regex)} of ${type} is none of the published patterns, and not an expression that runs in linear time (${reason})`,
      );
    }
    made['pattern'] = { String: 'x' }; // until it is replaced by the above
  }

  #template(made: Json): void {
    const { single } = made;
    const what = 'the "single" of TemplateProcessing to be a list of { SpecialToken } and { Sequence }';
    this.#expect(Array.isArray(single) && single.length <= longestAffix, what, single);
    let sequences = 0;
    for (const item of single as unknown[]) {
      const inner = isRecord(item) ? (item['SpecialToken'] ?? item['Sequence']) : undefined;
      this.#expect(
        isRecord(inner) && isText(inner['id']),
        what,
        isRecord(item) ? JSON.stringify(item) : item,
      );
      if (isRecord(item) && item['SpecialToken'] === undefined) {
        this.#expect(
          inner['id'] === 'A',
          'the "single" of TemplateProcessing to have the Sequence A alone',
          inner['id'],
        );
        sequences++;
      }
    }
    this.#grow(sequences);
  }
}
