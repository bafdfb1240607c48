/** A revision of a repository in the cache: what the hub says of it, and the files of it that a call needs. */
import { indexFile } from '../formats/model_files';
import { systemReason } from '../formats/system_reason';
import { LoRAError, loraError } from '../errors';
import { downloadBlob, type FileFacts } from './blob';
import { CachedRepository } from './cache';
import { Connection, passing, Passing, Refused, textOf, type Answer } from './connection';
import { hubError, pageOf, refusal, unreachable, type Subject } from './failures';
import { withLock } from './lock';
import { isCommit, kindNames } from './names';
import type { LoadProgress } from './progress';
import { shardsOf, type Wanted, type WantedFiles } from './wanted';
import { isRecord } from '../validate';

/** How many files are downloaded at a time. */
const together = 4;
/** Milliseconds between two events of a download. */
const eventMs = 100;

/** What the hub lists of a repository. */
interface Listing {
  readonly commit: string;
  readonly names: readonly string[];
  readonly license: string | null;
  readonly gated: boolean;
}

/** The license by the model card, or by the tags that the hub makes of it. */
function licenseOf(json: Readonly<Record<string, unknown>>): string | null {
  const { cardData, tags } = json;
  const card: unknown = isRecord(cardData) ? (cardData['license_name'] ?? cardData['license']) : undefined;
  const tag: unknown = Array.isArray(tags)
    ? tags.find((text) => typeof text === 'string' && text.startsWith('license:'))
    : undefined;
  const found = typeof card === 'string' ? card : typeof tag === 'string' ? tag.slice('license:'.length) : '';
  return found === '' ? null : found.slice(0, 100);
}

/** What a call needs of a repository: a folder or a file, and the files that were asked for. */
export interface Found {
  readonly path: string;
  readonly names: readonly string[];
}

/** The states of a download, of one call. */
export class Snapshot {
  readonly #connection: Connection;
  readonly #cached: CachedRepository;
  readonly #stop = new AbortController();
  #loaded = 0;
  #total = 0;
  #lastEvent = 0;

  constructor(
    private readonly subject: Subject,
    /** The files that are needed of those that are there. */
    private readonly wanted: (all: readonly string[]) => Wanted,
    private readonly signal: AbortSignal | undefined,
    private readonly onProgress: (progress: LoadProgress) => void,
  ) {
    const { settings, repository } = subject;
    this.#connection = new Connection(settings, this.#stop.signal, (message) =>
      this.#notice('retry', message),
    );
    this.#cached = new CachedRepository(settings.cache, repository.id, repository.kind);
  }

  /** The folder with the files, which are downloaded where they are missing; or the GGUF file that is opened. */
  async complete(): Promise<Found> {
    const stop = (): void => this.#stop.abort(this.signal?.reason);
    this.signal?.throwIfAborted();
    this.signal?.addEventListener('abort', stop);
    try {
      return await (this.subject.settings.offline ? this.#offline() : this.#online());
    } catch (error) {
      this.signal?.throwIfAborted();
      throw this.#named(error);
    } finally {
      this.signal?.removeEventListener('abort', stop);
    }
  }

  #notice(reason: 'retry' | 'lock' | 'cached', message: string): void {
    this.onProgress({ type: 'notice', reason, message, loaded: this.#loaded, total: this.#total });
  }

  /** Every failure as one of ours. */
  #named(error: unknown): unknown {
    if (error instanceof LoRAError) return error;
    if (error instanceof Passing) return unreachable(this.subject, error);
    if (typeof (error as NodeJS.ErrnoException).syscall === 'string')
      return loraError(
        this.subject.op,
        'ERR_FILE',
        `cannot write to ${this.#cached.folder}: ${systemReason(error)}`,
        error,
      );
    return error instanceof Refused ? hubError(this.subject, error.message) : error;
  }

  // ---- without the hub

  /** The commit that the cache has for the revision, when it has all files of it that the purpose needs. */
  async #fromCache(): Promise<Found | { problem: string }> {
    const { id, revision } = this.subject.repository;
    const commit = await this.#cached.commitOf(revision);
    const none = `the cache has no ${id} at ${revision}`;
    if (commit === undefined) return { problem: none };
    const names = await this.#cached.names(commit);
    if (names === undefined) return { problem: none };
    const wanted = this.wanted(names);
    if ('problem' in wanted)
      return { problem: `what the cache has of ${id} at ${revision} ${wanted.problem}` };
    const missing = await this.#missing(commit, [
      ...wanted.names,
      ...(await this.#shards(commit, wanted.names)),
    ]);
    return missing.length === 0
      ? this.#found(commit, wanted)
      : { problem: `the cache lacks ${missing[0]} of ${id} at ${revision}` };
  }

  async #offline(): Promise<Found> {
    const found = await this.#fromCache();
    if ('path' in found) return found;
    const { cache } = this.subject.settings;
    throw hubError(
      this.subject,
      `${found.problem}, and nothing is asked of the hub since HF_HUB_OFFLINE or { offline } is set: ` +
        `download it where there is a network (${this.#download}), into ${cache}`,
    );
  }

  /** The command that does. */
  get #download(): string {
    const { kind, id, file } = this.subject.repository;
    if (kind === 'dataset') return `the call that reads ${this.subject.repository.source}`;
    return `lora-native download ${file === undefined ? id : `${id}/${file}`}`;
  }

  // ---- with it

  async #online(): Promise<Found> {
    let listing: Listing;
    try {
      listing = await this.#list();
    } catch (error) {
      if (!(error instanceof Passing)) throw error;
      const found = await this.#fromCache();
      if (!('path' in found)) throw error;
      this.#notice('cached', `${error.message}; the cache has the files`);
      return found;
    }
    const { commit, names } = listing;
    const { repository } = this.subject;
    const wanted = this.wanted(names);
    if ('problem' in wanted) throw hubError(this.subject, `${repository.id} ${wanted.problem}`);
    await this.#get(listing, wanted.names);
    const shards = await this.#shards(commit, wanted.names);
    const unknown = shards.find((name) => !names.includes(name));
    if (unknown !== undefined)
      throw hubError(this.subject, `${repository.id} has no ${unknown}, which its ${indexFile} names`);
    await this.#get(listing, shards);
    await this.#cached.remember(repository.revision, commit);
    return this.#found(commit, wanted);
  }

  #found(commit: string, { opened, names }: WantedFiles): Found {
    const path =
      opened === undefined ? this.#cached.snapshot(commit) : this.#cached.file(commit, opened).path;
    return { path, names };
  }

  /** The shards of an index that is in the snapshot; none where the weights are one file. */
  async #shards(commit: string, names: readonly string[]): Promise<string[]> {
    if (!names.includes(indexFile)) return [];
    const shards = await shardsOf(this.#cached.file(commit, indexFile));
    if (shards === undefined)
      throw hubError(this.subject, `${indexFile} of ${this.subject.repository.id} names no list of shards`);
    return shards;
  }

  async #missing(commit: string, names: readonly string[]): Promise<string[]> {
    const there = await Promise.all(names.map((name) => this.#cached.has(commit, name)));
    return names.filter((_, i) => !there[i]);
  }

  /** What `read` makes of an answer that is a success; others are errors. */
  async #ask<T>(
    address: string,
    asked: { method?: 'HEAD'; stays?: boolean },
    read: (answer: Answer) => T | Promise<T>,
    file?: string,
  ): Promise<T> {
    return this.#connection.persist(async () => {
      const answer = await this.#connection.ask(address, asked);
      try {
        const later = passing(answer);
        if (later !== undefined || answer.status >= 400) throw later ?? refusal(this.subject, answer, file);
        return await read(answer);
      } finally {
        answer.close();
      }
    });
  }

  async #list(): Promise<Listing> {
    const { repository, settings } = this.subject;
    const revision = encodeURIComponent(repository.revision);
    const address = `${settings.endpoint}/api/${kindNames[repository.kind].plural}/${repository.id}/revision/${revision}`;
    const text = await this.#ask(address, {}, textOf);
    let json: unknown;
    try {
      json = JSON.parse(text);
    } catch {
      json = undefined;
    }
    const { sha, siblings, gated } = isRecord(json) ? json : {};
    if (typeof sha !== 'string' || !isCommit(sha) || !Array.isArray(siblings))
      throw hubError(
        this.subject,
        `${settings.endpoint} does not answer as a hub: its listing has no commit and no files`,
      );
    const names = siblings.map((entry: unknown) => (isRecord(entry) ? entry['rfilename'] : undefined));
    return {
      commit: sha,
      names: names.filter((name) => typeof name === 'string'),
      license: licenseOf(json as Record<string, unknown>),
      gated: gated !== undefined && gated !== false,
    };
  }

  /** What the hub says of a file, without the file. */
  async #facts(commit: string, name: string): Promise<FileFacts> {
    const { repository, settings } = this.subject;
    const address = `${pageOf(this.subject)}/resolve/${commit}/${name.split('/').map(encodeURIComponent).join('/')}`;
    const answer = await this.#ask(address, { method: 'HEAD', stays: true }, (of) => of, name);
    const said = (header: string): string | null =>
      [...answer.hops, answer.headers].map((headers) => headers.get(header)).find((text) => text !== null) ??
      null;
    const etag = (said('x-linked-etag') ?? answer.headers.get('etag') ?? '').replace(/^W\/|"/g, '');
    const size = Number(said('x-linked-size') ?? answer.headers.get('content-length') ?? NaN);
    // It becomes the name of a file, too.
    if (!/^(?:[0-9a-f]{40}|[0-9a-f]{64})$/.test(etag) || !Number.isSafeInteger(size))
      throw hubError(
        this.subject,
        `${settings.endpoint} gives no hash and size for ${name} of ${repository.id}: it could not be checked`,
      );
    return { name, address, etag, size };
  }

  /** Downloads those of the files that are not in the snapshot. */
  async #get(listing: Listing, names: readonly string[]): Promise<void> {
    const { commit } = listing;
    const missing = await this.#missing(commit, names);
    if (missing.length === 0) return;
    const facts = await this.#each(missing, (name) => this.#facts(commit, name));
    if (this.#total === 0) this.#announce(listing);
    for (const { size } of facts) this.#total += size;
    await this.#cached.makeBlobs();
    await this.#each(facts, (file) => this.#fetch(commit, file));
  }

  #announce({ commit, license, gated }: Listing): void {
    const { repository } = this.subject;
    this.onProgress({
      type: 'repository',
      repository: repository.id,
      source: repository.source,
      revision: repository.revision,
      commit,
      license,
      gated,
      url: pageOf(this.subject),
      folder: this.#cached.folder,
      loaded: this.#loaded,
      total: this.#total,
    });
  }

  async #fetch(commit: string, facts: FileFacts): Promise<void> {
    const { name, etag, size } = facts;
    const cached = this.#cached;
    const onWait = (): void => this.#notice('lock', `${name} is being downloaded already: waiting for it`);
    await withLock(cached.lock(etag), { signal: this.#stop.signal, onWait }, async () => {
      if (await cached.has(commit, name)) {
        this.#bytes(size, name);
        return;
      }
      const isNew = !(await cached.hasBlob(etag, size));
      if (isNew)
        await downloadBlob({
          connection: this.#connection,
          facts,
          blob: cached.blob(etag),
          onBytes: (bytes) => this.#bytes(bytes, name),
          refuse: (answer) => refusal(this.subject, answer, name),
          wrong: (message) =>
            hubError(
              this.subject,
              `${name} of ${this.subject.repository.id} is not what it should be: ${message}`,
            ),
        });
      else this.#bytes(size, name);
      await cached.link(commit, name, etag, isNew);
    });
    this.#event(name);
  }

  #bytes(bytes: number, file: string): void {
    this.#loaded += bytes;
    if (performance.now() - this.#lastEvent >= eventMs) this.#event(file);
  }

  #event(file: string): void {
    this.#lastEvent = performance.now();
    this.onProgress({ type: 'download', file, loaded: this.#loaded, total: this.#total });
  }

  /** Does something for each item, a few at a time; the first failure stops the others, and is told when they have stopped. */
  async #each<T, R>(items: readonly T[], work: (item: T) => Promise<R>): Promise<R[]> {
    const results: R[] = [];
    let next = 0;
    let failure: { error: unknown } | undefined;
    const worker = async (): Promise<void> => {
      while (next < items.length && failure === undefined) {
        const i = next++;
        try {
          results[i] = await work(items[i]!);
        } catch (error) {
          failure ??= { error };
          this.#stop.abort(error);
        }
      }
    };
    await Promise.all(Array.from({ length: Math.min(together, items.length) }, worker));
    if (failure !== undefined) throw failure.error;
    return results;
  }
}
