/** The names of the files that are saved. */

export const configFile = 'config.json';
export const weightsFile = 'model.safetensors';
/** Names the shards of weights that are in several files. */
export const indexFile = 'model.safetensors.index.json';

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

/** Names the modules of sentence-transformers that follow a model. */
export const modulesFile = 'modules.json';
/** What lies beside an embedding model, of sentence-transformers. */
export const sentenceFiles = [
  modulesFile,
  'config_sentence_transformers.json',
  'sentence_bert_config.json',
] as const;

const moduleFile = /^\d+_(?:Pooling|Dense|Normalize)[\\/](?:config\.json|model\.safetensors)$/;
/** Those of the files of a folder that are of an embedding model: none where no modules.json names them. */
export const sentenceFilesOf = (all: readonly string[]): string[] =>
  all.includes(modulesFile)
    ? all.filter((name) => (sentenceFiles as readonly string[]).includes(name) || moduleFile.test(name))
    : [];

/** What a saved model consists of. Nothing else in its folder is ever taken away. */
export const modelFiles: readonly string[] = [configFile, weightsFile, ...sideFiles];

export const adapterConfigFile = 'adapter_config.json';
export const adapterWeightsFile = 'adapter_model.safetensors';
/** The weights of mlx_lm's adapters; their configuration has the name of PEFT's. */
export const mlxWeightsFile = 'adapters.safetensors';
export const checkpointFile = 'checkpoint.safetensors';
export const cardFile = 'README.md';

/** Every file that a save of several files writes: nothing else in a folder is ever replaced. */
export const savedFiles: readonly string[] = [
  ...modelFiles,
  adapterConfigFile,
  adapterWeightsFile,
  mlxWeightsFile,
  checkpointFile,
  cardFile,
];
