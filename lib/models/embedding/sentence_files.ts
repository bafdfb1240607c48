/**
 * The files of sentence-transformers beside a model: modules.json names what follows the model (pooling, dense layers, normalization), each in a folder
 * with a config.json; config_sentence_transformers.json has the prompts. Formats: sentence-transformers' documentation, "Saved Models".
 */
import { join } from 'node:path';
import { loraError } from '../../errors';
import { floatOfStored } from '../../formats/dtypes';
import { floatsOf } from '../../formats/floats';
import { readJson, type Reading } from '../../formats/json';
import type { FolderFile } from '../../formats/links';
import { modulesFile, sentenceFiles, weightsFile } from '../../formats/model_files';
import type { ModelFiles } from '../../formats/model_folder';
import { StoredTensors } from '../../formats/stored_tensors';
import type { Device } from '../../native/device';
import { tensor } from '../../tensor/create';
import { runUntracked } from '../../tensor/scope';
import type { Tensor } from '../../tensor/tensor';
import { describe, isListOf, isRecord, shapeText } from '../../validate';
import type { ModelConfig } from '../config/model_config';

/** What of a text becomes its vector: the last token, or the mean of all. */
export type Pool = 'last' | 'mean';

/** The nonlinearities of dense layers. */
const activations = {
  Identity: (x: Tensor) => x,
  Tanh: (x: Tensor) => x.tanh(),
  ReLU: (x: Tensor) => x.relu(),
  GELU: (x: Tensor) => x.gelu(),
  SiLU: (x: Tensor) => x.silu(),
  Sigmoid: (x: Tensor) => x.sigmoid(),
} as const;
type Activation = keyof typeof activations;

/** y = f(x·W + b): x [n, in] → [n, out] in f32. */
export class DenseLayer {
  constructor(
    /** [in, out] */
    private readonly weight: Tensor,
    private readonly bias: Tensor | undefined,
    private readonly activation: Activation,
  ) {}

  get outFeatures(): number {
    return this.weight.shape[1]!;
  }

  forward(x: Tensor): Tensor {
    const y = x.matmul(this.weight);
    return activations[this.activation](this.bias ? y.add(this.bias) : y);
  }

  dispose(): void {
    this.weight.dispose();
    this.bias?.dispose();
  }
}

/** How a model makes vectors of texts. */
export interface SentenceSettings {
  readonly pool: Pool;
  /** Whether the tokens of the prompt count in the mean. */
  readonly includePrompt: boolean;
  /** What the pooled vector goes through. */
  readonly dense: readonly DenseLayer[];
  /** What stands before texts, by name. */
  readonly prompts: ReadonlyMap<string, string>;
  /** The name of the prompt of texts for which none is asked. */
  readonly defaultPrompt: string | undefined;
  /** The most tokens of a text; undefined: those of the context. */
  readonly maxLength: number | undefined;
}

/** What modules.json and the folders that it names say. */
interface Modules {
  pool?: Pool;
  includePrompt: boolean;
  readonly dense: DenseLayer[];
}

const [, promptsFile, limitsFile] = sentenceFiles;

const op = 'from_pretrained';

function refuse(code: 'ERR_FILE' | 'ERR_UNSUPPORTED', message: string): never {
  throw loraError(op, code, message);
}

/** The folders of modules are in that of the model, and no link leads out of it. */
const fileIn = (dir: string, path: string, name: string): FolderFile => ({
  path: join(dir, path, name),
  folder: dir,
});

const isFolderName = (path: unknown): path is string =>
  typeof path === 'string' && /^[\w.-]+$/.test(path) && !/^\.+$/.test(path);

async function configOf(dir: string, path: string, reading: Reading): Promise<Record<string, unknown>> {
  const file = fileIn(dir, path, 'config.json');
  const json = await readJson(file, reading);
  if (!isRecord(json)) refuse('ERR_FILE', `${file.path}: expected an object but received ${describe(json)}`);
  return json;
}

/** The words of older files, each a flag, and those of newer ones, which have `pooling_mode`. */
const poolingModes: Readonly<Record<string, Pool>> = {
  pooling_mode_lasttoken: 'last',
  pooling_mode_mean_tokens: 'mean',
  lasttoken: 'last',
  mean: 'mean',
};

/** What modules.json and the config.json of its one folder say of a model that has pooling alone. */
export const poolingFiles = (mode: string): ReadonlyMap<string, object> => {
  const type = (kind: string): string => `sentence_transformers.models.${kind}`;
  return new Map<string, object>([
    ['1_Pooling/config.json', { pooling_mode: mode }],
    [
      modulesFile,
      [
        { idx: 0, name: '0', path: '', type: type('Transformer') },
        { idx: 1, name: '1', path: '1_Pooling', type: type('Pooling') },
      ],
    ],
  ]);
};

/** @throws ERR_UNSUPPORTED for another pooling than that of the last token and the mean. */
function poolOf(config: Readonly<Record<string, unknown>>, where: string): Pool {
  const word = config['pooling_mode'];
  const modes =
    word === undefined
      ? Object.keys(config).filter((key) => key.startsWith('pooling_mode_') && config[key] === true)
      : [word].flat().map(String);
  const [mode] = modes;
  const pool = modes.length === 1 ? poolingModes[mode!] : undefined;
  return (
    pool ??
    refuse(
      'ERR_UNSUPPORTED',
      `${where} pools by ${modes.join(' and ') || 'nothing'}; supported are pooling_mode_lasttoken and pooling_mode_mean_tokens, one of them`,
    )
  );
}

async function denseLayer(dir: string, path: string, device: Device, reading: Reading): Promise<DenseLayer> {
  const config = await configOf(dir, path, reading);
  const given = config['activation_function'];
  const named = typeof given === 'string' ? given : 'torch.nn.modules.activation.Tanh';
  const activation = named.slice(named.lastIndexOf('.') + 1);
  const where = join(dir, path);
  if (!Object.hasOwn(activations, activation))
    refuse(
      'ERR_UNSUPPORTED',
      `${where} has the activation_function ${named}; supported are ${Object.keys(activations).join(', ')}`,
    );
  const file = await StoredTensors.open(fileIn(dir, path, weightsFile), reading);
  try {
    const [inside, out] = [config['in_features'], config['out_features']];
    const floats = async (name: string, shape: unknown[]): Promise<Tensor> => {
      const found = file.tensors.get(name);
      if (found === undefined || shapeText(found.shape) !== shapeText(shape as number[]))
        refuse(
          'ERR_FILE',
          `${where}: expected ${name} of shape [${shape.join(', ')}] but ${found ? `received ${shapeText(found.shape)}` : 'found none'}`,
        );
      if (floatOfStored(found.dtype) === undefined)
        refuse('ERR_UNSUPPORTED', `${where}: ${name} is stored as ${found.dtype}`);
      const { dtype, shape: own } = found;
      return tensor(floatsOf({ dtype, bytes: await found.read() }), { shape: own, device });
    };
    const stored = await floats('linear.weight', [out, inside]);
    const weight = stored.transpose();
    stored.dispose();
    const bias = config['bias'] === false ? undefined : await floats('linear.bias', [out]);
    await file.file.checkUnchanged();
    return new DenseLayer(weight, bias, activation as Activation);
  } finally {
    await file.close();
  }
}

/** Reads modules.json, and what it names. */
async function readModules(files: ModelFiles, device: Device): Promise<Modules> {
  const modules: Modules = { includePrompt: true, dense: [] };
  const { dir, reading } = files;
  const list = await files.json(modulesFile);
  if (list === undefined) {
    if (files.pooling !== undefined) modules.pool = poolOf({ pooling_mode: files.pooling }, dir);
    return modules;
  }
  const where = files.where(modulesFile);
  if (!isListOf(list, isRecord))
    refuse('ERR_FILE', `${where}: expected a list of modules but received ${describe(list)}`);
  try {
    for (const { type, path } of list) {
      const kind = typeof type === 'string' ? type.slice(type.lastIndexOf('.') + 1) : undefined;
      // What is normalized is up to embed().
      if (kind === 'Transformer' || kind === 'Normalize') continue;
      if (kind !== 'Pooling' && kind !== 'Dense')
        refuse(
          'ERR_UNSUPPORTED',
          `${where} names a module ${describe(type)}; supported are Transformer, Pooling, Dense and Normalize`,
        );
      if (!isFolderName(path))
        refuse(
          'ERR_FILE',
          `${where}: expected the path of ${kind} to be a folder beside it but received ${describe(path)}`,
        );
      if (kind === 'Dense') modules.dense.push(await denseLayer(dir, path, device, reading));
      else {
        const config = await configOf(dir, path, reading);
        modules.pool = poolOf(config, join(dir, path, 'config.json'));
        modules.includePrompt = config['include_prompt'] !== false;
      }
    }
  } catch (error) {
    for (const layer of modules.dense) layer.dispose();
    throw error;
  }
  return modules;
}

/** The prompts, and the name of the one that texts have by default. */
async function readPrompts(files: ModelFiles): Promise<Pick<SentenceSettings, 'prompts' | 'defaultPrompt'>> {
  const json = (await files.json(promptsFile)) ?? {};
  const { prompts, default_prompt_name: name } = isRecord(json) ? json : {};
  const texts = Object.entries(isRecord(prompts) ? prompts : {}).filter(
    (entry): entry is [string, string] => typeof entry[1] === 'string',
  );
  const known = new Map(texts);
  return { prompts: known, defaultPrompt: typeof name === 'string' && known.has(name) ? name : undefined };
}

/**
 * How a model makes vectors of texts: what its files say, else the last token, or the mean where a token sees those behind it.
 *
 * @throws ERR_FILE for files that are not as expected, ERR_UNSUPPORTED for modules and poolings that are not known.
 */
export async function readSentenceSettings(
  files: ModelFiles,
  config: ModelConfig,
  device: Device,
): Promise<SentenceSettings> {
  const bounds = await files.json(limitsFile);
  const most = isRecord(bounds) ? bounds['max_seq_length'] : undefined;
  const prompts = await readPrompts(files);
  const { pool, ...modules } = await runUntracked(() => readModules(files, device));
  return {
    pool: pool ?? (config.bothDirections ? 'mean' : 'last'),
    ...modules,
    ...prompts,
    maxLength: Number.isSafeInteger(most) && (most as number) > 0 ? (most as number) : undefined,
  };
}
