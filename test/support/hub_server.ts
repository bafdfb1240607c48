/** A hub on this machine: two servers, one that knows repositories, and one, of another origin, that has the large files. */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { HubUploads } from './hub_uploads';

export const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
/** What `git hash-object` says. */
export const gitHash = (bytes: Uint8Array): string =>
  createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex');

export interface FakeRepository {
  files: Record<string, Uint8Array | string>;
  /** Names of files in large storage. Default: those that end in .safetensors, .gguf or .parquet. */
  large?: (name: string) => boolean;
  /** Revision → commit. Default: main. */
  refs?: Record<string, string>;
  /** Default: a model. */
  kind?: 'model' | 'dataset';
  gated?: false | 'auto' | 'manual';
  /** Who may read it. Default: all. */
  token?: string;
  private?: boolean;
  license?: string;
  /** What else the model card says. */
  card?: Readonly<Record<string, unknown>>;
  tags?: readonly string[];
}

export interface Seen {
  at: 'hub' | 'store';
  method: string;
  url: string;
  headers: IncomingMessage['headers'];
}

/** Answers in the place of the server; `go` lets it answer. */
export type Fault = (request: IncomingMessage, response: ServerResponse, go: () => void) => void;

const commit = 'c0ffee'.padEnd(40, '0');

/** The files of a folder, as those of a repository. */
export function folderFiles(dir: string): Record<string, Uint8Array> {
  const names = readdirSync(dir, { withFileTypes: true }).filter((entry) => entry.isFile());
  return Object.fromEntries(names.map(({ name }) => [name, readFileSync(join(dir, name))]));
}

export class HubServer {
  readonly repositories = new Map<string, FakeRepository>();
  readonly seen: Seen[] = [];
  /** The first whose pattern fits `at METHOD url` answers, as often as it says. */
  readonly faults: { pattern: RegExp; times: number; fault: Fault }[] = [];
  readonly #servers: Server[] = [];
  readonly #renamed = new Map<string, string>();
  hub = '';
  store = '';
  /** What is sent to it. */
  readonly uploads = new HubUploads(this.repositories, () => this);

  static async start(): Promise<HubServer> {
    const server = new HubServer();
    server.hub = await server.#listen('hub', (request, response) => server.#answerHub(request, response));
    server.store = await server.#listen('store', (request, response) =>
      server.#answerStore(request, response),
    );
    return server;
  }

  async stop(): Promise<void> {
    for (const server of this.#servers) {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
  }

  /** Forgets what was asked and what was to go wrong. */
  reset(): void {
    this.repositories.clear();
    this.#renamed.clear();
    this.seen.length = 0;
    this.faults.length = 0;
    this.uploads.reset();
  }

  fail(pattern: RegExp, fault: Fault, times = 1): void {
    this.faults.push({ pattern, times, fault });
  }

  rename(from: string, to: string): void {
    this.#renamed.set(from, to);
  }

  /** `at METHOD url` of each request. */
  get lines(): string[] {
    return this.seen.map(({ at, method, url }) => `${at} ${method} ${url}`);
  }

  /** The variables by which a program uses this hub and a cache. */
  environment(home: string): Record<string, string> {
    return { HF_ENDPOINT: this.hub, HF_HOME: home };
  }

  async #listen(at: Seen['at'], answerRead: (request: IncomingMessage, response: ServerResponse) => void) {
    const server = createServer((request, response) => {
      const { method = '', url = '', headers } = request;
      this.seen.push({ at, method, url, headers });
      const due = this.faults.find(
        ({ pattern, times }) => times > 0 && pattern.test(`${at} ${method} ${url}`),
      );
      const answer = (): void =>
        method === 'POST' || method === 'PUT'
          ? void this.uploads.answer(at, request, response)
          : answerRead(request, response);
      if (due === undefined) return answer();
      due.times--;
      due.fault(request, response, answer);
    });
    this.#servers.push(server);
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  #answerHub(request: IncomingMessage, response: ServerResponse): void {
    const url = new URL(request.url ?? '', this.hub);
    const parts = url.pathname.split('/').slice(1).map(decodeURIComponent);
    const refuse = (status: number, code: string): void => {
      response.writeHead(status, { 'x-error-code': code, 'x-error-message': `${code} it says` }).end('{}');
    };
    const api = parts[0] === 'api' && (parts[1] === 'models' || parts[1] === 'datasets');
    const cacheOf = parts[0] === 'api' && parts[1] === 'resolve-cache';
    const data = parts[0] === 'datasets';
    const kind = (api ? parts[1] === 'datasets' : cacheOf ? parts[2] === 'datasets' : data)
      ? 'dataset'
      : 'model';
    const [org, name, word, revision, ...rest] = parts.slice(api ? 2 : cacheOf ? 3 : Number(data));
    const id = `${org}/${name}`;
    const moved = this.#renamed.get(id);
    if (moved !== undefined) {
      response.writeHead(307, { location: request.url!.replace(id, moved) }).end();
      return;
    }
    const named = this.repositories.get(id);
    const found = (named?.kind ?? 'model') === kind ? named : undefined;
    const bearer = /^Bearer (.*)$/.exec(request.headers.authorization ?? '')?.[1];
    if (found === undefined) return refuse(bearer === undefined ? 401 : 404, 'RepoNotFound');
    const refs = found.refs ?? { main: commit };
    const at = cacheOf
      ? word!
      : (refs[revision ?? ''] ?? (Object.values(refs).includes(revision!) ? revision! : undefined));
    if (at === undefined) return refuse(404, 'RevisionNotFound');
    if (api) return this.#list(response, id, found, at);
    if (found.token !== undefined && bearer !== found.token)
      return found.gated
        ? refuse(bearer === undefined ? 401 : 403, 'GatedRepo')
        : refuse(401, 'RepoNotFound');
    this.#resolve(request, response, {
      id,
      found,
      commit: at,
      file: (cacheOf ? [revision, ...rest] : rest).join('/'),
      cacheOf,
      refuse,
    });
  }

  #list(
    response: ServerResponse,
    id: string,
    { files, gated = false, license, card, tags, ...more }: FakeRepository,
    sha: string,
  ): void {
    const siblings = Object.keys(files).map((rfilename) => ({ rfilename }));
    const cardData = license === undefined ? undefined : { license, ...card };
    response
      .writeHead(200, { 'content-type': 'application/json' })
      .end(JSON.stringify({ id, sha, siblings, gated, cardData, tags, private: more.private ?? false }));
  }

  #resolve(
    request: IncomingMessage,
    response: ServerResponse,
    asked: {
      id: string;
      found: FakeRepository;
      commit: string;
      file: string;
      cacheOf: boolean;
      refuse: (status: number, code: string) => void;
    },
  ): void {
    const { id, found, commit, file, cacheOf, refuse } = asked;
    const content = found.files[file];
    if (content === undefined) return refuse(404, 'EntryNotFound');
    const bytes = Buffer.from(content as Uint8Array);
    const isLarge = found.large ?? ((name: string) => /\.(?:safetensors|gguf|parquet)$/.test(name));
    if (isLarge(file)) {
      const digest = sha256(bytes);
      response
        .writeHead(302, {
          location: `${this.store}/${digest}?file=${file}`,
          'x-repo-commit': commit,
          'x-linked-etag': `"${digest}"`,
          'x-linked-size': String(bytes.length),
        })
        .end();
      return;
    }
    if (!cacheOf) {
      const location = `/api/resolve-cache/${found.kind ?? 'model'}s/${id}/${commit}/${file.split('/').map(encodeURIComponent).join('/')}`;
      response.writeHead(307, { location, 'x-repo-commit': commit }).end();
      return;
    }
    send(request, response, bytes, `"${gitHash(bytes)}"`, { 'x-repo-commit': commit });
  }

  #answerStore(request: IncomingMessage, response: ServerResponse): void {
    const digest = /^\/([0-9a-f]{64})/.exec(request.url ?? '')?.[1];
    for (const { files } of this.repositories.values())
      for (const content of Object.values(files)) {
        const bytes = Buffer.from(content as Uint8Array);
        if (sha256(bytes) === digest) return send(request, response, bytes, '"of-the-store"');
      }
    response.writeHead(404).end();
  }
}

/** Sends a file, or the part of it that is asked for. */
export function send(
  request: IncomingMessage,
  response: ServerResponse,
  bytes: Buffer,
  etag: string,
  more: Record<string, string> = {},
): void {
  const [, start] = /^bytes=(\d+)-$/.exec(request.headers.range ?? '') ?? [];
  const unchanged = request.headers['if-range'] === undefined || request.headers['if-range'] === etag;
  const from = start === undefined || !unchanged ? 0 : Number(start);
  const headers = { ...more, etag, 'accept-ranges': 'bytes' };
  if (from > 0 && from >= bytes.length) {
    response.writeHead(416, { ...headers, 'content-range': `bytes */${bytes.length}` }).end();
    return;
  }
  const body = bytes.subarray(from);
  const range = { 'content-range': `bytes ${from}-${bytes.length - 1}/${bytes.length}` };
  response.writeHead(from > 0 ? 206 : 200, {
    ...headers,
    'content-length': body.length,
    ...(from > 0 ? range : {}),
  });
  response.end(request.method === 'HEAD' ? undefined : body);
}

/** Sends `bytes` of the body, and cuts the connection `wait` ms later: what a client has not read by then may be lost. */
export const cutAfter =
  (bytes: number, wait = 0): Fault =>
  (request, response, go) => {
    const end = response.end.bind(response);
    response.end = ((body?: Uint8Array) => {
      if (body === undefined) return end();
      response.write(body.subarray(0, bytes), () => {
        if (wait === 0) request.socket.destroy();
        else setTimeout(() => request.socket.destroy(), wait);
      });
      return response;
    }) as ServerResponse['end'];
    go();
  };

/** Answers with a status and headers. */
export const answer =
  (status: number, headers: Record<string, string> = {}, body = ''): Fault =>
  (_request, response) => {
    response.writeHead(status, headers).end(body);
  };
