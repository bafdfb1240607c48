/** A model that says what a test tells it to, in the place of what it would draw. */
import { RunHandle } from '../../lib/handle';
import type { CausalLM, GeneratedToken, GenerateOptions, GenerationResult } from '../../lib/index';

/** What a model was asked for. */
export interface Asked {
  readonly ids: readonly number[];
  /** Their text. */
  readonly prompt: string;
  readonly options: GenerateOptions;
}

/** Has the model say something until mocks are restored; gives what it was asked for. */
export function saying(
  model: CausalLM,
  pieces: readonly string[],
  result: Partial<GenerationResult> = {},
): Asked[] {
  const asked: Asked[] = [];
  jest.spyOn(model, 'generate').mockImplementation((prompt, options = {}) => {
    const ids = [...(prompt as number[])];
    asked.push({ ids, prompt: model.tokenizer.decode(ids), options });
    return new RunHandle<GeneratedToken, GenerationResult>('generate', async function* () {
      for (const text of pieces) yield { id: 0, text };
      return {
        text: pieces.join(''),
        ids: pieces.map(() => 0),
        finishReason: 'stop',
        usage: { promptTokens: 5, completionTokens: pieces.length, cachedTokens: 2 },
        timings: { queuedMs: 0, firstTokenMs: 0, totalMs: 0 },
        ...result,
      };
    });
  });
  return asked;
}

/** Thoughts, tools and calls as Qwen's templates write them, in the tiny models' roles. */
export const thinkingTemplate =
  "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}{{ '<|' + m.role + '|>' }}" +
  '{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content or "" }}' +
  '{% for one in m.tool_calls or [] %}<tool_call>\n{"name": "{{ one.function.name }}", "arguments": ' +
  '{{ one.function.arguments | tojson }}}\n</tool_call>{% endfor %}{% endfor %}' +
  "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% if enable_thinking is defined and not enable_thinking %}" +
  '<think></think>{% endif %}{% if reasoning_effort is defined %}[{{ reasoning_effort }}]{% endif %}{% endif %}';
