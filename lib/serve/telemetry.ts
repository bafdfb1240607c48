/**
 * Spans and measurements of requests for OpenTelemetry, where a program has @opentelemetry/api: without an SDK behind it, its calls do nothing. Names are
 * those of the semantic conventions for HTTP servers and for generative AI (https://opentelemetry.io/docs/specs/semconv/gen-ai).
 */
import type { Attributes, Context, Histogram, Span, Tracer } from '@opentelemetry/api';
import { version } from '../../package.json';
import type { Exchange } from './exchange';

type Api = typeof import('@opentelemetry/api');

/** The API, or null where it is not installed; undefined while nobody has asked. */
let api: Api | null | undefined;

function installed(): Api | null {
  if (api !== undefined) return api;
  try {
    // An import would ask for it where it is not installed.
    // eslint-disable-next-line @typescript-eslint/no-require-imports
    return (api = require('@opentelemetry/api') as Api);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'MODULE_NOT_FOUND') throw error;
    return (api = null);
  }
}

/** What a path does, as `gen_ai.operation.name` has it. */
const operations: Readonly<Record<string, string>> = {
  '/v1/chat/completions': 'chat',
  '/v1/responses': 'chat',
  '/v1/messages': 'chat',
  '/v1/completions': 'text_completion',
  '/v1/embeddings': 'embeddings',
};

/** Bounds that the conventions advise: of seconds, and of tokens. */
const httpBounds = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10];
const operationBounds = Array.from({ length: 14 }, (_, i) => 0.01 * 2 ** i);
const firstTokenBounds = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10,
];
const tokenBounds = Array.from({ length: 14 }, (_, i) => 4 ** i);

class Instruments {
  readonly tracer: Tracer;
  readonly http: Histogram;
  readonly operation: Histogram;
  readonly firstToken: Histogram;
  readonly tokens: Histogram;

  constructor({ trace, metrics }: Api) {
    this.tracer = trace.getTracer('lora-native', version);
    const meter = metrics.getMeter('lora-native', version);
    const histogram = (name: string, unit: string, description: string, bounds: number[]): Histogram =>
      meter.createHistogram(name, { unit, description, advice: { explicitBucketBoundaries: bounds } });
    this.http = histogram('http.server.request.duration', 's', 'Time of requests.', httpBounds);
    this.operation = histogram(
      'gen_ai.server.request.duration',
      's',
      'Time of requests for texts and vectors.',
      operationBounds,
    );
    this.firstToken = histogram(
      'gen_ai.server.time_to_first_token',
      's',
      'Time to the first token, waiting included.',
      firstTokenBounds,
    );
    this.tokens = histogram('gen_ai.client.token.usage', '{token}', 'Tokens read and made.', tokenBounds);
  }
}

/** Methods that are told by their names: clients may make up others. */
const methods = ['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'CONNECT', 'OPTIONS', 'TRACE', 'PATCH'];

/** How a request has ended. */
export interface Ending {
  readonly status: number;
  /** What a failed one was told, also where its stream had begun with 200. */
  readonly told?: { readonly status: number; readonly message: string } | undefined;
  /** The name of the base or of an adapter that there is; what else clients name would make as many series. */
  readonly model?: string | undefined;
}

/** What is told of one request. */
export class RequestTelemetry {
  readonly #api: Api;
  readonly #instruments: Instruments;
  readonly #span: Span;
  readonly #route: string | undefined;
  /** Whether something around the handler measures the request, too. */
  readonly #within: boolean;
  readonly #asked: Attributes;

  constructor(otel: Api, instruments: Instruments, { request, path }: Exchange, route: string | undefined) {
    this.#api = otel;
    this.#instruments = instruments;
    this.#route = route;
    const { method = 'GET', headers, socket, isHttps = socket?.encrypted === true } = request;
    const active = otel.context.active();
    this.#within = otel.trace.getSpan(active) !== undefined;
    this.#asked = {
      'http.request.method': methods.includes(method) ? method : '_OTHER',
      // Of this connection: what a proxy says of its own is not believed.
      'url.scheme': isHttps ? 'https' : 'http',
      ...(route !== undefined && { 'http.route': route }),
    };
    const name = `${methods.includes(method) ? method : 'HTTP'} ${route ?? ''}`.trimEnd();
    const kind = this.#within ? otel.SpanKind.INTERNAL : otel.SpanKind.SERVER;
    // Of whoever asks, by its `traceparent`, where nothing around the handler has read it.
    const parent = this.#within ? active : otel.propagation.extract(active, headers);
    const attributes = { ...this.#asked, 'url.path': path };
    this.#span = instruments.tracer.startSpan(name, { kind, attributes }, parent);
  }

  ended({ facts, elapsedMs }: Exchange, { status, told, model }: Ending): void {
    const { http } = this.#instruments;
    const span = this.#span;
    const failed = told?.status ?? status;
    const answered: Attributes = {
      'http.response.status_code': status,
      ...(failed >= 400 && { 'error.type': String(failed) }),
    };
    span.setAttributes(answered);
    const context = this.#api.trace.setSpan(this.#api.context.active(), span);
    if (!this.#within) http.record(elapsedMs / 1000, { ...this.#asked, ...answered }, context);
    const operation = operations[this.#route ?? ''];
    if (operation !== undefined) {
      const { promptTokens, completionTokens, cachedTokens } = facts;
      const attributes: Attributes = {
        'gen_ai.operation.name': operation,
        'gen_ai.provider.name': 'lora-native',
        ...(model !== undefined && { 'gen_ai.request.model': model }),
      };
      span.setAttributes({
        ...attributes,
        ...(promptTokens !== undefined && { 'gen_ai.usage.input_tokens': promptTokens }),
        ...(completionTokens !== undefined && { 'gen_ai.usage.output_tokens': completionTokens }),
        ...(cachedTokens !== undefined && { 'gen_ai.usage.cache_read.input_tokens': cachedTokens }),
      });
      this.#measure(facts, elapsedMs, attributes, failed, context);
    }
    if (failed >= 500) span.setStatus({ code: this.#api.SpanStatusCode.ERROR, message: told?.message });
    span.end();
  }

  #measure(
    { promptTokens, completionTokens, firstTokenMs }: Exchange['facts'],
    elapsedMs: number,
    attributes: Attributes,
    failed: number,
    context: Context,
  ): void {
    const { operation, firstToken, tokens } = this.#instruments;
    const error = failed >= 400 ? { 'error.type': String(failed) } : {};
    operation.record(elapsedMs / 1000, { ...attributes, ...error }, context);
    if (firstTokenMs !== undefined) firstToken.record(firstTokenMs / 1000, attributes, context);
    for (const [type, count] of [
      ['input', promptTokens],
      ['output', completionTokens],
    ] as const)
      if (count !== undefined) tokens.record(count, { ...attributes, 'gen_ai.token.type': type }, context);
  }
}

/** Begins what is told of a request; undefined where @opentelemetry/api is not installed. */
export class Telemetry {
  #instruments: Instruments | undefined;

  begin(exchange: Exchange, route: string | undefined): RequestTelemetry | undefined {
    const otel = installed();
    if (!otel) return undefined;
    // Not before the first request: the program may have set its SDK up after the handler.
    this.#instruments ??= new Instruments(otel);
    return new RequestTelemetry(otel, this.#instruments, exchange, route);
  }
}
