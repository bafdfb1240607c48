/** What OpenTelemetry is told of requests: spans and measurements, by the names of its conventions. */
import { AsyncLocalStorage } from 'node:async_hooks';
import { rmSync } from 'node:fs';
import {
  context,
  metrics,
  propagation,
  ROOT_CONTEXT,
  trace,
  SpanKind,
  type Attributes,
  type Context,
  type ContextManager,
  type MeterProvider,
  type Span,
  type SpanOptions,
  type TextMapPropagator,
  type TracerProvider,
} from '@opentelemetry/api';
import {
  CausalLM,
  createOpenAIFetchHandler,
  LoRAError,
  type GeneratedToken,
  type GenerationResult,
} from '../../lib/index';
import { RunHandle } from '../../lib/handle';
import { saying, thinkingTemplate } from '../support/saying';
import { servers, until } from '../support/serving';
import { tinyModel } from '../support/tiny_model';

const serve = servers();
const chat = '/v1/chat/completions';
const hi = { messages: [{ role: 'user', content: 'Hi' }] };

interface Told {
  readonly name: string;
  readonly kind: SpanKind | undefined;
  readonly parent: string | undefined;
  readonly attributes: Attributes;
  status?: { code: number; message?: string | undefined };
  ended: number;
}
interface Measured {
  readonly name: string;
  readonly unit: string | undefined;
  readonly value: number;
  readonly attributes: Attributes | undefined;
}

const spans: Told[] = [];
const measured: Measured[] = [];
const traceParent = Symbol('traceparent');

/** An SDK that keeps all of it. */
const tracers: TracerProvider = {
  getTracer: () => ({
    startSpan(name: string, options: SpanOptions = {}, parent?: Context): Span {
      const attributes = { ...options.attributes };
      const from = parent?.getValue(traceParent) as string | undefined;
      const told: Told = { name, kind: options.kind, parent: from, attributes, ended: 0 };
      spans.push(told);
      const span = {
        setAttributes: (more: Attributes) => (Object.assign(attributes, more), span),
        setStatus: (status: Told['status'] & object) => ((told.status = status), span),
        end: () => void told.ended++,
      };
      return span as unknown as Span;
    },
    startActiveSpan: () => {
      throw new Error('nobody asks for it');
    },
  }),
};
const meters = {
  getMeter: () => ({
    createHistogram: (name: string, { unit }: { unit?: string }) => ({
      record: (value: number, attributes?: Attributes) =>
        void measured.push({ name, unit, value, attributes }),
    }),
  }),
} as unknown as MeterProvider;
const propagator: TextMapPropagator = {
  inject: () => undefined,
  extract: (from, carrier, getter) => from.setValue(traceParent, getter.get(carrier, 'traceparent')),
  fields: () => ['traceparent'],
};

let model: CausalLM;
beforeAll(async () => {
  model = await CausalLM.fromPretrained(await tinyModel({ chatTemplate: thinkingTemplate }));
  trace.setGlobalTracerProvider(tracers);
  metrics.setGlobalMeterProvider(meters);
  propagation.setGlobalPropagator(propagator);
});
afterAll(async () => {
  for (const one of [trace, metrics, propagation, context]) one.disable();
  await model.dispose();
  rmSync(model.directory, { recursive: true });
});
beforeEach(() => {
  spans.length = 0;
  measured.length = 0;
});
afterEach(() => jest.restoreAllMocks());

const told = async (): Promise<Told> => {
  await until(() => spans.length > 0 && spans.every(({ ended }) => ended > 0));
  expect(spans.map(({ ended }) => ended)).toEqual([1]);
  return spans[0]!;
};
const namesOf = (): string[] => measured.map(({ name }) => name);

test('whether it came by TLS, of its own connection: no header of a client says so', async () => {
  const { post, server } = await serve(model);
  const schemes = (): unknown[] => spans.splice(0).map(({ attributes }) => attributes['url.scheme']);
  const ask = (): Promise<unknown> => post(chat, {}, { 'x-forwarded-proto': 'https' });
  await ask();
  await told();
  expect(schemes()).toEqual(['http']);
  server.closeAllConnections();
  server.on('connection', (socket) => Object.assign(socket, { encrypted: true }));
  await ask();
  await told();
  expect(schemes()).toEqual(['https']);
  const whole = measured.filter(({ name }) => name === 'http.server.request.duration');
  expect(whole.map(({ attributes }) => attributes!['url.scheme'])).toEqual(['http', 'https']);
});

test('within the span of an instrumentation: its child, whose request it measures itself', async () => {
  const active = new AsyncLocalStorage<Context>();
  const manager: ContextManager = {
    active: () => active.getStore() ?? ROOT_CONTEXT,
    with: (one, run, self, ...given) => active.run(one, () => run.apply(self, given)),
    bind: (_, target) => target,
    enable: () => manager,
    disable: () => manager,
  };
  context.setGlobalContextManager(manager);
  try {
    saying(model, ['Yes']);
    const outer = trace.wrapSpanContext({ traceId: '1'.repeat(32), spanId: '2'.repeat(16), traceFlags: 1 });
    const around = trace.setSpan(ROOT_CONTEXT, outer).setValue(traceParent, 'outer');
    const init = { method: 'POST', headers: { traceparent: 'asked' }, body: JSON.stringify(hi) };
    const handle = createOpenAIFetchHandler(model);
    const request = new Request(`http://localhost${chat}`, init);
    request.headers.set('content-type', 'application/json');
    const answer = await context.with(around, () => handle(request));
    expect(answer.status).toBe(200);
    await answer.text();
    expect(await told()).toMatchObject({ kind: SpanKind.INTERNAL, parent: 'outer' });
    expect(namesOf()).toContain('gen_ai.server.request.duration');
    expect(namesOf()).not.toContain('http.server.request.duration');
  } finally {
    context.disable();
  }
});

test.each(['http', 'https'])('the scheme of a Request: %s', async (scheme) => {
  const handle = createOpenAIFetchHandler(model);
  await handle(new Request(`${scheme}://localhost/v1/models`));
  expect((await told()).attributes['url.scheme']).toBe(scheme);
});

test.each([false, true])('a chat, streamed: %s', async (streamed) => {
  saying(model, ['Yes', '.']);
  const { post, stream } = await serve(model, { modelName: 'base' });
  const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
  await (streamed ? stream : post)(chat, { ...hi, model: 'base' }, { traceparent });
  const asked = {
    'gen_ai.operation.name': 'chat',
    'gen_ai.provider.name': 'lora-native',
    'gen_ai.request.model': 'base',
  };
  const http = {
    'http.request.method': 'POST',
    'http.route': chat,
    'url.scheme': 'http',
    'http.response.status_code': 200,
  };
  expect(await told()).toMatchObject({
    name: `POST ${chat}`,
    kind: SpanKind.SERVER,
    parent: traceparent,
    attributes: {
      ...http,
      ...asked,
      'url.path': chat,
      'gen_ai.usage.input_tokens': 5,
      'gen_ai.usage.output_tokens': 2,
      'gen_ai.usage.cache_read.input_tokens': 2,
    },
  });
  expect(spans[0]!.status).toBe(undefined);
  expect(measured).toEqual([
    { name: 'http.server.request.duration', unit: 's', value: expect.any(Number), attributes: http },
    { name: 'gen_ai.server.request.duration', unit: 's', value: expect.any(Number), attributes: asked },
    { name: 'gen_ai.server.time_to_first_token', unit: 's', value: expect.any(Number), attributes: asked },
    ...[
      ['input', 5],
      ['output', 2],
    ].map(([type, value]) => ({
      name: 'gen_ai.client.token.usage',
      unit: '{token}',
      value,
      attributes: { ...asked, 'gen_ai.token.type': type },
    })),
  ]);
  const [whole, , first] = measured.map(({ value }) => value);
  expect([whole! < 60, first! <= whole!, first! > 0]).toEqual([true, true, true]); // seconds
});

test.each([
  ['/v1/messages', { ...hi, max_tokens: 9 }, 'chat'],
  ['/v1/responses', { input: 'Hi' }, 'chat'],
  ['/v1/completions', { prompt: 'Hi' }, 'text_completion'],
  ['/v1/embeddings', { input: 'Hi' }, 'embeddings'],
])('%s', async (path, body, operation) => {
  saying(model, ['Yes']);
  const { post } = await serve(model);
  expect((await post(path, body)).status).toBe(200);
  const { attributes } = await told();
  expect(attributes).toMatchObject({ 'http.route': path, 'gen_ai.operation.name': operation });
  expect(attributes['gen_ai.usage.input_tokens']).toBeGreaterThan(0);
});

test('names that clients make up are no series', async () => {
  const { post, url } = await serve(model);
  await post(chat, { ...hi, model: 'made-up' });
  const { attributes, status } = await told();
  expect(attributes).toMatchObject({ 'http.response.status_code': 404, 'error.type': '404' });
  expect(status).toBe(undefined); // the fault is the client's
  expect(JSON.stringify([spans, measured])).not.toContain('made-up');
  spans.length = measured.length = 0;
  await fetch(`${url}/made-up?secret`, { method: 'PROPFIND' });
  expect(await told()).toMatchObject({
    name: 'HTTP',
    attributes: { 'http.request.method': '_OTHER', 'url.path': '/made-up' },
  });
  expect(namesOf()).toEqual(['http.server.request.duration']);
  expect(JSON.stringify(measured)).not.toContain('made-up');
  expect(JSON.stringify(spans)).not.toContain('secret');
});

test('a failure behind the beginning of a stream is one', async () => {
  jest.spyOn(model, 'generate').mockImplementation(
    () =>
      new RunHandle<GeneratedToken, GenerationResult>('generate', async function* () {
        yield { id: 0, text: 'One' };
        throw new LoRAError('ERR_OUT_OF_MEMORY', '[generate] of a secret');
      }),
  );
  const { url } = await serve(model);
  const body = JSON.stringify({ ...hi, stream: true });
  await (
    await fetch(url + chat, { method: 'POST', headers: { 'content-type': 'application/json' }, body })
  ).text();
  const { attributes, status } = await told();
  expect(attributes).toMatchObject({ 'http.response.status_code': 200, 'error.type': '503' });
  expect(status).toEqual({ code: 2, message: 'there is too little memory for this request' });
  expect(measured[1]!.attributes).toMatchObject({ 'error.type': '503' });
});
