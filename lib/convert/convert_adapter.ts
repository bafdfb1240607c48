/** Adapters from one format into another. */
import { stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { LoRAError } from '../errors';
import { SavedFolder } from '../formats/file_group';
import { isGguf } from '../formats/gguf';
import { readJson, type Reading } from '../formats/json';
import { readLimits, type ReadLimits } from '../formats/limits';
import { adapterConfigFile } from '../formats/model_files';
import type { ModelFiles } from '../formats/model_folder';
import { toPath } from '../formats/paths';
import { idOfSnapshot } from '../hub/cache';
import { sourceFolder, sourceOptionNames, type SourceOptions } from '../hub/source';
import type { ModelConfig } from '../models/config/model_config';
import { modelConfigOf, openModelFiles } from '../models/files/model_source';
import { checkUnused } from '../models/save';
import { linearModules } from '../models/files/tensor_table';
import { readAdapter, writeAdapter, type AdapterFiles } from '../peft/adapter_files';
import { check, checkBoolean, checkOneOf, checkOptions } from '../validate';
import { filesOf, type AboutAdapter } from '../peft/adapter_layers';
import { layersOf } from './layers';
import { readGgufAdapter, writeGgufAdapter } from './gguf_adapter';
import { modelfilePath, modelfileText, namedFrom, writeModelfile, type WrittenModelfile } from './modelfile';
import { isMlxConfig, readMlxAdapter, writeMlxAdapter } from './mlx_adapter';

const op = 'convertAdapter';

/** The formats of adapters: PEFT's and mlx_lm's directories, llama.cpp's files. */
export const adapterFormats = ['peft', 'gguf', 'mlx'] as const;

/** A format of adapters. */
export type AdapterFormat = (typeof adapterFormats)[number];

/** The options of {@link convertAdapter}. */
export interface ConvertAdapterOptions extends SourceOptions {
  /** What is written: a PEFT directory, a file of llama.cpp, or a directory of mlx_lm. */
  format: AdapterFormat;
  /**
   * The model that the adapter was trained for: a directory, or a name of the hub, of which config.json is read. It is needed from and to 'gguf', where the order
   * of rows depends on the heads, and to 'mlx', where blocks are counted from the last.
   */
  base?: string | URL | undefined;
  /** Of 'gguf': writes a Modelfile of Ollama beside the file, too, of `base` with the adapter. `base` must be a directory or a GGUF file then. Default false. */
  modelfile?: boolean | undefined;
  /** Bounds on what the files may ask for. */
  limits?: ReadLimits | undefined;
}

interface Base {
  readonly dir: string;
  readonly files: ModelFiles;
  readonly config: ModelConfig;
  /** Its id on the hub, or where it lies. */
  readonly name: string;
}

async function readBase(options: ConvertAdapterOptions): Promise<Base | undefined> {
  const { base, token, offline, signal, onProgress } = options;
  if (base === undefined) return undefined;
  const limits = readLimits(op, options.limits);
  const dir = await sourceFolder(base, op, 'config', { token, offline, signal, onProgress });
  const files = await openModelFiles(op, dir, { limits, signal });
  return { dir, files, config: await modelConfigOf(files), name: idOfSnapshot(dir) ?? dir };
}

/** What lies at a path; a directory that is not one of mlx_lm's is read as PEFT's, whose errors say what it lacks. */
async function formatOf(path: string, reading: Reading): Promise<AdapterFormat> {
  const found = await stat(path).catch(() => undefined);
  if (found?.isFile()) {
    if (await isGguf(path, reading.signal)) return 'gguf';
    throw new LoRAError('ERR_ADAPTER', `${path} is no GGUF file; the other formats are directories`);
  }
  const folder = await SavedFolder.open(path, 'adapter directory');
  const json = folder.has(adapterConfigFile)
    ? await readJson(folder.file(adapterConfigFile), reading)
    : undefined;
  return isMlxConfig(json) ? 'mlx' : 'peft';
}

function needed(base: Base | undefined, why: string): ModelConfig {
  check(base !== undefined, op, `expected base, the model that the adapter was trained for, ${why}`);
  return base.config;
}

const rowsDepend = 'because in a GGUF file the order of the rows of q and k depends on its heads';

/** The source as what a PEFT directory holds. */
async function readAny(
  path: string,
  from: AdapterFormat,
  base: Base | undefined,
  options: ConvertAdapterOptions,
): Promise<AdapterFiles> {
  const { signal } = options;
  const reading: Reading = { limits: readLimits(op, options.limits), signal };
  if (from === 'peft') return readAdapter(path, { limits: options.limits });
  let layers;
  let about: AboutAdapter = { base: null, dropout: 0 };
  if (from === 'gguf') layers = await readGgufAdapter(path, needed(base, rowsDepend), reading);
  else ({ layers, about } = await readMlxAdapter(path, base?.config, reading));
  about = { ...about, base: about.base ?? base?.name ?? null };
  const files = filesOf(layers, about, base && linearModules(base.config));
  if (base) await layersOf(op, files, base.config); // shapes and values, as for every adapter of this model
  return files;
}

/** The Modelfile of an adapter. @throws ERR_ARGUMENT for a base in the cache of the hub, whose links Ollama does not follow. */
function modelfileOf(target: string, { dir, files, config }: Base): ReturnType<typeof modelfileText> {
  check(
    idOfSnapshot(dir) === undefined,
    op,
    'expected base to be a directory or a GGUF file with modelfile, since Ollama does not read the cache of the hub: convert the base, too',
  );
  const place = dirname(target);
  return modelfileText({
    folder: files,
    config,
    from: namedFrom(place, dir),
    adapter: namedFrom(place, target),
  });
}

/**
 * Writes an adapter in another format. What the source is, is seen from its files. With PEFT's lora_B = up and lora_A = down, it becomes
 *
 *     gguf: NAME.lora_a = down, NAME.lora_b = up, its rows of q and k in llama.cpp's order; one adapter.lora.alpha
 *     mlx:  PATH.lora_a = downᵀ, PATH.lora_b = upᵀ; one rank, one scale = α/r
 *
 * Both write f32. Where layers differ in α (alpha_pattern, rsLoRA with several ranks) the difference goes into up with one rounding, and
 * mlx_lm's one rank is reached with zeros; all else is exact, and PEFT → gguf → PEFT gives the same numbers.
 *
 * @param source a PEFT directory (or its name on the hub), a GGUF adapter, or a directory of mlx_lm
 * @param out a new or empty directory, or the file of 'gguf', which is replaced
 * @returns the Modelfile, where one was asked for
 * @throws ERR_ARGUMENT for options, also where `base` is needed; ERR_ADAPTER for what is no adapter of this base; ERR_UNSUPPORTED for DoRA and
 * modules_to_save, which only PEFT has; ERR_FILE, ERR_SAFETENSORS, ERR_HUB; the reason of the signal
 * @example
 * await convertAdapter('my-adapter', 'my-adapter.gguf', { format: 'gguf', base: 'model' });
 * await convertAdapter('my-adapter.gguf', 'again', { format: 'peft', base: 'model' });
 */
export async function convertAdapter(
  source: string | URL,
  out: string | URL,
  options: ConvertAdapterOptions,
): Promise<WrittenModelfile | undefined> {
  checkOptions(op, options, ['format', 'base', 'modelfile', 'limits', ...sourceOptionNames]);
  const { format, modelfile = false, signal } = options;
  checkOneOf(op, 'format', format, adapterFormats);
  checkBoolean(op, 'modelfile', modelfile);
  check(
    !modelfile || format === 'gguf',
    op,
    `expected format 'gguf' with modelfile but received '${format}'`,
  );
  const target = toPath(out, op);
  if (modelfile) await modelfilePath(op, target);
  if (format !== 'gguf') await checkUnused(op, target);
  const path = await sourceFolder(source, op, 'adapter', options);
  const from = await formatOf(path, { limits: readLimits(op, options.limits), signal });
  check(from !== format, op, `expected another format than that of ${path}, ${format}`);
  const base = await readBase(options);
  if (format !== 'peft')
    needed(base, format === 'gguf' ? rowsDepend : 'because mlx_lm counts blocks from the last');
  const files = await readAny(path, from, base, options);
  signal?.throwIfAborted();
  if (format === 'peft') {
    await writeAdapter(target, files);
    return undefined;
  }
  const { config } = base!;
  const { layers, about } = await layersOf(op, files, config);
  if (format === 'mlx') {
    await writeMlxAdapter(target, layers, about, config, op);
    return undefined;
  }
  const told = modelfile ? await modelfileOf(target, base!) : undefined;
  await writeGgufAdapter(target, layers, config, op);
  return told && (await writeModelfile(op, target, told));
}
