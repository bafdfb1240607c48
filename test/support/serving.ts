/** A model behind createOpenAIHandler, on a port of this machine, and requests to it. */
import { once } from 'node:events';
import { createServer, request as httpRequest, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { createOpenAIHandler, type CausalLM } from '../../lib/index';
import type { OpenAIHandler, OpenAIHandlerOptions } from '../../lib/serve';

/** What an answer holds: tests look into it. */
export type Json = ReturnType<typeof JSON.parse>;

export interface Served {
  readonly url: string;
  readonly port: number;
  readonly handler: OpenAIHandler;
  readonly server: Server;
  /** Sends JSON and gives the answer. */
  post: (path: string, body: unknown, headers?: Record<string, string>) => Promise<Answer>;
  /** Sends JSON and gives the events of the answer. */
  stream: (path: string, body: object, headers?: Record<string, string>) => Promise<Json[]>;
}

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Json;
}

export const json = { 'content-type': 'application/json' };

/** A request that outlives a test which has failed is cut: who awaits it hears so, and nobody else. */
function cuttable<T>(answer: Promise<T>): Promise<T> {
  answer.catch(() => undefined);
  return answer;
}

/** What serves models, until each test has ended. */
export function servers(): (model: CausalLM, options?: OpenAIHandlerOptions) => Promise<Served> {
  const open: Server[] = [];
  afterEach(() => {
    for (const server of open.splice(0)) {
      server.close();
      server.closeAllConnections();
    }
  });
  return async (model, options) => {
    const handler = createOpenAIHandler(model, options);
    const server = createServer(handler).listen(0, '127.0.0.1');
    open.push(server);
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const url = `http://127.0.0.1:${port}`;
    const send = (path: string, body: unknown, headers: Record<string, string> = {}): Promise<Response> =>
      fetch(`${url}${path}`, {
        method: 'POST',
        headers: { ...json, ...headers },
        body: typeof body === 'string' ? body : JSON.stringify(body),
      });
    return {
      url,
      port,
      handler,
      server,
      post(path, body, headers) {
        const answer = async (): Promise<Answer> => {
          const response = await send(path, body, headers);
          return {
            status: response.status,
            headers: response.headers,
            body: (await response.json()) as Json,
          };
        };
        return cuttable(answer());
      },
      async stream(path, body, headers) {
        const response = await send(path, { ...body, stream: true }, headers);
        expect(response.headers.get('content-type')).toMatch('text/event-stream');
        return eventsOf(await response.text());
      },
    };
  };
}

/** The events of a stream, which ends with [DONE]. */
export function eventsOf(text: string): Json[] {
  const events = text.split('\n\n').filter((event) => event !== '');
  expect(events.pop()).toBe('data: [DONE]');
  return events.map((event) => {
    expect(event).toMatch(/^data: /);
    return JSON.parse(event.slice('data: '.length));
  });
}

/** Begins a request whose answer is read piece by piece, or left. */
export async function begun(
  { port }: Pick<Served, 'port'>,
  path: string,
  body: object,
  more: object = {},
): Promise<IncomingMessage> {
  const request = httpRequest({ host: '127.0.0.1', port, path, method: 'POST', headers: json, ...more });
  request.on('error', () => undefined);
  request.end(JSON.stringify(body));
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  response.on('error', () => undefined); // where the connection is cut
  return response;
}

/** Waits until something holds; fails before the test does, so that no loop outlives it. */
export async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  const end = performance.now() + 50_000;
  while (!(await holds())) {
    if (performance.now() > end) throw new Error(`still not so: ${holds.toString()}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
