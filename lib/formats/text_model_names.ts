/** Names of tensors in files of a model that sees images too, as its text model alone has them. transformers 4 wrote the first form, version 5 writes the last. */
const prefixes: readonly (readonly [from: string, to: string])[] = [
  ['language_model.model.', 'model.'],
  ['language_model.', ''],
  ['model.language_model.', 'model.'],
];

export function nameInTextModel(name: string): string {
  const found = prefixes.find(([from]) => name.startsWith(from));
  return found ? `${found[1]}${name.slice(found[0].length)}` : name;
}
