/** What a model's generation_config.json says, in the meaning of transformers. */
import { longestStop, plainDefaults, type GenerationDefaults } from '../../engine/sampling';
import { loraError } from '../../errors';
import { checkLimit, defaultLimits, type Limits } from '../../formats/limits';
import { tokenIds } from '../config/common';
import type { ModelConfig } from '../config/model_config';
import type { Tokenizer } from '../../text/tokenizer';
import { listed } from '../../validate';

/** Fields of transformers that change the text and are not supported, with the values at which they do nothing. */
const unsupported: Readonly<Record<string, readonly unknown[]>> = {
  assistant_early_exit: [],
  constraints: [],
  diversity_penalty: [0],
  dola_layers: [],
  encoder_no_repeat_ngram_size: [0],
  encoder_repetition_penalty: [1],
  epsilon_cutoff: [0],
  eta_cutoff: [0],
  exponential_decay_length_penalty: [],
  force_words_ids: [],
  forced_bos_token_id: [],
  forced_decoder_ids: [],
  forced_eos_token_id: [],
  guidance_scale: [1],
  max_time: [],
  no_repeat_ngram_size: [0],
  num_beam_groups: [1],
  num_beams: [1],
  num_return_sequences: [1],
  penalty_alpha: [0],
  remove_invalid_values: [false],
  token_healing: [false],
  top_h: [],
  typical_p: [1],
  watermarking_config: [],
};

const op = 'from_pretrained';

/** Reads fields and remembers those that it could not use. */
class Fields {
  readonly ignored: string[] = [];
  readonly #raw: Readonly<Record<string, unknown>>;
  readonly #limits: Limits;
  /** How many ids its lists have named so far. */
  #named = 0;

  constructor(json: unknown, limits: Limits) {
    this.#limits = limits;
    this.#raw = typeof json === 'object' && json !== null ? (json as Record<string, unknown>) : {};
    for (const [name, neutral] of Object.entries(unsupported)) {
      const value = this.get(name);
      if (value !== undefined && !neutral.includes(value)) this.ignored.push(name);
    }
  }

  /** Undefined where it is null. */
  get(name: string): unknown {
    return (Object.hasOwn(this.#raw, name) ? this.#raw[name] : undefined) ?? undefined;
  }

  /** A number that is `ok`, else the fallback. */
  number<F extends number | undefined>(name: string, ok: (x: number) => boolean, fallback: F): number | F {
    const value = this.get(name);
    if (typeof value === 'number' && ok(value)) return value;
    if (value !== undefined) this.ignored.push(name);
    return fallback;
  }

  /** @throws ERR_FILE where the lists of the file are longer together than the bound. */
  count(length: number): void {
    this.#named += length;
    const what = `generation_config.json names ${this.#named} ids or more`;
    checkLimit(this.#limits, 'generationIds', this.#named, what, { op });
  }

  /** A list; undefined where there is none. */
  #list(name: string): readonly unknown[] | undefined {
    const value = this.get(name);
    if (value !== undefined && !Array.isArray(value)) this.ignored.push(name);
    if (!Array.isArray(value)) return undefined;
    this.count(value.length);
    return value as unknown[];
  }

  ids(name: string, vocabSize: number): Set<number> {
    return new Set(tokenIds(this.#list(name) ?? []).filter((id) => id < vocabSize));
  }

  strings(name: string): string[] {
    const value = this.get(name);
    const list: unknown[] = value === undefined ? [] : Array.isArray(value) ? value : [value];
    const what = `generation_config.json has ${list.length} ${name}`;
    checkLimit(this.#limits, 'stopStrings', list.length, what, { op });
    const long = list.find((s) => typeof s === 'string' && s.length > longestStop) as string | undefined;
    if (long !== undefined)
      throw loraError(
        op,
        'ERR_FILE',
        `generation_config.json has one of ${name} with ${long.length} characters: the limit is ${longestStop}`,
      );
    if (list.every((s): s is string => typeof s === 'string' && s !== '')) return list;
    this.ignored.push(name);
    return [];
  }

  /** What biases single tokens. Sequences of several are not supported. */
  bias(vocabSize: number): Map<number, number> {
    const bias = new Map<number, number>();
    const add = (name: string, sequence: unknown, value: unknown): void => {
      const ids: unknown[] = Array.isArray(sequence) ? sequence : [];
      const [id] = tokenIds(ids);
      if (ids.length !== 1 || id === undefined || typeof value !== 'number' || !(value < Infinity)) {
        if (!this.ignored.includes(name)) this.ignored.push(name);
      } else if (id < vocabSize) bias.set(id, value);
    };
    for (const pair of this.#list('sequence_bias') ?? []) {
      const [sequence, value] = Array.isArray(pair) ? (pair as unknown[]) : [];
      add('sequence_bias', sequence, value);
    }
    for (const word of this.#list('bad_words_ids') ?? []) add('bad_words_ids', word, -Infinity);
    for (const id of this.ids('suppress_tokens', vocabSize)) bias.set(id, -Infinity);
    return bias;
  }
}

const isCount = (x: number): boolean => Number.isSafeInteger(x) && x >= 0;
const isShare = (x: number): boolean => x >= 0 && x <= 1;

/**
 * Reads a parsed generation_config.json, within bounds (ERR_FILE). Fields that change the text and are not supported, and values that cannot be, are named once in a
 * warning of the process (LORA_GENERATION_CONFIG) and have no effect; so have fields about speed, output and padding, without a warning.
 */
export function parseGenerationDefaults(
  json: unknown,
  config: Pick<ModelConfig, 'eosTokenIds' | 'vocabSize'>,
  tokenizer?: Tokenizer,
  limits: Limits = defaultLimits,
): GenerationDefaults {
  const fields = new Fields(json, limits);
  const eosToken = tokenizer?.specialTokens['eos_token'];
  const fallback = eosToken === undefined ? undefined : tokenizer?.tokenId(eosToken);
  const eos = [tokenIds(fields.get('eos_token_id')), config.eosTokenIds, tokenIds(fallback)];
  const ends = eos.find((ids) => ids.length > 0) ?? [];
  fields.count(ends.length);
  const sampled = fields.get('do_sample') === true;
  const maxLength = fields.number('max_length', isCount, Infinity);
  const temperature = fields.number('temperature', (x) => x >= 0 && Math.fround(x) < Infinity, 1);
  const topK = fields.number('top_k', isCount, 50); // transformers' own default
  const topP = fields.number('top_p', (x) => Math.fround(x) > 0 && x <= 1, 1);
  const minP = fields.number('min_p', isShare, 0);
  const defaults: GenerationDefaults = {
    eosTokenIds: new Set(ends.filter((id) => id < config.vocabSize)),
    maxNewTokens: fields.number(
      'max_new_tokens',
      isCount,
      maxLength < Infinity ? undefined : plainDefaults.maxNewTokens,
    ),
    maxLength,
    minNewTokens: fields.number('min_new_tokens', isCount, 0),
    minLength: fields.number('min_length', isCount, 0),
    temperature: sampled ? temperature : 0,
    servedTemperature: fields.get('do_sample') === false ? 0 : temperature,
    topK: sampled ? topK : 0,
    topP: sampled ? topP : 1,
    minP: sampled ? minP : 0,
    repetitionPenalty: fields.number(
      'repetition_penalty',
      (x) => Math.fround(x) > 0 && Math.fround(x) < Infinity,
      1,
    ),
    logitBias: fields.bias(config.vocabSize),
    beginSuppressTokens: fields.ids('begin_suppress_tokens', config.vocabSize),
    stop: fields.strings('stop_strings'),
  };
  if (fields.ignored.length > 0)
    process.emitWarning(`generation_config.json: ${listed(fields.ignored, 10)} not supported, and ignored`, {
      code: 'LORA_GENERATION_CONFIG',
    });
  return defaults;
}
