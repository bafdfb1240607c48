/** The files that a saved model consists of. Nothing else in its folder is ever replaced or taken away. */

export const configFile = 'config.json';
export const weightsFile = 'model.safetensors';

/** Beside the configuration and the weights, what a copy of a model needs. */
export const sideFiles = [
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'tokenizer.model',
  'special_tokens_map.json',
  'added_tokens.json',
  'vocab.json',
  'vocab.txt',
  'merges.txt',
  'chat_template.jinja',
  'chat_template.json',
] as const;

export const modelFiles: readonly string[] = [configFile, weightsFile, ...sideFiles];
