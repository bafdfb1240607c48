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

/** Where events go: what pino, winston and console have. */
export interface ServeLogger {
  /** One line for each request that has ended. */
  info(fields: object, message: string): void;
  /** Failures that are no mistakes of a client, with the error as `err`. */
  error(fields: object, message: string): void;
}

/** The options of {@link createOpenAIHandler}. */
export interface OpenAIHandlerOptions {
  /** The name of the base model in requests. Default: its name on the hub, else that of its folder. */
  modelName?: string | undefined;
  /** Folders of PEFT adapters, or their names on the hub, by the names that requests use. An adapter is loaded when it is first asked for. */
  adapters?: Readonly<Record<string, string | URL>> | undefined;
  /** Most of these adapters in memory; the one that was used longest ago leaves, one in use does not. Default 16. */
  maxAdapters?: number | undefined;
  /**
   * A folder that requests may load adapters from: with /v1/load_lora_adapter, or by naming one of its folders as their model. Links that
   * lead out of it are refused. Default: requests load nothing.
   */
  allowLoadFrom?: string | URL | undefined;
  /** Keys that requests must carry one of. Default: none, and everybody who can connect may ask. */
  apiKeys?: readonly (string | ApiKey)[] | undefined;
  /**
   * Names by which requests may reach the server, beside localhost, 127.0.0.1 and [::1]; others are 403, and so are pages of other sites
   * (`Origin`). Default: no others, for requests that come to an address of this machine where there are no keys;
   * elsewhere, and for a `Request`, which does not say to which address it came, any name.
   */
  allowedHosts?: readonly string[] | undefined;
  /** Texts that are given to the engine at once; its `maxBatchSize` is a good number. Default 16. */
  maxRunning?: number | undefined;
  /** Requests that wait for their turn; one more is 429. Default 256. */
  maxQueued?: number | undefined;
  /** Tokens of texts whose request names no limit, as far as the model's context allows. Default 1024. */
  defaultMaxNewTokens?: number | undefined;
  /**
   * The earlier name of `defaultMaxNewTokens`.
   * @deprecated Say `defaultMaxNewTokens`.
   */
  defaultMaxTokens?: number | undefined;
  /** What messages and tools spell like a special token becomes that token: whoever writes them can then end a turn. Default false. */
  allowSpecialTokens?: boolean | undefined;
  /** The temperature of requests that name none. Default: what generation_config.json says, else 1, as OpenAI has it. */
  defaultTemperature?: number | undefined;
  /** Most messages of a conversation, which a template reads in one piece. Default 1024. */
  maxMessages?: number | undefined;
  /** Most bytes of a request's body; more is 413. Default 4 MiB. */
  maxBodyBytes?: number | undefined;
  /**
   * Most bytes of the bodies that arrive, or whose requests wait for their turn; where there are more, the client with most of them gets 429.
   * Default 64 MiB.
   */
  maxWaitingBytes?: number | undefined;
  /** Milliseconds within which a body has to come; 408 after it. Default 30000. */
  bodyTimeoutMs?: number | undefined;
  /** Milliseconds after which a stream ends that its client does not read. Default 60000. */
  stallTimeoutMs?: number | undefined;
  /**
   * Answers GET / with a page on which people chat with the models and compare two of them. It needs no key; what it asks for carries
   * the one that is typed there. Default false.
   */
  page?: boolean | undefined;
  /** Pages of other origins that may ask from a browser. Default: none. */
  cors?: CorsOptions | undefined;
  /** Gets one line for each request, and failures. Default: none. */
  logger?: ServeLogger | undefined;
  /** Puts prompts and texts into these lines. Default false. */
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
}

/** What the defaults depend on. */
type ServedModel = Pick<CausalLM, 'directory' | 'servedTemperature'>;

/** @throws ERR_ARGUMENT for an unknown option or a wrong value. */
export function handlerSettings(
  model: ServedModel,
  options: OpenAIHandlerOptions,
  op: string,
): HandlerSettings {
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
  ];
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
  };
}
