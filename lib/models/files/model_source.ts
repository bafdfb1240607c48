/** Where a model is: a Hugging Face directory, a GGUF file, or a folder with one. */
import { existsSync } from 'node:fs';
import { loraError } from '../../errors';
import { ggufAt } from '../../formats/gguf_set';
import type { Reading } from '../../formats/json';
import { configFile } from '../../formats/model_files';
import { ModelFolder, type ModelFiles } from '../../formats/model_folder';
import type { ModelConfig } from '../config/model_config';
import { parseModelConfig } from '../families';
import { GgufModel } from './gguf_model';

const expected = 'expected a Hugging Face model directory or a GGUF file';

/**
 * Opens the files of a model at a path. A folder with safetensors is a Hugging Face directory; one without, and with one GGUF model, is that model.
 * @throws ERR_FILE with what is expected for anything else
 */
export async function openModelFiles(op: string, path: string, reading: Reading = {}): Promise<ModelFiles> {
  reading.signal?.throwIfAborted();
  const fail = (what: string): never => {
    throw loraError(op, 'ERR_FILE', `${path} ${what}`);
  };
  const gguf = await ggufAt(path);
  if (gguf !== undefined) return GgufModel.open(gguf, reading);
  if (!existsSync(path)) return fail(`does not exist: ${expected}`);
  const folder = await ModelFolder.open(path, reading);
  return folder.has(configFile) ? folder : fail(`has no ${configFile}: ${expected}`);
}

/** The configuration of a model. */
export async function modelConfigOf(files: ModelFiles): Promise<ModelConfig> {
  if (files instanceof GgufModel) return files.config();
  return parseModelConfig(await files.json(configFile), files.reading.limits);
}
