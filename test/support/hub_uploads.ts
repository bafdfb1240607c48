/** What a hub does with what is sent to it: repositories and branches, the storage of LFS, commits. It takes only what the protocol allows. */
import { createHash } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { FakeRepository } from './hub_server';

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
const gitHash = (bytes: Uint8Array): string =>
  createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex');
const large = (name: string): boolean => /\.(?:safetensors|gguf|parquet)$/.test(name);

/** A request that sends something. */
export interface Sent {
  at: 'hub' | 'store';
  method: string;
  url: string;
  headers: IncomingMessage['headers'];
  body: Buffer;
}

interface Commit {
  branch: string;
  id: string;
  header: Record<string, unknown>;
  names: string[];
}

export class HubUploads {
  readonly sent: Sent[] = [];
  readonly commits: Commit[] = [];
  /** Content in storage, by its hash. */
  readonly objects = new Map<string, Buffer>();
  readonly #parts = new Map<string, Buffer>();
  /** Bytes of a part; a file that is larger goes in parts. */
  partBytes = 100_000;
  /** Whether storage wants to be asked whether a file is right. */
  verifies = false;
  token = 'hf_write';
  /** Whether preupload tells the hash of what is there, as the hub does. */
  tellsHashes = true;

  constructor(
    private readonly repositories: Map<string, FakeRepository>,
    private readonly addresses: () => { hub: string; store: string },
  ) {}

  reset(): void {
    this.sent.length = 0;
    this.commits.length = 0;
    this.objects.clear();
    this.#parts.clear();
    Object.assign(this, { partBytes: 100_000, verifies: false, tellsHashes: true });
  }

  /** Answers a request that sends something; those that were cut are none. */
  async answer(at: 'hub' | 'store', request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    try {
      for await (const chunk of request) chunks.push(chunk as Buffer);
    } catch {
      return;
    }
    const { method = '', url = '', headers } = request;
    const body = Buffer.concat(chunks);
    this.sent.push({ at, method, url, headers, body });
    const reply = (status: number, json: object, more: Record<string, string> = {}): void =>
      void response
        .writeHead(status, { 'content-type': 'application/json', ...more })
        .end(JSON.stringify(json));
    if (at === 'store') return this.#store({ method, url, headers, body }, reply);
    if (url.startsWith('/api/complete_multipart'))
      return this.#putTogether(JSON.parse(body.toString()) as never, reply);
    if (headers.authorization !== `Bearer ${this.token}`)
      return reply(headers.authorization === undefined ? 401 : 403, { error: 'you may not write here' });
    this.#hub(url, body, reply);
  }

  #hub(url: string, body: Buffer, reply: (status: number, json: object) => void): void {
    if (url === '/verify') {
      const { oid, size } = JSON.parse(body.toString()) as { oid: string; size: number };
      return this.objects.get(oid)?.length === size
        ? reply(200, {})
        : reply(404, { error: 'no such object' });
    }
    if (url === '/api/repos/create') {
      const { name, organization, visibility, type } = JSON.parse(body.toString()) as Record<string, string>;
      const id = `${organization}/${name}`;
      if (type !== 'model') return reply(400, { error: 'what kind?' });
      if (this.repositories.has(id)) return reply(409, { error: 'You already created this model repo' });
      this.repositories.set(id, {
        files: { '.gitattributes': '' },
        refs: { main: '1'.repeat(40) },
        private: visibility === 'private',
      });
      return reply(200, { url: `${this.addresses().hub}/${id}`, id });
    }
    const lfs = /^\/([^/]+\/[^/]+)\.git\/info\/lfs\/objects\/batch$/.exec(url);
    if (lfs) return this.#batch(JSON.parse(body.toString()) as never, reply);
    const [, id = '', what, branch = ''] =
      /^\/api\/models\/([^/]+\/[^/]+)\/(branch|preupload|commit)\/([^/?]+)$/.exec(url) ?? [];
    const repository = this.repositories.get(id);
    if (repository === undefined) return reply(404, { error: 'Repository not found' });
    repository.refs ??= { main: 'c0ffee'.padEnd(40, '0') };
    const name = decodeURIComponent(branch);
    if (what === 'branch') {
      if (name in repository.refs) return reply(409, { error: 'Reference already exists' });
      repository.refs[name] = repository.refs['main']!;
      return reply(200, {});
    }
    if (!(name in repository.refs)) return reply(404, { error: 'Invalid rev id' });
    if (what === 'preupload') return this.#preupload(repository, JSON.parse(body.toString()) as never, reply);
    this.#commit(repository, name, body.toString(), reply);
  }

  #preupload(
    { files }: FakeRepository,
    asked: { files: { path: string; size: number; sample: string }[] },
    reply: (status: number, json: object) => void,
  ): void {
    const oidOf = (path: string): object => {
      const there = files[path];
      if (there === undefined || !this.tellsHashes) return {};
      const bytes = Buffer.from(there as Uint8Array);
      return { oid: large(path) ? sha256(bytes) : gitHash(bytes) };
    };
    reply(200, {
      files: asked.files.map(({ path, size }) => {
        if (typeof size !== 'number') throw new Error('no size');
        return { path, uploadMode: large(path) ? 'lfs' : 'regular', shouldIgnore: false, ...oidOf(path) };
      }),
    });
  }

  #batch(
    asked: { operation: string; transfers: string[]; objects: { oid: string; size: number }[] },
    reply: (status: number, json: object, headers?: Record<string, string>) => void,
  ): void {
    const { hub, store } = this.addresses();
    const objects = asked.objects.map(({ oid, size }) => {
      if (this.objects.has(oid)) return { oid, size };
      const verify = this.verifies
        ? { verify: { href: `${hub}/verify`, header: { 'x-of': 'the hub' } } }
        : {};
      if (size <= this.partBytes)
        return {
          oid,
          size,
          actions: { upload: { href: `${store}/put/${oid}?signature=SECRET` }, ...verify },
        };
      const parts = Array.from({ length: Math.ceil(size / this.partBytes) }, (_, i) => [
        String(i + 1).padStart(5, '0'),
        `${store}/part/${oid}/${i + 1}?signature=SECRET`,
      ]);
      const header = { chunk_size: String(this.partBytes), ...(Object.fromEntries(parts) as object) };
      const href = `${hub}/api/complete_multipart?oid=${oid}&signature=SECRET`;
      return { oid, size, actions: { upload: { href, header }, ...verify } };
    });
    const multipart = objects.some((one) => 'actions' in one && 'header' in one.actions!.upload);
    reply(200, { transfer: multipart ? 'multipart' : 'basic', objects });
  }

  #store(
    { method, url, headers, body }: Omit<Sent, 'at'>,
    reply: (status: number, json: object, headers?: Record<string, string>) => void,
  ): void {
    const [, kind, oid = '', part = ''] =
      /^\/(put|part)\/([0-9a-f]{64})(?:\/(\d+))?\?signature=SECRET$/.exec(url) ?? [];
    // As S3: a signed address with another authorization, and a body of unknown length, are errors.
    if (method !== 'PUT' || kind === undefined || headers.authorization !== undefined) return reply(400, {});
    if (headers['content-length'] !== String(body.length)) return reply(411, {});
    if (kind === 'put') {
      if (sha256(body) !== oid) return reply(400, {});
      this.objects.set(oid, body);
      return reply(200, {}, { etag: '"whole"' });
    }
    this.#parts.set(`${oid}/${part}`, body);
    reply(200, {}, { etag: `"${part}-${sha256(body).slice(0, 8)}"` });
  }

  #putTogether(
    { oid, parts }: { oid: string; parts: { partNumber: number; etag: string }[] },
    reply: (status: number, json: object) => void,
  ): void {
    const found = parts.map(({ partNumber, etag }, i) => {
      const bytes = this.#parts.get(`${oid}/${partNumber}`);
      const right = bytes !== undefined && etag === `"${partNumber}-${sha256(bytes).slice(0, 8)}"`;
      return right && partNumber === i + 1 ? bytes : Buffer.from('wrong');
    });
    const whole = Buffer.concat(found);
    if (sha256(whole) !== oid) return reply(400, { error: 'the parts are not the file' });
    this.objects.set(oid, whole);
    reply(200, {});
  }

  #commit(
    repository: FakeRepository,
    branch: string,
    body: string,
    reply: (status: number, json: object) => void,
  ): void {
    const [first, ...lines] = body
      .split('\n')
      .map((line) => JSON.parse(line) as { key: string; value: Record<string, string> });
    const parent = first!.value['parentCommit'];
    if (parent !== undefined && parent !== repository.refs![branch])
      return reply(412, { error: 'A commit has happened since' });
    const files: [string, Uint8Array][] = [];
    for (const { key, value } of lines) {
      const bytes =
        key === 'lfsFile' ? this.objects.get(value['oid']!) : Buffer.from(value['content']!, 'base64');
      if (bytes === undefined) return reply(400, { error: `${value['path']} was not uploaded` });
      files.push([value['path']!, bytes]);
    }
    Object.assign(repository.files, Object.fromEntries(files));
    const id = sha256(Buffer.from(`${this.commits.length} ${body}`)).slice(0, 40);
    repository.refs![branch] = id;
    this.commits.push({ branch, id, header: first!.value, names: files.map(([name]) => name) });
    reply(200, { success: true, commitOid: id, commitUrl: `${this.addresses().hub}/commit/${id}` });
  }
}
