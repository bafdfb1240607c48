/** The file that `--config` names: options by their names, as JSON or YAML. */
import { LoRAError } from '../errors';
import { parseJson, readText } from '../formats/json';
import { checkNesting, defaultLimits } from '../formats/limits';

/** The options that a file holds by their names. */
export interface ConfigFile {
  readonly path: string;
  readonly values: Readonly<Record<string, unknown>>;
  /** Where an option stands, for what is wrong with it: the file, and its line where that is known. */
  readonly where: (name: string) => string;
}

/** A file that says nothing. */
export const noConfig: ConfigFile = { path: '', values: {}, where: () => '' };

/** Reads the file; what it holds is not checked. @throws ERR_FILE where it is none of its format. */
export async function readConfig(path: string): Promise<ConfigFile> {
  const text = await readText(path);
  if (/\.ya?ml$/i.test(path)) return readYaml(text, path);
  return { path, values: parseJson(text, path) as ConfigFile['values'], where: () => path };
}

async function readYaml(text: string, path: string): Promise<ConfigFile> {
  const { isMap, isScalar, LineCounter, parseDocument } = await import('yaml');
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const lineOf = (offset: number): string => `${path}:${lines.linePos(offset).line}`;
  // A tag that is not known is a warning, and its value would be taken as it is written.
  const [fault] = [...document.errors, ...document.warnings];
  if (fault)
    throw new LoRAError('ERR_FILE', `${lineOf(fault.pos[0])} is not valid YAML: ${fault.message}`, {
      cause: fault,
    });
  let values: unknown;
  try {
    values = document.toJS();
  } catch (error) {
    // A name that stands for nothing, or names within names that would become millions of values.
    throw new LoRAError('ERR_FILE', `${path} is not valid YAML: ${(error as Error).message}`, {
      cause: error,
    });
  }
  checkNesting(values, defaultLimits, path);
  const places = new Map<unknown, number>();
  if (isMap(document.contents))
    for (const { key } of document.contents.items)
      if (isScalar(key) && key.range) places.set(String(key.value), key.range[0]);
  return {
    path,
    values: values as ConfigFile['values'],
    where(name) {
      const place = places.get(name);
      return place === undefined ? path : lineOf(place);
    },
  };
}
