/**
 * Prompt tuning in PEFT's words: trained vectors before the embeddings of every text.
 * Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning" (2021).
 */
import { Random } from '../data/random';
import { loraError } from '../errors';
import { randomNormal } from '../ops/random';
import { methodOptions } from '../options/table';
import type { Tensor } from '../tensor/tensor';
import { checkOptions } from '../validate';
import {
  ConfigReader,
  isPositive,
  isText,
  refuseOption,
  type ConfigFile,
  type Refuse,
  type Unchecked,
} from './config_values';
import type { AdaptedBase, AdapterMethod } from './method';

const inits = methodOptions.prompt.promptTuningInit.choices;

/** What the vectors of prompt tuning are at first: normal numbers, the embeddings of tokens drawn at random, or those of a text. */
export type PromptTuningInit = (typeof inits)[number];

/** A complete configuration of prompt tuning, every value checked. */
export interface PromptConfig {
  /** How many vectors stand before each text. */
  readonly numVirtualTokens: number;
  /** What they were at first. */
  readonly promptTuningInit: PromptTuningInit;
  /** The text that they began as, with 'text'. */
  readonly promptTuningInitText: string | null;
  /** Whose tokenizer cut that text; null: that of the model. */
  readonly tokenizerNameOrPath: string | null;
  /** The width of a vector: that of the model. null, as below: a file does not say it. */
  readonly tokenDim: number | null;
  /** Blocks of the model. */
  readonly numLayers: number | null;
  /** Attention heads of a block. */
  readonly numAttentionHeads: number | null;
  /** Parts of the model that have vectors of their own: 1, since there is no encoder beside the decoder. */
  readonly numTransformerSubmodules: number | null;
}

/**
 * What a program passes for prompt tuning, in PEFT's words.
 *
 * @example
 * const config: PromptConfigInput = { method: 'prompt', numVirtualTokens: 8, promptTuningInitText: 'Answer in one word:' };
 */
export interface PromptConfigInput {
  /** Chooses prompt tuning. */
  method: 'prompt';
  /** How many vectors stand before each text; they take as many positions of the model's context. Default 8. */
  numVirtualTokens?: number | undefined;
  /**
   * What they are at first: 'random', normal numbers of deviation 1; 'sample_vocab', the embeddings of tokens drawn by the seed; 'text', those of
   * a text. Default 'text' where there is one, else 'random'.
   */
  promptTuningInit?: PromptTuningInit | undefined;
  /** The text of 'text', with the special tokens that the tokenizer adds. It is cut to `numVirtualTokens` tokens, or repeated until there are as many. */
  promptTuningInitText?: string | undefined;
}

const names: Readonly<Record<keyof PromptConfig, string>> = {
  numVirtualTokens: 'num_virtual_tokens',
  promptTuningInit: 'prompt_tuning_init',
  promptTuningInitText: 'prompt_tuning_init_text',
  tokenizerNameOrPath: 'tokenizer_name_or_path',
  tokenDim: 'token_dim',
  numLayers: 'num_layers',
  numAttentionHeads: 'num_attention_heads',
  numTransformerSubmodules: 'num_transformer_submodules',
};
const options = Object.keys(methodOptions.prompt);

/** PEFT writes these words in capitals. */
const initOf = (value: unknown): PromptTuningInit | undefined =>
  typeof value === 'string' ? inits.find((init) => init === value.toLowerCase()) : undefined;
const initWords = inits.map((init) => `'${init}'`).join(' or ');

function parse(values: Unchecked<keyof PromptConfig>, refuse: Refuse): PromptConfig {
  const from = new ConfigReader<keyof PromptConfig>(values, refuse);
  const whole = 'a positive integer';
  const size = (field: keyof PromptConfig): number | null =>
    from.take<number | null>(field, null, whole, (value) => (isPositive(value) ? value : undefined));
  const text = (field: keyof PromptConfig): string | null =>
    from.take<string | null>(field, null, 'a text', (value) => (isText(value) ? value : undefined));
  const config: PromptConfig = {
    numVirtualTokens: size('numVirtualTokens') ?? refuse('numVirtualTokens', whole, values.numVirtualTokens),
    promptTuningInit: from.take<PromptTuningInit>('promptTuningInit', 'random', initWords, initOf),
    promptTuningInitText: text('promptTuningInitText'),
    tokenizerNameOrPath: text('tokenizerNameOrPath'),
    tokenDim: size('tokenDim'),
    numLayers: size('numLayers'),
    numAttentionHeads: size('numAttentionHeads'),
    numTransformerSubmodules: size('numTransformerSubmodules'),
  };
  if (config.promptTuningInit === 'text' && config.promptTuningInitText === null)
    refuse('promptTuningInitText', `a text beside promptTuningInit 'text'`, values.promptTuningInitText);
  if ((config.numTransformerSubmodules ?? 1) !== 1)
    refuse(
      'numTransformerSubmodules',
      '1, since the model has a decoder alone',
      config.numTransformerSubmodules,
    );
  return config;
}

const file: ConfigFile<PromptConfig> = {
  peftType: 'PROMPT_TUNING',
  names,
  fixed: {},
  beside: {},
  optional: [],
  spell: (field, value) => (field === 'promptTuningInit' ? String(value).toUpperCase() : value),
  parse,
};

/** As many ids as there are vectors: the first ones, or all of them again and again. */
const repeated = (ids: readonly number[], count: number): number[] =>
  Array.from({ length: count }, (_, i) => ids[i % ids.length]!);

/** The ids whose embeddings the vectors are at first. */
function firstIds({ numVirtualTokens, promptTuningInitText }: PromptConfig, base: AdaptedBase, seed: number) {
  if (promptTuningInitText === null) {
    const random = new Random(seed);
    return Array.from({ length: numVirtualTokens }, () => random.below(base.vocabSize));
  }
  const ids = base.encode(promptTuningInitText);
  if (ids.length === 0)
    refuseOption('PromptConfig')(
      'promptTuningInitText',
      'a text of at least one token',
      promptTuningInitText,
    );
  return repeated(ids, numVirtualTokens);
}

function misfit(what: string): never {
  throw loraError('adapter', 'ERR_ADAPTER', `adapter_config.json ${what}`);
}

/** @throws ERR_UNSUPPORTED */
function refuseVectors(op: string): never {
  throw loraError(
    op,
    'ERR_UNSUPPORTED',
    'the blocks of this model read the ids of their tokens, which vectors before a text do not have: prompt tuning is not for it',
  );
}

export const prompt: AdapterMethod<PromptConfig> = {
  title: 'Prompt tuning',
  loadedByPeft: true,
  mergingObstacle: 'its vectors stand before the tokens, and no weight holds them',
  scalingObstacle: 'with the factor 0 its vectors would still stand before the tokens',
  file,

  normalize(input, { hiddenSize, numHiddenLayers, numAttentionHeads, maxPositionEmbeddings, readsIds }) {
    const op = 'PromptConfig';
    if (readsIds) refuseVectors(op);
    checkOptions(op, input, options);
    const refuse = refuseOption(op);
    const { numVirtualTokens = 8, promptTuningInitText, ...given } = input as Unchecked<keyof PromptConfig>;
    const { promptTuningInit = promptTuningInitText === undefined ? 'random' : 'text' } = given;
    const config = parse(
      {
        ...{ numVirtualTokens, promptTuningInit, promptTuningInitText },
        ...{
          tokenDim: hiddenSize,
          numLayers: numHiddenLayers,
          numAttentionHeads,
          numTransformerSubmodules: 1,
        },
      },
      refuse,
    );
    if (config.promptTuningInit !== 'text' && promptTuningInitText !== undefined)
      refuse(
        'promptTuningInitText',
        `nothing beside promptTuningInit '${config.promptTuningInit}'`,
        promptTuningInitText,
      );
    if (config.numVirtualTokens >= maxPositionEmbeddings)
      refuse(
        'numVirtualTokens',
        `below max_position_embeddings ${maxPositionEmbeddings} (a text needs room behind them)`,
        numVirtualTokens,
      );
    return config;
  },

  plan: () => [],

  vectors(config, base) {
    const { numVirtualTokens: count, tokenDim } = config;
    const { hiddenSize, maxPositionEmbeddings, readsIds } = base;
    if (readsIds) refuseVectors('load_adapter');
    if (tokenDim !== null && tokenDim !== hiddenSize)
      misfit(`has token_dim ${tokenDim}, and the model has hidden_size ${hiddenSize}`);
    if (count >= maxPositionEmbeddings)
      misfit(
        `has num_virtual_tokens ${count}, and the model has max_position_embeddings ${maxPositionEmbeddings}`,
      );
    return {
      key: 'prompt_embeddings',
      shape: [count, hiddenSize],
      initial: ({ seed, device }): Tensor =>
        config.promptTuningInit === 'random'
          ? randomNormal([count, hiddenSize], { seed, mean: 0, std: 1, device })
          : base.embed(firstIds(config, base, seed)),
    };
  },

  /** PEFT loads no file of 'text' that does not say whose tokenizer cut it. */
  written: (config, _, base) =>
    config.promptTuningInit === 'text'
      ? { ...config, tokenizerNameOrPath: config.tokenizerNameOrPath ?? base }
      : config,
  dropout: () => 0,
  size: ({ numVirtualTokens }) => ({ method: 'prompt', virtualTokens: numVirtualTokens }),

  /** A LoRA of rank n/2 on a square matrix of the width of the model, as the output of an attention mostly has, has as many numbers. */
  sizeAsLora: ({ numVirtualTokens }, linears) => ({
    r: Math.ceil(numVirtualTokens / 2),
    targetModules: [(linears.find(({ role }) => role === 'attentionOutput') ?? linears[0]!).path],
  }),
  virtualTokens: ({ numVirtualTokens }) => numVirtualTokens,

  facts: ({ numVirtualTokens, promptTuningInit, promptTuningInitText }) => [
    ['Method', 'prompt tuning'],
    ['Virtual tokens', String(numVirtualTokens)],
    [
      'Which began as',
      {
        random: 'normal numbers',
        sample_vocab: 'embeddings of random tokens',
        text: `the text ${promptTuningInitText}`,
      }[promptTuningInit],
    ],
  ],
};
