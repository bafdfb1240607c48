/** Where the hub is, where its files are kept and who asks: the variables of the environment that Python's huggingface_hub reads. */
import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { loraError } from '../errors';
import { systemReason } from '../formats/system_reason';
import { check } from '../validate';

/** What a call knows of the hub. */
export interface HubSettings {
  /** Without a slash at its end. */
  readonly endpoint: string;
  /** The folder of the cache. */
  readonly cache: string;
  readonly offline: boolean;
  readonly token?: string | undefined;
  /** Where the token is from, in words that may be shown. */
  readonly tokenFrom: string;
  /** Milliseconds without an answer, or without a byte of one, after which a connection is given up. */
  readonly answerTimeout: number;
  readonly byteTimeout: number;
}

/** The variables of the environment, in which an empty one is as good as none. */
export type Environment = Readonly<Record<string, string | undefined>>;

/** The options of a call that the variables are for, too. */
export interface HubOptions {
  readonly token?: string | undefined;
  readonly offline?: boolean | undefined;
}

/** `~` and `$NAME`, which Python expands in these variables. */
function expanded(path: string, env: Environment): string {
  const home = path === '~' || /^~[\\/]/.test(path) ? join(homedir(), path.slice(1)) : path;
  return resolve(
    home.replace(
      /\$(?:(\w+)|\{(\w+)\})/g,
      (all, plain?: string, braced?: string) => env[plain ?? braced ?? ''] ?? all,
    ),
  );
}

const isTrue = (value: string | undefined): boolean =>
  ['1', 'ON', 'YES', 'TRUE'].includes((value ?? '').toUpperCase());

/** $HF_HOME, where the token and the cache are. */
function homeOf(env: Environment): string {
  return expanded(
    env['HF_HOME'] || join(env['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'huggingface'),
    env,
  );
}

/** The folder of the cache of models. */
export function cacheFolder(env: Environment = process.env): string {
  return expanded(env['HF_HUB_CACHE'] || env['HUGGINGFACE_HUB_CACHE'] || join(homeOf(env), 'hub'), env);
}

/** Whether nothing may be asked of the hub. */
export const isOffline = (env: Environment = process.env): boolean =>
  isTrue(env['HF_HUB_OFFLINE'] || env['TRANSFORMERS_OFFLINE']);

/** The token, and where it is from. */
export interface Token {
  readonly value?: string | undefined;
  readonly from: string;
}

/**
 * The token of the option, of HF_TOKEN, or of the file that `hf auth login` writes.
 *
 * Errors: ERR_FILE for a file that cannot be read; ERR_ARGUMENT for what is no token, which is not shown.
 */
export async function findToken(op: string, option?: string, env: Environment = process.env): Promise<Token> {
  if (option !== undefined) return checked(op, option, 'the option token');
  if (env['HF_TOKEN']) return checked(op, env['HF_TOKEN'], 'HF_TOKEN');
  if (env['HUGGING_FACE_HUB_TOKEN'])
    return checked(op, env['HUGGING_FACE_HUB_TOKEN'], 'HUGGING_FACE_HUB_TOKEN');
  const path = expanded(env['HF_TOKEN_PATH'] || join(homeOf(env), 'token'), env);
  try {
    const text = await readFile(path, 'utf8');
    if (text.trim() !== '') return checked(op, text, path);
  } catch (cause) {
    if (!['ENOENT', 'ENOTDIR'].includes((cause as NodeJS.ErrnoException).code ?? ''))
      throw loraError(op, 'ERR_FILE', `cannot read the token in ${path}: ${systemReason(cause)}`, cause);
  }
  return { from: `none (HF_TOKEN, or ${path})` };
}

/** What a header can hold. */
function checked(op: string, text: string, from: string): Token {
  const value = text.trim();
  check(
    /^[\x21-\x7e]{1,1000}$/.test(value),
    op,
    `expected ${from} to be a token of the hub: printable characters without spaces`,
  );
  return { value, from };
}

/** @throws ERR_ARGUMENT when HF_ENDPOINT is no address. */
export function endpointOf(op: string, env: Environment = process.env): string {
  const text = (env['HF_ENDPOINT'] || 'https://huggingface.co').replace(/\/+$/, '');
  const url = URL.canParse(text) ? new URL(text) : undefined;
  check(
    url !== undefined && /^https?:$/.test(url.protocol) && url.username === '' && url.search === '',
    op,
    'expected HF_ENDPOINT to be an address such as https://huggingface.co, without a name or password',
  );
  return text;
}

function seconds(op: string, name: string, text: string | undefined): number {
  const value = Number(text || 10);
  check(value > 0 && value <= 86_400, op, `expected ${name} to be a number of seconds above 0`);
  return value * 1000;
}

export async function hubSettings(
  op: string,
  { token, offline }: HubOptions,
  env: Environment = process.env,
): Promise<HubSettings> {
  const found = await findToken(op, token, env);
  return {
    endpoint: endpointOf(op, env),
    cache: cacheFolder(env),
    offline: offline ?? isOffline(env),
    token: found.value,
    tokenFrom: found.from,
    answerTimeout: seconds(op, 'HF_HUB_ETAG_TIMEOUT', env['HF_HUB_ETAG_TIMEOUT']),
    byteTimeout: seconds(op, 'HF_HUB_DOWNLOAD_TIMEOUT', env['HF_HUB_DOWNLOAD_TIMEOUT']),
  };
}
