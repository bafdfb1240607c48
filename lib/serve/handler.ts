/** OpenAI's API over one base and many adapters, as a handler for node:http. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { CausalLM } from '../models/causal_lm';
import { check, describe } from '../validate';
import { loadAdapter, unloadAdapter } from './adapters_endpoints';
import { ApiError, toApiError, unavailable } from './api_error';
import { readFields } from './body';
import { chatCompletions } from './chat_endpoint';
import { classify } from './classify_endpoint';
import { completions } from './completions_endpoint';
import { anthropicDialect, type Dialect } from './dialect';
import { embeddings } from './embeddings_endpoint';
import { Exchange, type Incoming, type Outgoing } from './exchange';
import type { Fields } from './fields';
import { countTokens, messages } from './messages_endpoint';
import { listModels, retrieveModel } from './models_endpoints';
import { handlerSettings, type OpenAIHandlerOptions } from './options';
import { sendPage } from './page/page';
import { rerank } from './rerank_endpoint';
import { responses } from './responses_endpoint';
import { Service, type Call } from './service';
import { checkSite } from './site';
import type { RequestTelemetry } from './telemetry';
import { detokenize, tokenize } from './tokenize_endpoints';

/** A request as node:http gives it (`IncomingMessage`), named by its fields: a program need not have the types of Node. */
export interface HttpRequest {
  /** 'GET', 'POST', … */
  readonly method?: string | undefined;
  /** Path and query. */
  readonly url?: string | undefined;
  /** Values by names in lower case. */
  readonly headers: object;
  /** What a body parser that was before the handler has made of the body, as `express.json()` does. */
  readonly body?: unknown;
}

/** The answer to a request as node:http gives it (`ServerResponse`). */
export interface HttpResponse {
  /** Whether the status can no longer be chosen. */
  readonly headersSent: boolean;
  /** Sets a header that is sent before the body. */
  setHeader(name: string, value: string): unknown;
  /** Ends the answer. */
  end(): unknown;
}

/** What {@link createOpenAIHandler} gives: a listener for the requests of an http server. */
export interface OpenAIHandler {
  (request: HttpRequest, response: HttpResponse): void;
  /**
   * Takes no more requests (503), and waits until those that came before have their answers, waiting ones included. The model and the
   * http server are the program's, which closes them.
   */
  close(): Promise<void>;
}

type Endpoint = (call: Call, fields: Fields) => Promise<void>;

const posts: Readonly<Record<string, Endpoint>> = {
  '/v1/chat/completions': chatCompletions,
  '/v1/completions': completions,
  '/v1/responses': responses,
  '/v1/messages': messages,
  '/v1/messages/count_tokens': countTokens,
  '/v1/embeddings': embeddings,
  '/v1/rerank': rerank,
  '/v2/rerank': rerank,
  '/v1/classify': classify,
  '/v1/load_lora_adapter': loadAdapter,
  '/v1/unload_lora_adapter': unloadAdapter,
  '/tokenize': tokenize,
  '/detokenize': detokenize,
};

/** Of paths where failures are not told as OpenAI's API does. */
const dialects: Readonly<Record<string, Dialect>> = {
  '/v1/messages': anthropicDialect,
  '/v1/messages/count_tokens': anthropicDialect,
};

/** Of Prometheus' text format. */
const metricsType = 'text/plain; version=0.0.4; charset=utf-8';

const gets: Readonly<Record<string, (call: Call) => Promise<void>>> = {
  '/v1/models': listModels,
  '/metrics': async ({ service: { metrics, model, queue, adapters }, exchange }) =>
    exchange.text(metrics.text({ engine: model.engineStats(), queue, adapters }), metricsType),
};

const modelPath = '/v1/models/';

/** Answers requests, whatever brings them. */
export class Handler {
  readonly #service: Service;
  /** Requests that have no answer yet. */
  readonly #open = new Set<Exchange>();
  #closing = false;
  #idle: (() => void)[] = [];

  constructor(service: Service) {
    this.#service = service;
  }

  async answer(request: Incoming, response: Outgoing): Promise<void> {
    const exchange = new Exchange(request, response);
    this.#open.add(exchange);
    const telemetry = this.#service.telemetry.begin(exchange, servedPath(exchange.path));
    let failure: unknown;
    try {
      await this.#route(exchange);
    } catch (error) {
      failure = error;
      if (!exchange.left) exchange.fail(toApiError(error));
    } finally {
      this.#ended(exchange, failure, telemetry);
      this.#open.delete(exchange);
      if (this.#open.size === 0) for (const idle of this.#idle.splice(0)) idle();
    }
  }

  async #route(exchange: Exchange): Promise<void> {
    const { path, request, response } = exchange;
    const { page, apiKeys, cors } = this.#service.settings;
    const method = request.method === 'HEAD' ? 'GET' : request.method;
    if (Object.hasOwn(dialects, path)) exchange.dialect = dialects[path]!;
    if (this.#closing) response.setHeader('connection', 'close');
    cors.open(request, response);
    checkSite(request, this.#service.settings);
    if (path === '/health') return this.#health(exchange);
    if (this.#closing) throw unavailable('the server is closing', 'closing');
    if (method === 'OPTIONS' && servedPath(path)) {
      const methods = `${methodsOf(path)}, OPTIONS`;
      return exchange.empty({ allow: methods, ...cors.preflight(request, methods) });
    }
    if (page && path === '/' && method === 'GET') return sendPage(exchange, apiKeys.length > 0);
    const client = this.#service.clients.of(request);
    exchange.facts.client = client.name;
    const body = this.#service.waitingBytes.hold(client.lane, (reason) => exchange.refuse(reason));
    const call: Call = { service: this.#service, exchange, client, body };
    const post = Object.hasOwn(posts, path) ? posts[path] : undefined;
    const get = Object.hasOwn(gets, path) ? gets[path] : undefined;
    if (post && method === 'POST') {
      const close = client.open();
      try {
        const owner = { held: body, signal: exchange.signal };
        await post(call, await readFields(request, this.#service.settings, owner));
      } finally {
        body.release();
        close();
      }
    } else if (get && method === 'GET') await get(call);
    else if (path.startsWith(modelPath) && method === 'GET')
      await retrieveModel(call, decoded(path.slice(modelPath.length)));
    else if (post || get || path.startsWith(modelPath)) {
      const allow = methodsOf(path);
      throw new ApiError(405, `expected ${allow} ${path} but received ${request.method}`, {
        code: 'method_not_allowed',
        headers: { allow },
      });
    } else throw new ApiError(404, `unknown request URL: ${request.method} ${path}`, { code: 'unknown_url' });
  }

  #health(exchange: Exchange): void {
    const { model, queue } = this.#service;
    const ready = !this.#closing && !model.disposed;
    exchange.json(
      { status: ready ? 'ok' : 'closing', running: queue.running, waiting: queue.waiting },
      ready ? 200 : 503,
    );
  }

  /** Counts a request that has ended, and writes its line. */
  #ended(exchange: Exchange, failure: unknown, telemetry: RequestTelemetry | undefined): void {
    const { settings, metrics, adapters } = this.#service;
    const { id, request, response, path, facts, elapsedMs, left } = exchange;
    // 499 is what nginx writes where the client has left before the answer.
    const status = left ? 499 : response.statusCode;
    metrics.ended(exchange, servedPath(path), status);
    const told = failure === undefined || left ? undefined : toApiError(failure);
    const model = facts.model !== undefined && adapters.has(facts.model) ? facts.model : undefined;
    telemetry?.ended(exchange, { status, told, model });
    const { logger } = settings;
    if (!logger) return;
    const ms = Math.round(elapsedMs);
    const line = { id, method: request.method, path: logged(path), status, ms, ...facts };
    if (line.model !== undefined) line.model = logged(line.model);
    if (told && told.status >= 500 && !(failure instanceof ApiError))
      logger.error({ ...line, err: failure }, 'request failed');
    else logger.info(told ? { ...line, error: logged(told.message) } : line, 'request');
  }

  async close(): Promise<void> {
    this.#closing = true;
    if (this.#open.size > 0) await new Promise<void>((resolve) => this.#idle.push(resolve));
  }
}

/** Most characters of a text that a client has sent, in a line of the log. */
const maxLogged = 1024;

const logged = (text: string): string => (text.length > maxLogged ? `${text.slice(0, maxLogged)}…` : text);

/** The path of an endpoint; undefined for one that there is not. */
function servedPath(path: string): string | undefined {
  if (path.startsWith(modelPath)) return modelPath;
  return path === '/' || path === '/health' || Object.hasOwn(posts, path) || Object.hasOwn(gets, path)
    ? path
    : undefined;
}

/** What may be asked of the path of an endpoint. */
const methodsOf = (path: string): string => (Object.hasOwn(posts, path) ? 'POST' : 'GET, HEAD');

function decoded(name: string): string {
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

const op = 'createOpenAIHandler';

/** @throws ERR_ARGUMENT for what frameworks have in the place of the request and the response of node:http. */
function checkPair(request: unknown, response: unknown): void {
  const has = (value: unknown, method: string): boolean =>
    typeof (value as Record<string, unknown> | null | undefined)?.[method] === 'function';
  check(
    has(request, 'pipe') && has(response, 'writeHead'),
    op,
    `expected the request and the response of node:http but received ${describe(request)} and ${describe(response)}; ` +
      'frameworks that wrap them have both as raw (Fastify), or as req and res (Koa), and createOpenAIFetchHandler() takes a Request',
  );
}

/**
 * Serves a model and its adapters with OpenAI's API: /v1/models, /v1/chat/completions, /v1/responses, /v1/completions, /v1/embeddings; with Anthropic's:
 * /v1/messages; with that of Jina and Cohere: /v1/rerank; with vLLM's: /v1/classify of a model with a head of classes; and beside them /tokenize, /detokenize and /health. The `model` of a request is the name of the base or of an adapter; requests with different adapters are
 * computed together. Fields that are not known are ignored, fields that cannot be honored are refused by name.
 *
 * The handler is a listener for node:http. It reads bodies of bounded size, lets clients take turns, ends a request whose client has
 * left, and waits for slow readers; the time for headers and the number of connections are the server's to bound
 * (`headersTimeout`, `maxConnections`).
 *
 * @throws ERR_ARGUMENT for an unknown option, a wrong value, or a name that is taken.
 * @example
 * import { createServer } from 'node:http';
 * import { CausalLM, createOpenAIHandler } from 'lora-native';
 *
 * const model = await CausalLM.fromPretrained('smollm2-135m');
 * const handler = createOpenAIHandler(model, { adapters: { sql: 'runs/sql' } });
 * const server = createServer(handler).listen(8080, '127.0.0.1');
 * process.once('SIGTERM', async () => {
 *   server.close();
 *   await handler.close();
 *   await model.dispose();
 * });
 */
export function createOpenAIHandler(model: CausalLM, options: OpenAIHandlerOptions = {}): OpenAIHandler {
  const handler = new Handler(new Service(model, handlerSettings(model, options, op)));
  const listener = (request: HttpRequest, response: HttpResponse): void => {
    checkPair(request, response);
    void handler.answer(request as IncomingMessage, response as ServerResponse);
  };
  return Object.assign(listener, { close: () => handler.close() });
}
