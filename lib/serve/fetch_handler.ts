/** OpenAI's API over one base and many adapters, as a function from a Request to its Response. */
import { loraError } from '../errors';
import type { CausalLM } from '../models/causal_lm';
import { describe } from '../validate';
import { Handler } from './handler';
import { handlerSettings, type OpenAIHandlerOptions } from './options';
import { Service } from './service';
import { incomingOf, WebAnswer } from './web';

/** A Request of the web, as the types of the program (those of Node.js, Bun, Deno or the DOM) have it. */
export type FetchRequest = typeof globalThis extends { Request: { prototype: infer Given } } ? Given : object;

/** A Response of the web, as the types of the program have it. */
export type FetchResponse = typeof globalThis extends { Response: { prototype: infer Given } }
  ? Given
  : object;

/** What {@link createOpenAIFetchHandler} gives: a function that answers a Request. */
export interface OpenAIFetchHandler {
  (request: FetchRequest): Promise<FetchResponse>;
  /** Takes no more requests (503), and waits until those that came before have their answers, waiting ones included. */
  close(): Promise<void>;
}

const op = 'createOpenAIFetchHandler';

/** @throws ERR_ARGUMENT for what is no Request. */
function checkRequest(request: unknown): asserts request is Request {
  const { url, headers, signal } = (request ?? {}) as Partial<Request>;
  if (typeof url === 'string' && typeof headers?.get === 'function' && signal) return;
  throw loraError(
    op,
    'ERR_ARGUMENT',
    `expected a Request but received ${describe(request)}; createOpenAIHandler() takes the requests of node:http`,
  );
}

/**
 * {@link createOpenAIHandler} for what has requests as `Request` and answers as `Response`: the App Router of Next.js, Hono, Bun and Deno. It has the
 * same endpoints and options. A text ends when `request.signal` is aborted or the body of its answer is cancelled, and a stream is written no faster
 * than it is read.
 *
 * A `Request` does not say where it comes from. Without API keys, all requests are those of one client, which the queue tells from no other.
 *
 * @throws ERR_ARGUMENT for an unknown option, a wrong value, or a name that is taken.
 * @example
 * import { CausalLM, createOpenAIFetchHandler } from 'lora-native';
 *
 * const model = await CausalLM.fromPretrained('smollm2-135m');
 * const answer = createOpenAIFetchHandler(model, { adapters: { sql: 'runs/sql' } });
 * const response = await answer(new Request('http://localhost/v1/models'));
 * console.log(await response.json());
 */
export function createOpenAIFetchHandler(
  model: CausalLM,
  options: OpenAIHandlerOptions = {},
): OpenAIFetchHandler {
  const handler = new Handler(new Service(model, handlerSettings(model, options, op)));
  const answer = async (request: FetchRequest): Promise<Response> => {
    checkRequest(request);
    const outgoing = new WebAnswer(request);
    void handler.answer(incomingOf(request), outgoing);
    return outgoing.response;
  };
  return Object.assign(answer, { close: () => handler.close() });
}
