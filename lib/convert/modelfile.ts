/** What Ollama makes a model of: a Modelfile beside a GGUF file (https://docs.ollama.com/modelfile). */
import { lstat } from 'node:fs/promises';
import { basename, dirname, isAbsolute, join, relative, sep } from 'node:path';
import type { GenerationDefaults } from '../engine/sampling';
import { loraError } from '../errors';
import { writeFileAtomic } from '../formats/atomic';
import type { ModelFiles } from '../formats/model_folder';
import type { ModelConfig } from '../models/config/model_config';
import { parseGenerationDefaults } from '../models/files/generation_config';
import { Tokenizer } from '../text/tokenizer';
import { check, isRecord } from '../validate';
import { goTemplate } from './go_template';

const name = 'Modelfile';

/** The Modelfile that a conversion has written. */
export interface WrittenModelfile {
  /** Its path. */
  path: string;
  /** What it does not say, or says otherwise than the model's own files, a sentence each; they stand in it as comments. */
  notes: readonly string[];
}

/** More tokens than these are asked for by whoever has the memory. */
const mostContext = 8192;

/**
 * Where the Modelfile of a GGUF file goes.
 * @throws ERR_FILE where there is one, which may be somebody's own work; ERR_ARGUMENT for a name that a Modelfile cannot hold
 */
export async function modelfilePath(op: string, target: string): Promise<string> {
  const path = join(dirname(target), name);
  check(
    basename(target) !== name,
    op,
    `expected another name than ${name} for the GGUF file beside a Modelfile`,
  );
  check(
    isPrintable(basename(target)),
    op,
    'expected a name of printable characters for a file that a Modelfile names',
  );
  if (await lstat(path).catch(() => undefined))
    throw loraError(op, 'ERR_FILE', `${path} exists already: move it away, or choose another directory`);
  return path;
}

/** A file as a Modelfile in `dir` names it. Whatever has no ./ could be a model of Ollama's library. */
export function namedFrom(dir: string, path: string): string {
  const way = relative(dir, path);
  if (isAbsolute(way)) return way; // of another drive
  const parts = way.split(sep).join('/');
  return parts.startsWith('../') || parts === '..' ? parts : `./${parts}`;
}

/** Ollama leaves out every character that does not print. */
const isPrintable = (text: string): boolean => /^[\p{L}\p{M}\p{N}\p{P}\p{S} ]*$/u.test(text);

/** A value, which has no way to write three quotation marks; undefined where it cannot be written. */
function quoted(text: string): string | undefined {
  if (text.includes('"""') || !isPrintable(text.replaceAll('\n', ''))) return undefined;
  return /["\n]/.test(text) ? `"""${text}"""` : `"${text}"`;
}

/** What the model's files say of sampling. Whatever they leave open is Ollama's to choose. */
function samplingLines(json: unknown, defaults: GenerationDefaults): string[] {
  if (!isRecord(json)) return [];
  const { temperature, topK, topP, minP, repetitionPenalty } = defaults;
  const given: [string, number][] = [];
  if (json['do_sample'] === true) {
    given.push(['temperature', temperature], ['top_k', topK], ['top_p', topP]);
    if (minP > 0) given.push(['min_p', minP]);
  } else if (json['do_sample'] === false) given.push(['temperature', 0]);
  given.push(['repeat_penalty', repetitionPenalty]);
  // Of the whole text, as in transformers, instead of the last 64 tokens.
  if (repetitionPenalty !== 1) given.push(['repeat_last_n', -1]);
  return given.map(([key, value]) => `PARAMETER ${key} ${value}`);
}

/** What ends an answer: tokens by their text, and the model's stop strings. */
function stops({ eosTokenIds, stop }: GenerationDefaults, tokenizer: Tokenizer): string[] {
  const tokens = [...eosTokenIds].map((id) => tokenizer.decode([id], { skipSpecialTokens: false }));
  return [...new Set([...tokens, ...stop])].filter((text) => text !== '');
}

/** What a Modelfile is made of. */
export interface ModelfileSource {
  /** The files of the model, whose template and values it takes. */
  readonly folder: ModelFiles;
  readonly config: ModelConfig;
  /** The model, as the Modelfile names it. */
  readonly from: string;
  readonly adapter?: string;
}

/** The text of a Modelfile, with what it leaves out. */
export async function modelfileText(source: ModelfileSource): Promise<{ text: string; notes: string[] }> {
  const { folder, config, from, adapter } = source;
  const tokenizer = await Tokenizer.fromFiles(folder);
  const generation = await folder.json('generation_config.json');
  const defaults = parseGenerationDefaults(generation, config, tokenizer, folder.reading.limits);
  const notes: string[] = [];
  const lines = [`FROM ${from}`, ...(adapter === undefined ? [] : [`ADAPTER ${adapter}`])];
  if (tokenizer) {
    const { bosTokenId: bos } = config;
    const addsBos = bos !== null && tokenizer.encode('')[0] === bos;
    const made = goTemplate(tokenizer, addsBos ? tokenizer.decode([bos], { skipSpecialTokens: false }) : '');
    const template = made.text === undefined ? undefined : quoted(made.text);
    if (template !== undefined) {
      notes.push(...made.notes);
      lines.push(`TEMPLATE ${template}`);
    } else {
      const why = made.text === undefined ? made.notes[0] : 'it has characters that a Modelfile cannot hold';
      notes.push(`no TEMPLATE, since ${why}; Ollama chooses one by the GGUF file's tokenizer.chat_template`);
    }
    for (const stop of stops(defaults, tokenizer)) {
      const value = quoted(stop);
      if (value === undefined) notes.push(`a stop string is left out: ${JSON.stringify(stop)}`);
      else lines.push(`PARAMETER stop ${value}`);
    }
  } else notes.push('no TEMPLATE and no stop, since the model has no tokenizer.json');
  const { maxPositionEmbeddings: most } = config;
  if (most > mostContext) notes.push(`num_ctx may be up to ${most}, which takes memory`);
  lines.push(`PARAMETER num_ctx ${Math.min(most, mostContext)}`);
  lines.push(...samplingLines(generation, defaults));
  const comments = ['ollama create NAME -f Modelfile', ...notes].map(
    (line) => `# ${line.replace(/\s+/g, ' ')}`,
  );
  return { text: `${[...comments, ...lines].join('\n')}\n`, notes };
}

/** Writes it. @throws ERR_FILE, also where one has come meanwhile */
export async function writeModelfile(
  op: string,
  target: string,
  { text, notes }: { readonly text: string; readonly notes: readonly string[] },
): Promise<WrittenModelfile> {
  const path = await modelfilePath(op, target);
  await writeFileAtomic(path, text);
  return { path, notes };
}
