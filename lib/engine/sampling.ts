/** How the tokens of a generation are drawn: the options of a call over the defaults of the model. */
import { randomBytes } from 'node:crypto';
import { schemaGrammar, type JsonSchema, type SchemaGrammar } from '../grammar/json_schema';
import type { SampleRow } from '../ops';
import { generationOptions } from '../options/table';
import {
  check,
  checkBoolean,
  checkInteger,
  checkNumber,
  checkOptions,
  checkSignal,
  describe,
  isListOf,
} from '../validate';

const tag = 'generate';

/** The defaults of a model's generations. */
export interface GenerationDefaults {
  eosTokenIds: ReadonlySet<number>;
  /** Undefined: what `maxLength` leaves. */
  maxNewTokens: number | undefined;
  /** Of prompt and text together. */
  maxLength: number;
  /** No end-of-text token comes before so many tokens. */
  minNewTokens: number;
  /** The same, of prompt and text together. */
  minLength: number;
  /** 0 where the file does not sample. */
  temperature: number;
  /** Of a server's requests that name none: 0 where the file says not to sample, else the file's, else 1. */
  servedTemperature: number;
  topK: number;
  topP: number;
  minP: number;
  repetitionPenalty: number;
  /** -Infinity for what is suppressed. */
  logitBias: ReadonlyMap<number, number>;
  /** Ids that are not the first. */
  beginSuppressTokens: ReadonlySet<number>;
  stop: readonly string[];
}

/** What holds without a file. */
export const plainDefaults: GenerationDefaults = {
  eosTokenIds: new Set(),
  maxNewTokens: 128,
  maxLength: Infinity,
  minNewTokens: 0,
  minLength: 0,
  temperature: 0,
  servedTemperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  logitBias: new Map(),
  beginSuppressTokens: new Set(),
  stop: [],
};

/** Says how many tokens are drawn, and how. */
export interface SamplingOptions {
  /** Maximum number of tokens to generate. Default: max_new_tokens of generation_config.json, else what max_length leaves, else 128. */
  maxNewTokens?: number | undefined;
  /** Divides the logits before a token is drawn; 0 takes the likeliest. Default: that of generation_config.json if it samples, else 0. */
  temperature?: number | undefined;
  /** Draws from the k likeliest tokens; 0: from all. Default as for `temperature`. */
  topK?: number | undefined;
  /** Draws from the smallest set of this probability (Holtzman et al., 2020); 1: from all. Default as for `temperature`. */
  topP?: number | undefined;
  /**
   * Draws from the tokens that have at least this share of the likeliest one's probability (Nguyen et al., "Turning up the heat: min-p
   * sampling", 2024); 0: from all. It comes after `temperature`, `topK` and `topP`. Default as for `temperature`.
   */
  minP?: number | undefined;
  /**
   * For tokens of the prompt and of the text so far, divides positive logits and multiplies negative ones (CTRL, Keskar et al., 2019);
   * above 1 it avoids repetition, 1 turns it off. Default: that of generation_config.json, else 1.
   */
  repetitionPenalty?: number | undefined;
  /** Subtracted from the logits of tokens that were generated before. Default 0. */
  presencePenalty?: number | undefined;
  /** Subtracted from the logit of a token for each time it was generated before. Default 0. */
  frequencyPenalty?: number | undefined;
  /** Added to the logits of single tokens after the penalties: a Map of ids to numbers. -Infinity forbids a token. */
  logitBias?: ReadonlyMap<number, number> | undefined;
  /** Reports the log-probability of each token and of its 0 to 20 likeliest alternatives. Default: neither. */
  logprobs?: number | undefined;
  /** How many texts to generate from the prompt; the i-th is drawn with `seed` + i. Default 1. */
  n?: number | undefined;
  /** Seed of the random draws. Default: a fresh one per call. */
  seed?: number | undefined;
  /**
   * A JSON Schema: the text is JSON that is valid under it, or the beginning of it if `maxNewTokens` or `stop` end it early. `true`: any JSON.
   * Requires the optional package @mlc-ai/web-xgrammar. Default: any text.
   */
  jsonSchema?: JsonSchema | undefined;
  /** Texts that end the generation and are not part of its text, at most 128 of 1024 characters. Default: stop_strings of generation_config.json. */
  stop?: string | readonly string[] | undefined;
  /** Generates past the end-of-text token. Default false. */
  ignoreEos?: boolean | undefined;
  /**
   * Guesses the next tokens, from what followed the last ones before and from what `jsonSchema` leaves no choice of, and has one step of the
   * model verify them (Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", 2023). A text that repeats itself or its prompt takes fewer steps, and each text has the tokens
   * that it has without. On the CPU only. Default false.
   */
  speculate?: boolean | undefined;
  /** Checked at every token; an abort rejects with its reason. */
  signal?: AbortSignal | undefined;
}

/** Most texts of one call. */
const maxTexts = 128;

/** Most stop strings of a call, and most characters of one: each token is compared with all of them. */
const maxStops = 128;
/** Of a file too. */
export const longestStop = 1024;

/** Most alternatives whose log-probabilities are reported. */
const maxLogprobs = 20;

/** How one generation draws: checked, with every default filled in. */
export interface GenerationPlan extends SampleRow {
  /** Undefined: what `maxLength` leaves. */
  maxNewTokens: number | undefined;
  /** Whether the call itself says how many tokens it wants. */
  ownLimit: boolean;
  /** How many texts. */
  n: number;
  /** Of prompt and text together. */
  maxLength: number;
  /** No end-of-text token comes before so many tokens. */
  minNewTokens: number;
  /** The same, of prompt and text together. */
  minLength: number;
  repetitionPenalty: number;
  presencePenalty: number;
  frequencyPenalty: number;
  logitBias: ReadonlyMap<number, number>;
  /** Ids that are not the first. */
  beginSuppressTokens: ReadonlySet<number>;
  /** Undefined: no log-probabilities. */
  logprobs: number | undefined;
  /** The grammar that the text follows. */
  grammar: SchemaGrammar | undefined;
  stop: readonly string[];
  eosTokenIds: ReadonlySet<number>;
  /** Whether tokens are proposed. */
  speculate: boolean;
  signal?: AbortSignal | undefined;
}

/**
 * Checks the options of a call and fills in the defaults.
 * @throws ERR_ARGUMENT for an unknown option or a wrong value, which it names.
 */
export function planGeneration(
  options: SamplingOptions,
  defaults: GenerationDefaults,
  vocabSize = Infinity,
): GenerationPlan {
  checkOptions(tag, options, Object.keys(generationOptions satisfies Record<keyof SamplingOptions, unknown>));
  const ignoreEos = options.ignoreEos ?? false;
  checkBoolean(tag, 'ignoreEos', ignoreEos);
  const speculate = options.speculate ?? false;
  checkBoolean(tag, 'speculate', speculate);
  checkSignal(tag, options.signal);
  const own = options.maxNewTokens;
  if (own !== undefined) checkInteger(tag, 'maxNewTokens', own);
  const { logprobs, n = 1 } = options;
  checkInteger(tag, 'n', n);
  check(n >= 1 && n <= maxTexts, tag, `expected n from 1 to ${maxTexts} but received ${n}`);
  if (logprobs !== undefined) {
    checkInteger(tag, 'logprobs', logprobs);
    const most = Math.min(maxLogprobs, vocabSize);
    check(logprobs <= most, tag, `expected logprobs of at most ${most} but received ${logprobs}`);
  }
  const { jsonSchema } = options;
  check(
    jsonSchema === undefined || !ignoreEos,
    tag,
    'expected ignoreEos to be false beside jsonSchema, whose text an end-of-text token ends, but received true',
  );
  const grammar = jsonSchema === undefined ? undefined : schemaGrammar(jsonSchema);
  const bias = checkBias(options.logitBias ?? new Map(), vocabSize);
  return {
    ...planDraws(options, defaults),
    ...planPenalties(options, defaults),
    maxNewTokens: own ?? defaults.maxNewTokens,
    ownLimit: own !== undefined,
    n,
    maxLength: defaults.maxLength,
    // A grammar says itself when its text may end.
    minNewTokens: grammar === undefined ? defaults.minNewTokens : 0,
    minLength: grammar === undefined ? defaults.minLength : 0,
    logitBias: bias.size === 0 ? defaults.logitBias : new Map([...defaults.logitBias, ...bias]),
    beginSuppressTokens: defaults.beginSuppressTokens,
    logprobs,
    grammar,
    stop: (options.stop ?? undefined) === undefined ? defaults.stop : checkStops(options.stop),
    eosTokenIds: ignoreEos ? new Set() : defaults.eosTokenIds,
    speculate,
    signal: options.signal,
  };
}

/** How many tokens may follow a prompt. */
export function tokenLimit({ maxNewTokens, maxLength }: GenerationPlan, promptTokens: number): number {
  return maxNewTokens ?? Math.max(0, maxLength - promptTokens);
}

function planDraws(options: SamplingOptions, defaults: GenerationDefaults): SampleRow {
  const temperature = options.temperature ?? defaults.temperature;
  const topK = options.topK ?? defaults.topK;
  const topP = options.topP ?? defaults.topP;
  const minP = options.minP ?? defaults.minP;
  const seed = options.seed ?? randomBytes(4).readUInt32LE();
  checkNumber(tag, 'temperature', temperature, 0);
  checkInteger(tag, 'topK', topK);
  checkInteger(tag, 'seed', seed);
  // The op reads these as f32.
  check(
    Math.fround(temperature) < Infinity,
    tag,
    `expected temperature to be a number of f32 but received ${describe(temperature)}`,
  );
  check(
    typeof topP === 'number' && Math.fround(topP) > 0 && topP <= 1,
    tag,
    `expected topP to be above 0 and at most 1 but received ${describe(topP)}`,
  );
  check(
    typeof minP === 'number' && minP >= 0 && minP <= 1,
    tag,
    `expected minP to be from 0 to 1 but received ${describe(minP)}`,
  );
  return { temperature, topK, topP, minP, seed };
}

type Penalties = Pick<GenerationPlan, 'repetitionPenalty' | 'presencePenalty' | 'frequencyPenalty'>;

function planPenalties(options: SamplingOptions, defaults: GenerationDefaults): Penalties {
  const repetitionPenalty = options.repetitionPenalty ?? defaults.repetitionPenalty;
  const presencePenalty = options.presencePenalty ?? 0;
  const frequencyPenalty = options.frequencyPenalty ?? 0;
  check(
    typeof repetitionPenalty === 'number' &&
      Math.fround(repetitionPenalty) > 0 &&
      Math.fround(repetitionPenalty) < Infinity,
    tag,
    `expected repetitionPenalty to be a finite number above 0 but received ${describe(repetitionPenalty)}`,
  );
  checkNumber(tag, 'presencePenalty', presencePenalty);
  checkNumber(tag, 'frequencyPenalty', frequencyPenalty);
  return { repetitionPenalty, presencePenalty, frequencyPenalty };
}

function checkBias(bias: unknown, vocabSize: number): ReadonlyMap<number, number> {
  check(
    bias instanceof Map,
    tag,
    `expected logitBias to be a Map of ids to numbers but received ${describe(bias)}`,
  );
  for (const [id, value] of bias as Map<unknown, unknown>) {
    check(
      typeof id === 'number' && Number.isSafeInteger(id) && id >= 0 && id < vocabSize,
      tag,
      `expected the ids of logitBias from 0${vocabSize < Infinity ? ` to ${vocabSize - 1}` : ''} but received ${describe(id)}`,
    );
    check(
      typeof value === 'number' && value < Infinity, // NaN is not
      tag,
      `expected logitBias of ${id} to be a number or -Infinity but received ${describe(value)}`,
    );
  }
  return bias as ReadonlyMap<number, number>;
}

function checkStops(stop: unknown): readonly string[] {
  const stops: unknown[] = Array.isArray(stop) ? stop : [stop];
  check(
    stops.length <= maxStops,
    tag,
    `expected stop to be at most ${maxStops} strings but received ${stops.length}`,
  );
  check(
    isListOf(stops, (s): s is string => typeof s === 'string' && s !== ''),
    tag,
    `expected stop to be a non-empty string or an array of them but received ${describe(stop)}`,
  );
  const longest = Math.max(0, ...stops.map(({ length }) => length));
  check(
    longest <= longestStop,
    tag,
    `expected stop strings of at most ${longestStop} characters but received one of ${longest}`,
  );
  return stops;
}
