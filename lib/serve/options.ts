/** The options of createOpenAIHandler, checked. */
import { basename } from 'node:path';
import { toPath } from '../formats/paths';
import { idOfSnapshot } from '../hub/cache';
import type { CausalLM } from '../models/causal_lm';
import { defaultsOf, handlerNumbers } from '../options/serving';
import { check, checkBoolean, checkInteger, checkNumber, checkOptions, describe } from '../validate';
import type { ApiKey } from './clients';
import { Cors, type CorsOptions } from './cors';
import { checkAllowedHosts } from './site';

/** A log: pino, winston or console. */
export interface ServeLogger {
  /** Gets one line per finished request. */
  info(fields: object, message: string): void;
  /** Gets failures that are not a client's mistake, with the error as `err`. */
  error(fields: object, message: string): void;
}

/** The options of {@link createOpenAIHandler}. */
export interface OpenAIHandlerOptions {
  /** The name of the base model in requests. Default: its name on the hub, else that of its folder. */
  modelName?: string | undefined;
  /** Folders of PEFT adapters, or their names on the hub, by the names that requests use. Each is loaded when a request first asks for it. */
  adapters?: Readonly<Record<string, string | URL>> | undefined;
  /** Maximum number of these adapters in memory; the least recently used one that no request uses is evicted. Default 16. */
  maxAdapters?: number | undefined;
  /**
   * A folder from which requests may load adapters: with /v1/load_lora_adapter, or by naming a folder in it as their model. Links out of it
   * are refused. Default: requests cannot load adapters.
   */
  allowLoadFrom?: string | URL | undefined;
  /** API keys, of which a request must have one. Default: none, so everybody who can connect may use the server. */
  apiKeys?: readonly (string | ApiKey)[] | undefined;
  /**
   * Host names, besides localhost, 127.0.0.1 and [::1], under which requests may reach the server; others get 403, and so do pages of other
   * sites (`Origin`). Default: no others for requests to a loopback address of a server without keys; otherwise, and for a `Request`,
   * which has no address, any name.
   */
  allowedHosts?: readonly string[] | undefined;
  /** Maximum number of texts in the engine at once; its `maxBatchSize` is a good value. Default 16. */
  maxRunning?: number | undefined;
  /** Maximum number of waiting requests; one more gets 429. Default 256. */
  maxQueued?: number | undefined;
  /** Maximum tokens of a text if the request sets no limit, within the model's context. Default 1024. */
  defaultMaxNewTokens?: number | undefined;
  /**
   * The earlier name of `defaultMaxNewTokens`.
   * @deprecated Use `defaultMaxNewTokens`.
   */
  defaultMaxTokens?: number | undefined;
  /** Lets messages and tools contain special tokens by their spelling, so that whoever writes them can end a turn. Default false. */
  allowSpecialTokens?: boolean | undefined;
  /**
   * Generates all texts with `speculate` ({@link SamplingOptions.speculate}): fewer steps for texts that repeat their prompts, and the same
   * tokens. On the CPU only. Default false.
   */
  speculate?: boolean | undefined;
  /** The temperature if the request sets none. Default: that of generation_config.json, else 1, as with OpenAI. */
  defaultTemperature?: number | undefined;
  /** Maximum number of messages in a conversation, because a template renders them in one piece. Default 1024. */
  maxMessages?: number | undefined;
  /** Maximum bytes of a request's body; more gives 413. Default 4 MiB. */
  maxBodyBytes?: number | undefined;
  /**
   * Maximum bytes of all bodies that arrive or whose requests wait; beyond it, the client with the most gets 429.
   * Default 64 MiB.
   */
  maxWaitingBytes?: number | undefined;
  /** Milliseconds for a body to arrive; then 408. Default 30000. */
  bodyTimeoutMs?: number | undefined;
  /** Milliseconds after which a stream that its client does not read is ended. Default 60000. */
  stallTimeoutMs?: number | undefined;
  /**
   * Serves a page at GET / for chatting with the models and comparing two of them. The page needs no key; its requests send the one that is
   * typed there. Default false.
   */
  page?: boolean | undefined;
  /** Other origins whose pages may use the server from a browser. Default: none. */
  cors?: CorsOptions | undefined;
  /** Gets one line per request, and failures. Default: none. */
  logger?: ServeLogger | undefined;
  /** Also logs prompts and texts. Default false. */
  logPrompts?: boolean | undefined;
}

type HandlerNumbers = Record<keyof typeof handlerNumbers, number>;

/** Every option, with what holds without it. */
export interface HandlerSettings extends HandlerNumbers {
  /** The function that was called, for sentences about its options. */
  readonly op: string;
  readonly modelName: string;
  readonly defaultTemperature: number;
  readonly adapters: Readonly<Record<string, string | URL>>;
  readonly allowLoadFrom: string | undefined;
  readonly apiKeys: readonly (string | ApiKey)[];
  readonly allowedHosts: readonly string[];
  readonly logger: ServeLogger | undefined;
  readonly logPrompts: boolean;
  readonly page: boolean;
  readonly cors: Cors;
  readonly allowSpecialTokens: boolean;
  readonly speculate: boolean;
}

/** What the defaults depend on. */
type ServedModel = Pick<CausalLM, 'directory' | 'servedTemperature'>;

/** Options beside the numbers. */
const others = [
  'defaultTemperature',
  'defaultMaxTokens',
  'modelName',
  'adapters',
  'allowLoadFrom',
  'apiKeys',
  'allowedHosts',
  'logger',
  'logPrompts',
  'page',
  'cors',
  'allowSpecialTokens',
  'speculate',
];

/** @throws ERR_ARGUMENT for an unknown option or a wrong value. */
export function handlerSettings(
  model: ServedModel,
  options: OpenAIHandlerOptions,
  op: string,
): HandlerSettings {
  checkOptions(op, options, [...Object.keys(handlerNumbers), ...others]);
  const numbers: HandlerNumbers = defaultsOf(handlerNumbers);
  for (const name of Object.keys(numbers) as (keyof HandlerNumbers)[]) {
    const value = options[name] ?? (name === 'defaultMaxNewTokens' ? options.defaultMaxTokens : undefined);
    if (value === undefined) continue;
    checkInteger(op, name, value, handlerNumbers[name].minimum);
    numbers[name] = value;
  }
  const {
    adapters = {},
    apiKeys = [],
    allowedHosts = [],
    logger,
    logPrompts = false,
    page = false,
    allowSpecialTokens = false,
    speculate = false,
  } = options;
  const modelName =
    options.modelName ??
    idOfSnapshot(model.directory) ??
    basename(model.directory).replace(/(?:-\d{5}-of-\d{5})?\.gguf$/, '');
  check(
    typeof modelName === 'string' && modelName !== '',
    op,
    `expected modelName to be a text but received ${describe(modelName)}`,
  );
  const { defaultTemperature = model.servedTemperature } = options;
  checkNumber(op, 'defaultTemperature', defaultTemperature, 0);
  checkBoolean(op, 'logPrompts', logPrompts);
  checkBoolean(op, 'page', page);
  checkBoolean(op, 'allowSpecialTokens', allowSpecialTokens);
  checkBoolean(op, 'speculate', speculate);
  check(Array.isArray(apiKeys), op, `expected apiKeys to be a list but received ${describe(apiKeys)}`);
  checkAllowedHosts(op, allowedHosts);
  check(
    typeof adapters === 'object' && adapters !== null,
    op,
    `expected adapters to be an object of folders by name but received ${describe(adapters)}`,
  );
  check(
    logger === undefined || (typeof logger?.info === 'function' && typeof logger.error === 'function'),
    op,
    'expected logger to have info() and error()',
  );
  const allowLoadFrom = options.allowLoadFrom === undefined ? undefined : toPath(options.allowLoadFrom, op);
  return {
    op,
    ...numbers,
    modelName,
    defaultTemperature,
    adapters,
    allowLoadFrom,
    apiKeys,
    allowedHosts,
    logger,
    logPrompts,
    page,
    cors: new Cors(options.cors, op),
    allowSpecialTokens,
    speculate,
  };
}
