/** PEFT's adapter directories: adapter_config.json and adapter_model.safetensors. */
import { createHash } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { LoRAError, loraError } from '../errors';
import { writeNewFile } from '../formats/atomic';
import { saveTogether, SavedFolder } from '../formats/file_group';
import { isGguf } from '../formats/gguf';
import { parseJson, readText } from '../formats/json';
import { readLimits, type Limits, type ReadLimits } from '../formats/limits';
import { refuseLink } from '../formats/links';
import { adapterConfigFile as configFile, adapterWeightsFile as weightsFile } from '../formats/model_files';
import { toPath } from '../formats/paths';
import { sourceFolder, sourceOptionNames, type SourceOptions } from '../hub/source';
import { atOnce } from '../tensor/pace';
import { serializeSafetensors, type SafetensorsTensor } from '../formats/safetensors';
import { StoredTensors } from '../formats/stored_tensors';
import { check, checkOptions, describe, isRecord } from '../validate';
import { checkHead, type ModelHead } from './head';
import { foreignAdapter, peftTypes } from './methods';

/** In the metadata of the weights: the SHA-256 of the configuration that they were saved with. */
const digestKey = 'lora-native.config';
/** There: the labels of the head that they were trained with, of which PEFT's configurations say nothing. */
const headKey = 'lora-native.head';

/** What a PEFT directory holds. */
export interface AdapterFiles {
  /** adapter_config.json with every field that it has. */
  config: Record<string, unknown>;
  /** By key of adapter_model.safetensors; copies, which no file backs. */
  tensors: Map<string, SafetensorsTensor>;
  /** The head that it was trained with, where the file says it: one of classes, with its labels. */
  head?: AdapterHead | undefined;
}

/** A head as the file of an adapter names it. */
export type AdapterHead = Pick<ModelHead, 'type' | 'labels' | 'problemType'>;

/** The options of {@link readAdapter}. */
export interface ReadAdapterOptions extends SourceOptions {
  /** Bounds on what the files may ask for. */
  limits?: ReadLimits | undefined;
}

/**
 * Reads a PEFT directory of any method that this package knows, or an adapter of the hub by its name, `hf:org/name[@revision]`, without its base model. Fields of the
 * configuration that this package does not use are kept. A configuration that was edited after the save is taken as it is, with a warning (`LORA_ADAPTER_EDITED`).
 *
 * @throws ERR_FILE when the directory or one of its two files is missing; ERR_HUB for a name that the hub does not give; ERR_ADAPTER when the weights are only there
 * as a pickle (adapter_model.bin), or the configuration is that of another method; ERR_SAFETENSORS for bad weights.
 * @example
 * const { config, tensors } = await readAdapter('my-adapter');
 * console.log(config.r, tensors.size);
 */
export async function readAdapter(
  dir: string | URL,
  options: ReadAdapterOptions = {},
): Promise<AdapterFiles> {
  const op = 'readAdapter';
  checkOptions(op, options, ['limits', ...sourceOptionNames]);
  const limits = readLimits(op, options.limits);
  const path = await sourceFolder(dir, op, 'adapter', options);
  await refuseFile(op, path);
  let edited: string | undefined;
  for (let attempt = 1; ; attempt++) {
    const last = attempt === attempts;
    const found = await readPair(path, limits, last);
    if (found === undefined) continue;
    // An edited configuration is the same when it is read again. Where it is not, a save at the same time had replaced one of the two
    // files, and the next reading may find the pair.
    if (found.edited !== undefined && found.edited !== edited && !last) {
      edited = found.edited;
      continue;
    }
    if (found.edited !== undefined) warnEdited(join(path, configFile));
    const { config, tensors, head } = found;
    return { config: config as Record<string, unknown>, tensors, ...(head && { head }) };
  }
}

/** @throws ERR_FILE for a file: an adapter of llama.cpp's is one, and is no directory of PEFT's. */
async function refuseFile(op: string, path: string): Promise<void> {
  const found = await stat(path).catch(() => undefined);
  if (!found?.isFile()) return;
  const how = (await isGguf(path))
    ? `; this is a GGUF file, of which \`lora-native convert ${path} DIR --format peft --base MODEL\` makes one if it is an adapter`
    : '';
  throw loraError(op, 'ERR_FILE', `${path} is a file: expected an adapter directory of PEFT's${how}`);
}

/** How often a pair of files is read that a save beside this one replaces meanwhile. */
const attempts = 20;

const digestOf = (text: string): string => createHash('sha256').update(text).digest('hex');

function warnEdited(path: string): void {
  process.emitWarning(
    `${path} is not the configuration that the weights beside it were saved with: it was edited, or comes from another adapter`,
    { code: 'LORA_ADAPTER_EDITED' },
  );
}

interface Pair {
  config: unknown;
  tensors: Map<string, SafetensorsTensor>;
  head: AdapterHead | undefined;
  /** Tells this pair from others, where the configuration is not that of the weights. */
  edited?: string;
}

/** The two files; undefined when they were replaced meanwhile. With `last`, that is an error. */
async function readPair(path: string, limits: Limits, last: boolean): Promise<Pair | undefined> {
  const folder = await SavedFolder.open(path, 'adapter directory');
  checkFiles(path, folder, await findInner(path, folder));
  const again = (error: unknown): undefined => {
    const moved = (error as { cause?: NodeJS.ErrnoException }).cause?.code === 'ENOENT';
    if (last || !moved) throw error;
    return undefined;
  };
  const text = await readText(folder.file(configFile), { limits }).catch(again);
  if (text === undefined) return undefined;
  const config = parseJson(text, join(path, configFile), limits);
  // Said before the weights are missed: of another method they have another name.
  const foreign = foreignAdapter(config);
  if (foreign !== undefined) throw new LoRAError('ERR_ADAPTER', `${join(path, configFile)} ${foreign}`);
  const file = await StoredTensors.open(folder.file(weightsFile), { limits }).catch(again);
  if (file === undefined) return undefined;
  try {
    const of = file.metadata[digestKey];
    const tensors = await file.readAll();
    const digest = digestOf(text);
    const pair = { config, tensors, head: headIn(file.metadata[headKey], join(path, weightsFile), limits) };
    return of === undefined || of === digest ? pair : { ...pair, edited: `${of} ${digest}` };
  } finally {
    await file.close();
  }
}

/** The head that the metadata of a file name. @throws ERR_ADAPTER for what is none. */
function headIn(text: string | undefined, where: string, limits: Limits): AdapterHead | undefined {
  if (text === undefined) return undefined;
  const head = parseJson(text, where, limits);
  try {
    checkHead(head);
    const { type, labels, problemType } = head;
    if (labels && problemType) return { type, labels, problemType };
  } catch {
    // What is no head is told below.
  }
  throw new LoRAError(
    'ERR_ADAPTER',
    `${where} has ${headKey} ${text.slice(0, 80)} in its metadata, which is no head`,
  );
}

function checkFiles(dir: string, folder: SavedFolder, inner: string | undefined): void {
  if (!folder.has(configFile)) {
    const hint = inner === undefined ? '' : `; there is one in ${join(dir, inner)}`;
    throw new LoRAError('ERR_FILE', `${dir} has no ${configFile}${hint}`);
  }
  if (folder.has(weightsFile)) return;
  if (folder.has('adapter_model.bin')) {
    throw new LoRAError(
      'ERR_ADAPTER',
      `${dir} has its weights only in adapter_model.bin, a Python pickle, which can run any code when it is loaded: ` +
        `convert it to ${weightsFile} (in PEFT: save_pretrained with safe_serialization=True)`,
    );
  }
  // An MLX adapter is better named by its configuration, which is read next.
  if (folder.has('adapters.safetensors')) return;
  throw new LoRAError('ERR_FILE', `${dir} has no ${weightsFile}`);
}

/** PEFT writes an adapter that is not called "default" into a directory of that name. */
async function findInner(dir: string, folder: SavedFolder): Promise<string | undefined> {
  if (folder.has(configFile)) return undefined;
  for (const name of folder.names) {
    const path = join(dir, name);
    const inner = await refuseLink(path)
      .then(() => SavedFolder.open(path))
      .catch(() => undefined);
    if (inner?.has(configFile)) return name;
  }
  return undefined;
}

/** The files of a directory, or what readAdapter gave, for a call named `op`. */
export async function adapterFiles(
  op: string,
  from: string | URL | AdapterFiles,
  options: ReadAdapterOptions,
): Promise<AdapterFiles> {
  const named = typeof from === 'string' || from instanceof URL;
  check(
    named || options.revision === undefined,
    op,
    'expected no revision, which is for a name of the hub, with { config, tensors }',
  );
  const { limits, revision, token, offline, signal, onProgress } = options;
  const files = named
    ? await readAdapter(from, { limits, revision, token, offline, signal, onProgress })
    : from;
  check(
    typeof files === 'object' && files !== null && typeof files.tensors?.get === 'function',
    op,
    `expected a directory or { config, tensors } but received ${describe(from)}`,
  );
  return files;
}

/** What is written: see {@link AdapterFiles}. */
interface WrittenAdapter {
  readonly config: Readonly<Record<string, unknown>>;
  readonly tensors: ReadonlyMap<string, SafetensorsTensor>;
  readonly head?: AdapterHead | undefined;
}

/**
 * Writes a PEFT directory. A new directory appears whole or not at all. In one that exists the other files stay, and the adapter is
 * the old one or the new one for {@link readAdapter}, whenever the process ends: the weights carry the digest of their configuration.
 *
 * `config` is the content of adapter_config.json, as readAdapter or toPeftJson give it.
 *
 * @throws ERR_ARGUMENT for what is not an adapter; ERR_FILE when writing fails.
 * @example await writeAdapter('copy', await readAdapter('my-adapter'));
 */
export async function writeAdapter(dir: string | URL, files: WrittenAdapter): Promise<void> {
  await writeAdapterWith(dir, files);
}

const headText = ({ type, labels, problemType }: AdapterHead): string =>
  JSON.stringify({ type, labels, problemType });

/** The same, with files that `more` puts beside the two: they appear together. */
export async function writeAdapterWith(
  dir: string | URL,
  files: WrittenAdapter,
  more?: (folder: string) => Promise<void>,
): Promise<void> {
  const op = 'writeAdapter';
  const path = toPath(dir, op);
  check(isRecord(files), op, `expected { config, tensors } but received ${describe(files)}`);
  const { config, tensors, head } = files;
  check(
    isRecord(config),
    op,
    `expected config to be the content of ${configFile} but received ${describe(config)}`,
  );
  check(
    peftTypes.some((type) => type === config['peft_type']),
    op,
    `expected config to be the content of ${configFile}, with peft_type ${peftTypes.map(describe).join(' or ')} but received ${describe(config['peft_type'])}`,
  );
  const sorted = Object.fromEntries(Object.entries(config).sort(([a], [b]) => (a < b ? -1 : 1)));
  const json = JSON.stringify(sorted, null, 2);
  // At once: two saves of a folder keep their order.
  const metadata = { format: 'pt', [digestKey]: digestOf(json), ...(head && { [headKey]: headText(head) }) };
  const weights = atOnce(serializeSafetensors(tensors, metadata, op));
  await saveTogether(path, async (folder) => {
    await writeNewFile(join(folder, weightsFile), weights, join(path, weightsFile));
    await writeNewFile(join(folder, configFile), json, join(path, configFile));
    await more?.(folder);
  });
}
