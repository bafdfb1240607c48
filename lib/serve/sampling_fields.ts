/** How the texts of a request are drawn: OpenAI's fields, and those that vLLM added to them, as options of generate(). */
import type { SamplingOptions } from '../engine/sampling';
import type { JsonSchema } from '../grammar/json_schema';
import { describe, isListOf } from '../validate';
import { invalid } from './api_error';
import {
  booleanField,
  integerField,
  needed,
  numberField,
  recordField,
  stringField,
  type Fields,
} from './fields';

/** Options of generate() that a request may choose. */
export type RequestedSampling = Omit<SamplingOptions, 'signal' | 'maxNewTokens' | 'logprobs'> & {
  readonly n: number;
};

/** The options of all requests that generate; how many tokens, and log-probabilities, differ by the endpoint. */
export function samplingFields(fields: Fields): RequestedSampling {
  const seed = integerField(fields, 'seed');
  return {
    temperature: numberField(fields, 'temperature', { least: 0, most: 2 }),
    topP: topP(fields),
    topK: topK(fields),
    minP: numberField(fields, 'min_p', { least: 0, most: 1 }),
    repetitionPenalty: numberField(fields, 'repetition_penalty', { least: 0.01, most: 100 }),
    presencePenalty: numberField(fields, 'presence_penalty', { least: -2, most: 2 }),
    frequencyPenalty: numberField(fields, 'frequency_penalty', { least: -2, most: 2 }),
    logitBias: logitBias(fields),
    // Seeds of OpenAI's API may be negative, those of generate() are not.
    seed: seed !== undefined && seed < 0 ? seed + 2 ** 53 : seed,
    n: integerField(fields, 'n', { least: 1, most: 128 }) ?? 1,
    stop: stops(fields),
    ignoreEos: booleanField(fields, 'ignore_eos'),
    jsonSchema: jsonSchema(fields),
  };
}

function topP(fields: Fields): number | undefined {
  const value = numberField(fields, 'top_p', { least: 0, most: 1 });
  // OpenAI's API takes 0, which leaves the likeliest token alone.
  return value === 0 ? 1e-30 : value;
}

/** -1 stands for all tokens in vLLM's API. */
function topK(fields: Fields): number | undefined {
  const value = integerField(fields, 'top_k', { least: -1 });
  return value === -1 ? 0 : value;
}

function logitBias(fields: Fields): ReadonlyMap<number, number> | undefined {
  const given = recordField(fields, 'logit_bias');
  if (given === undefined) return undefined;
  const bias = new Map<number, number>();
  for (const [id, value] of Object.entries(given)) {
    if (!/^\d{1,9}$/.test(id))
      throw invalid(`expected the keys of logit_bias to be ids but received ${describe(id)}`, 'logit_bias');
    if (typeof value !== 'number' || !(Math.abs(value) <= 100))
      throw invalid(
        `expected logit_bias of ${id} to be a number from -100 to 100 but received ${describe(value)}`,
        'logit_bias',
      );
    bias.set(Number(id), value);
  }
  return bias;
}

function stops(fields: Fields): readonly string[] | undefined {
  const given = fields['stop'] ?? undefined;
  if (given === undefined) return undefined;
  const list: unknown = typeof given === 'string' ? [given] : given;
  if (!isListOf(list, (one): one is string => typeof one === 'string'))
    throw invalid(`expected stop to be a text or a list of texts but received ${describe(given)}`, 'stop');
  return list.filter((one) => one !== '');
}

function jsonSchema(fields: Fields): JsonSchema | undefined {
  const param = 'response_format';
  const format = recordField(fields, param);
  if (format === undefined) return undefined;
  const type = needed(stringField(format, 'type'), `${param}.type`);
  switch (type) {
    case 'text':
      return undefined;
    case 'json_object':
      return { type: 'object' };
    case 'json_schema': {
      const described = needed(recordField(format, 'json_schema'), `${param}.json_schema`);
      const schema = described['schema'] ?? true;
      return schema as JsonSchema; // which planGeneration() checks
    }
    default:
      throw invalid(
        `expected ${param}.type to be 'text', 'json_object' or 'json_schema' but received ${describe(type)}`,
        param,
      );
  }
}
