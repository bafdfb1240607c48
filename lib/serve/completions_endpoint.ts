/** POST /v1/completions. */
import { describe, isListOf } from '../validate';
import { answerTexts } from './answer_texts';
import { invalid, unsupported } from './api_error';
import { maxTokensField, streamFields } from './chat_endpoint';
import { integerField, needed, refuseFields, stringField, type Fields } from './fields';
import { completionFormat } from './formats';
import { checkCharacters, textIds } from './prompt_ids';
import { samplingFields } from './sampling_fields';
import type { Call } from './service';

/** What OpenAI's API gives where nothing is said. */
const defaultMaxTokens = 16;
/** Most texts of one request. */
const maxTexts = 128;

const refused = {
  suffix: 'the model continues texts, and fills no gaps',
  echo: 'the answer holds what was generated',
};

type Prompts = readonly (string | readonly number[])[];

const isId = (one: unknown): one is number => typeof one === 'number';

/** A text, ids, or a list of either. */
function promptField(fields: Fields): Prompts {
  const given = needed(fields['prompt'] ?? undefined, 'prompt');
  if (typeof given === 'string') return [given];
  if (isListOf(given, isId) && given.length > 0) return [given];
  if (
    isListOf(given, (one): one is string | number[] => typeof one === 'string' || isListOf(one, isId)) &&
    given.length > 0
  )
    return given;
  throw invalid(
    `expected prompt to be a text, a list of ids, or a list of these but received ${describe(given)}`,
    'prompt',
  );
}

export async function completions(call: Call, fields: Fields): Promise<void> {
  const { settings, adapters, tokenTexts } = call.service;
  refuseFields(fields, refused);
  const prompts = promptField(fields);
  const name = stringField(fields, 'model') ?? adapters.base;
  const logprobs = integerField(fields, 'logprobs', { least: 0, most: 20 });
  const { stream, includeUsage } = streamFields(fields);
  const sampling = samplingFields(fields);
  if ((integerField(fields, 'best_of', { least: 1 }) ?? sampling.n) !== sampling.n)
    throw unsupported('best_of', 'all texts are returned: ask for n');
  if (prompts.length * sampling.n > maxTexts)
    throw invalid(
      `expected at most ${maxTexts} texts but received ${prompts.length} prompts with n ${sampling.n}`,
      'prompt',
    );
  if (settings.logPrompts) call.exchange.facts.prompt = prompts;
  await answerTexts(call, {
    model: name,
    promptField: 'prompt',
    promptCount: prompts.length,
    knownTokens: Math.max(...prompts.map((prompt) => (typeof prompt === 'string' ? 0 : prompt.length))),
    async checkLengths() {
      for (const prompt of prompts)
        if (typeof prompt === 'string') checkCharacters(call.service, prompt, 'prompt');
    },
    prompts: async (signal) => {
      const ids: (readonly number[])[] = [];
      for (const prompt of prompts)
        ids.push(
          typeof prompt === 'string' ? await textIds(call, prompt, { field: 'prompt', signal }) : prompt,
        );
      return ids;
    },
    sampling,
    maxTokens: maxTokensField(fields) ?? defaultMaxTokens,
    logprobs,
    stream,
    format: completionFormat(call.exchange.id, { model: name, logprobs, includeUsage, tokenTexts }),
  });
}
