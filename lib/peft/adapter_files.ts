/** PEFT's adapter directories: adapter_config.json and adapter_model.safetensors. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { LoRAError } from '../errors';
import { replaceDirectory, stageFile, writeFileAtomic } from '../formats/atomic';
import { isRecord, readJson } from '../formats/json';
import { readLimits, type ReadLimits } from '../formats/limits';
import { toPath } from '../formats/paths';
import { openSafetensors, serializeSafetensors, type SafetensorsTensor } from '../formats/safetensors';
import { systemReason } from '../formats/system_reason';
import { check, checkOptions, describe } from '../validate';
import { foreignConfig } from './config';

const configFile = 'adapter_config.json';
const weightsFile = 'adapter_model.safetensors';

/** What a PEFT directory holds. */
export interface AdapterFiles {
  /** adapter_config.json with every field that it has. */
  config: Record<string, unknown>;
  /** By key of adapter_model.safetensors; copies, which no file backs. */
  tensors: Map<string, SafetensorsTensor>;
}

/** The options of {@link readAdapter}. */
export interface ReadAdapterOptions {
  /** Bounds on what the files may ask for. */
  limits?: ReadLimits | undefined;
}

/**
 * Reads any PEFT LoRA directory, without its base model. Fields that this package cannot train or run with are kept.
 *
 * @throws ERR_FILE when the directory or one of its two files is missing; ERR_ADAPTER when the weights are only there
 * as a pickle (adapter_model.bin), or the configuration is not one of PEFT's LoRA; ERR_SAFETENSORS for bad weights.
 * @example
 * const { config, tensors } = await readAdapter('my-adapter');
 * console.log(config.r, tensors.size);
 */
export async function readAdapter(
  dir: string | URL,
  options: ReadAdapterOptions = {},
): Promise<AdapterFiles> {
  const op = 'readAdapter';
  checkOptions(op, options, ['limits']);
  const limits = readLimits(op, options.limits);
  const path = toPath(dir, op);
  await checkFiles(path);
  const config = await readJson(join(path, configFile), { limits });
  const foreign = foreignConfig(config);
  if (foreign !== undefined) throw new LoRAError('ERR_ADAPTER', `${join(path, configFile)} ${foreign}`);
  const file = await openSafetensors(join(path, weightsFile), { limits });
  try {
    const tensors = new Map<string, SafetensorsTensor>();
    for (const [name, { dtype, shape, bytes }] of file.tensors) {
      tensors.set(name, { dtype, shape: [...shape], bytes: new Uint8Array(bytes) });
    }
    return { config: config as Record<string, unknown>, tensors };
  } finally {
    file.close();
  }
}

async function checkFiles(dir: string): Promise<void> {
  let present: string[];
  try {
    present = await readdir(dir);
  } catch (error) {
    const reason = systemReason(error).replace('no such file', 'no such directory');
    throw new LoRAError('ERR_FILE', `cannot read the adapter directory ${dir}: ${reason}`, { cause: error });
  }
  if (!present.includes(configFile)) {
    // PEFT writes an adapter that is not called "default" into a directory of that name.
    const inner = await findInner(dir, present);
    const hint = inner === undefined ? '' : `; there is one in ${join(dir, inner)}`;
    throw new LoRAError('ERR_FILE', `${dir} has no ${configFile}${hint}`);
  }
  if (present.includes(weightsFile)) return;
  if (present.includes('adapter_model.bin')) {
    throw new LoRAError(
      'ERR_ADAPTER',
      `${dir} has its weights only in adapter_model.bin, a Python pickle, which can run any code when it is loaded: ` +
        `convert it to ${weightsFile} (in PEFT: save_pretrained with safe_serialization=True)`,
    );
  }
  // An MLX adapter is better named by its configuration, which is read next.
  if (present.includes('adapters.safetensors')) return;
  throw new LoRAError('ERR_FILE', `${dir} has no ${weightsFile}`);
}

async function findInner(dir: string, present: readonly string[]): Promise<string | undefined> {
  for (const name of present) {
    const files = await readdir(join(dir, name)).catch((): string[] => []);
    if (files.includes(configFile)) return name;
  }
  return undefined;
}

/**
 * Writes a PEFT directory. A new directory appears whole or not at all. In one that exists the other files stay, both
 * new files are complete before the first one gets its name, and the configuration, without which the directory is
 * no adapter, comes last.
 *
 * `config` is the content of adapter_config.json, as readAdapter or toPeftJson give it.
 *
 * @throws ERR_ARGUMENT for what is not an adapter; ERR_FILE when writing fails.
 * @example await writeAdapter('copy', await readAdapter('my-adapter'));
 */
export async function writeAdapter(
  dir: string | URL,
  files: { config: Readonly<Record<string, unknown>>; tensors: ReadonlyMap<string, SafetensorsTensor> },
): Promise<void> {
  const op = 'writeAdapter';
  const path = toPath(dir, op);
  check(isRecord(files), op, `expected { config, tensors } but received ${describe(files)}`);
  const { config, tensors } = files;
  check(
    isRecord(config),
    op,
    `expected config to be the content of ${configFile} but received ${describe(config)}`,
  );
  check(
    config['peft_type'] === 'LORA',
    op,
    `expected config to be the content of ${configFile}, with peft_type 'LORA' but received ${describe(config['peft_type'])}`,
  );
  const weights = serializeSafetensors(tensors, { format: 'pt' }, op);
  const sorted = Object.fromEntries(Object.entries(config).sort(([a], [b]) => (a < b ? -1 : 1)));
  const json = JSON.stringify(sorted, null, 2);

  const exists = await readdir(path).then(
    () => true,
    (error: unknown) => (error as NodeJS.ErrnoException).code !== 'ENOENT',
  );
  if (!exists) {
    await replaceDirectory(path, async (temporary) => {
      await writeFileAtomic(join(temporary, weightsFile), weights);
      await writeFileAtomic(join(temporary, configFile), json);
    });
    return;
  }
  const stagedWeights = await stageFile(join(path, weightsFile), weights);
  try {
    const stagedConfig = await stageFile(join(path, configFile), json);
    try {
      await stagedWeights.commit();
      await stagedConfig.commit();
    } finally {
      await stagedConfig.discard();
    }
  } finally {
    await stagedWeights.discard();
  }
}
