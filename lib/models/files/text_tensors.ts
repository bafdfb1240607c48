/** The tensors of the text model in the files of a model that sees images too. */
import type { ModelTensors } from '../../formats/sharded';
import type { ModelConfig } from '../config/model_config';

/** What stands before the names of a text model's own tensors there, and what takes its place; the first that fits. */
const prefixes: readonly (readonly [from: string, to: string])[] = [
  ['language_model.model.', 'model.'],
  ['language_model.', ''],
  ['model.language_model.', 'model.'],
];
/** What has other uses: encoders of images and sound, and what fits their outputs to the text model. */
const others =
  /^(model\.)?(vision_tower|vision_model|vision_encoder|vision_adapter|visual|audio_tower|embed_vision|embed_audio|multi_modal_projector|patch_merger)\./;

function nameInText(name: string): string {
  const found = prefixes.find(([from]) => name.startsWith(from));
  return found ? `${found[1]}${name.slice(found[0].length)}` : name;
}

/** Those of the text model under the names that it has alone. The others are left out; they may have any name that says what they are. */
export function textTensors(stored: ModelTensors, { textOf }: ModelConfig): ModelTensors {
  if (textOf === undefined) return stored;
  const names = new Map<string, string>();
  for (const name of stored.names) if (!others.test(name)) names.set(nameInText(name), name);
  const inFile = (name: string): string => names.get(name) ?? name;
  return {
    names: [...names.keys()],
    get: (name) => stored.get(inFile(name)),
    nameInFile: (name) => stored.nameInFile(inFile(name)),
    checkUnchanged: () => stored.checkUnchanged(),
    close: () => stored.close(),
  };
}
