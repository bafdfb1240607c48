/** The families whose mathematics is known, by model_type of config.json. */
import { defaultLimits, type Limits } from '../../formats/limits';
import { isRecord, suggest } from '../../validate';
import { ConfigJson, refuse } from '../config/config_json';
import type { ModelConfig } from '../config/model_config';
import { classifierName, headOf, headOfInput, isClassifier, rawWithHead } from '../config/head';
import type { HeadInput, ModelHead } from '../../peft/head';
import { refuseUnsupported } from '../config/neutral';
import type { Family } from './family';
import { gemma3 } from './gemma3';
import { gemma4 } from './gemma4';
import { granite } from './granite';
import { granitemoehybrid } from './granitemoehybrid';
import { gpt2 } from './gpt2';
import { gptOss } from './gpt_oss';
import { lfm2 } from './lfm2';
import { llama } from './llama';
import { ministral } from './ministral';
import { ministral3 } from './ministral3';
import { mistral } from './mistral';
import { olmo2 } from './olmo2';
import { olmo3 } from './olmo3';
import { phi3 } from './phi3';
import { qwen2 } from './qwen2';
import { qwen3 } from './qwen3';
import { qwen35 } from './qwen3_5';
import { qwen3Moe } from './qwen3_moe';
import { smollm3 } from './smollm3';

const families = {
  gemma3_text: gemma3,
  gemma4_text: gemma4,
  gpt2,
  gpt_oss: gptOss,
  granite,
  granitemoehybrid,
  lfm2,
  llama,
  ministral,
  ministral3,
  mistral,
  olmo2,
  olmo3,
  phi3,
  qwen2,
  qwen3,
  qwen3_5_text: qwen35,
  qwen3_moe: qwen3Moe,
  smollm3,
} as const satisfies Readonly<Record<string, Family>>;

/** The families whose mathematics is known. SmolLM2 is a `llama`. */
export type ModelType = keyof typeof families;

export const modelTypes = Object.keys(families) as ModelType[];

/** The family of a configuration. */
export const familyOf = ({ modelType }: Pick<ModelConfig, 'modelType'>): Family =>
  families[modelType as ModelType];

function modelTypeOf(raw: Readonly<Record<string, unknown>>): ModelType {
  const type = raw['model_type'];
  const known = modelTypes.find((t) => t === type);
  if (known) return known;
  const near = typeof type === 'string' ? suggest(type, modelTypes) : undefined;
  refuse(
    'ERR_UNSUPPORTED',
    `config.json has model_type = ${JSON.stringify(type)}; supported are ${modelTypes.join(', ')}${near ? ` (did you mean ${near}?)` : ''}`,
  );
}

/** Models that see images too, by model_type, with what their text models are where text_config does not say it. */
const textModels: Readonly<Record<string, ModelType>> = {
  gemma3: 'gemma3_text',
  gemma4: 'gemma4_text',
  mistral3: 'mistral',
  qwen3_5: 'qwen3_5_text',
};

/** What stands beside text_config and holds for the text model. */
const shared = [
  ...['tie_word_embeddings', 'torch_dtype', 'dtype', 'quantization_config'],
  ...['bos_token_id', 'eos_token_id', 'pad_token_id'],
  ...['id2label', 'label2id', 'problem_type'],
];

/** config.json of the text model alone; the same where there is no other. */
function textConfig(raw: ConfigJson['raw']): { raw: ConfigJson['raw']; textOf?: string } {
  const textOf = raw['model_type'];
  const text = raw['text_config'];
  if (typeof textOf !== 'string' || !Object.hasOwn(textModels, textOf) || !isRecord(text)) return { raw };
  const modelType = text['model_type'] ?? textModels[textOf];
  const beside = shared
    .filter((key) => raw[key] !== undefined)
    .map((key): [string, unknown] => [key, raw[key]]);
  const own: Record<string, unknown> = { ...text, ...Object.fromEntries(beside), model_type: modelType };
  const family = familyOf({ modelType: modelTypeOf(own) });
  const className = isClassifier(raw) ? classNameOf(family) : family.className;
  return { raw: { ...own, architectures: [className] }, textOf };
}

/** The class of a family with a head of classes. */
const classNameOf = (family: Family): string => family.classifierName ?? classifierName(family.className);

/**
 * Reads a parsed config.json.
 * @throws ERR_UNSUPPORTED when a value changes the mathematics in a way that is not implemented, naming key
 * and value; ERR_FILE when a value is missing, of the wrong kind or beyond a bound.
 */
export function parseModelConfig(json: unknown, limits: Limits = defaultLimits): ModelConfig {
  if (typeof json !== 'object' || json === null || Array.isArray(json))
    refuse(
      'ERR_FILE',
      `expected config.json to hold an object but received ${JSON.stringify(json)?.slice(0, 80)}`,
    );
  const { raw, textOf } = textConfig(json as Readonly<Record<string, unknown>>);
  const family: Family = families[modelTypeOf(raw)];
  const values = { ...family.defaults, ...raw };
  refuseUnsupported(values, family.neutral);
  const source = new ConfigJson(values, limits);
  const config = family.config(source);
  const head = headOf(source);
  return { ...config, raw, ...(textOf !== undefined && { textOf }), ...(head && { head }) };
}

/**
 * The configuration of a model with the head that a program asks for.
 * @throws ERR_ARGUMENT where neither it nor config.json names labels
 */
export function withHead(config: ModelConfig, input: HeadInput, limits: Limits = defaultLimits): ModelConfig {
  const family = familyOf(config);
  const head: ModelHead = headOfInput(input, new ConfigJson(config.raw, limits), config.head);
  return { ...config, head, raw: rawWithHead(config.raw, head, classNameOf(family)) };
}
