/** The folder that requests may load adapters from, and nothing else. */
import { realpath, stat } from 'node:fs/promises';
import { resolve, sep } from 'node:path';
import { adapterConfigFile } from '../formats/model_files';
import { ApiError, invalid } from './api_error';

/** Where an adapter lies. */
export interface Place {
  /** Without links. */
  readonly path: string;
  /** Throws where the folder has become another one since it was looked up. */
  checkUnchanged(): Promise<void>;
}

/** Names that are one step into a folder, whichever system reads them. */
const plainName = /^\w[\w.-]{0,127}$/;

const outside = (): ApiError =>
  new ApiError(403, 'expected a path within the folder that adapters may be loaded from', {
    code: 'path_not_allowed',
    param: 'lora_path',
  });

const within = (folder: string, path: string): boolean =>
  path.startsWith(folder.endsWith(sep) ? folder : folder + sep);

export class AdapterFolder {
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = resolve(folder);
  }

  /**
   * The folder of an adapter, from here on. It is looked up without its links, and what they lead to must be within, too; so must all
   * files of it, which readAdapter() checks.
   * @throws 403 for what is outside, 404 for what is not there.
   */
  async locate(path: string): Promise<Place> {
    if (path === '' || path.includes('\0') || path.length > 4096)
      throw invalid('expected lora_path to be a path', 'lora_path');
    const root = await realpath(this.#folder);
    const named = resolve(root, path);
    // Before anything outside is looked at: the answer must not tell what is there.
    if (!within(root, named)) throw outside();
    const real = await realpath(named).catch(() => undefined);
    if (real === undefined)
      throw new ApiError(404, `there is no folder ${path}`, { code: 'not_found', param: 'lora_path' });
    if (!within(root, real)) throw outside();
    const found = await stat(real);
    if (!found.isDirectory()) throw invalid(`expected ${path} to be a folder`, 'lora_path');
    return {
      path: real,
      async checkUnchanged() {
        const [now, stats] = await Promise.all([realpath(named), stat(named)]).catch(() => []);
        if (now !== real || stats?.ino !== found.ino || stats.dev !== found.dev) throw outside();
      },
    };
  }

  /** Whether there is an adapter of this name, one step into the folder. */
  async has(name: string): Promise<boolean> {
    if (!plainName.test(name)) return false;
    const place = await this.locate(name).catch(() => undefined);
    if (!place) return false;
    const config = await stat(resolve(place.path, adapterConfigFile)).catch(() => undefined);
    return config?.isFile() === true;
  }
}
