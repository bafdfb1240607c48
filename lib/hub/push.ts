/** Files into a repository of the hub, as one commit: what the hub has is not sent, and a push that was cut goes on where it is made again. */
import { isOurs } from '../formats/card';
import { cardFile } from '../formats/model_files';
import { LoRAError } from '../errors';
import { isRecord } from '../validate';
import { commitBody, type Change } from './commit_body';
import { Connection, passing, Passing, Refused, textOf, type Answer } from './connection';
import { hubError, pageOf, pushRefusal, refusal, unreachable, type Subject } from './failures';
import { isCommit, type RepositoryName } from './names';
import type { PushProgress } from './progress';
import type { PushOptions, PushResult } from './push_options';
import { PushedFile, type PushFile } from './pushed_file';
import { hubSettings } from './settings';
import { batchFiles, sendJson, uploadLarge } from './upload';

/** Milliseconds between two events. */
const eventMs = 100;
const defaultMessage = 'Upload with lora-native';

/** The branch as the hub has it. */
interface Head {
  readonly commit: string;
  readonly names: readonly string[];
  readonly isPrivate: unknown;
}

/** What the hub says of a file before it is sent. */
interface Mode {
  readonly large: boolean;
  readonly ignored: boolean;
  /** The hash of what is there under that name. */
  readonly there: unknown;
}

/** The states of a push, of one call. */
class Push {
  readonly #connection: Connection;
  #loaded = 0;
  #total = 0;
  #lastEvent = 0;

  constructor(
    private readonly subject: Subject,
    private readonly options: PushOptions,
  ) {
    this.#connection = new Connection(subject.settings, options.signal, (message) =>
      this.#notice('retry', message),
    );
  }

  async complete(files: readonly PushFile[]): Promise<PushResult> {
    const { repository } = this.subject;
    const { head, created } = await this.#target();
    const open: PushedFile[] = [];
    try {
      for (const file of files)
        if (await this.#isWanted(file, head)) open.push(await PushedFile.open(file, this.options.signal));
      this.#total = open.reduce((sum, { size }) => sum + size, 0);
      this.#announce(created);
      const changes = await this.#changes(open);
      const commit = changes.length === 0 ? head.commit : await this.#send(changes, head.commit);
      return {
        repository: repository.id,
        revision: repository.revision,
        url: pageOf(this.subject),
        commit,
        files: changes.map(({ file }) => file.name),
        created,
      };
    } finally {
      for (const file of open) await file.close();
    }
  }

  // ---- the repository

  /** The branch; it and the repository are created where they are missing. */
  async #target(): Promise<{ head: Head; created: boolean }> {
    const { id, revision } = this.subject.repository;
    let created = false;
    for (let tries = 0; ; tries++) {
      const found = await this.#head();
      if (!('missing' in found)) {
        if (this.options.private === true && found.isPrivate !== true)
          throw hubError(
            this.subject,
            `${id} is public, and private was asked for: nothing was sent. Make it private on ${pageOf(this.subject)}/settings, or push to another name`,
          );
        return { head: found, created };
      }
      if (tries === 2) throw found.error;
      if (found.missing === 'repository') created = (await this.#createRepository()) || created;
      else
        await this.#create(
          `/api/models/${id}/branch/${encodeURIComponent(revision)}`,
          {},
          'creates the branch',
        );
    }
  }

  async #head(): Promise<Head | { missing: 'repository' | 'branch'; error: LoRAError }> {
    const { id, revision } = this.subject.repository;
    const found = await this.#connection.persist(async () => {
      const answer = await this.#connection.ask(
        this.#address(`/api/models/${id}/revision/${encodeURIComponent(revision)}`),
      );
      try {
        const later = passing(answer);
        if (later !== undefined) throw later;
        const code = answer.headers.get('x-error-code');
        const error = answer.status >= 400 ? refusal(this.subject, answer) : undefined;
        if (error === undefined) return await textOf(answer);
        if (code === 'RevisionNotFound') return { missing: 'branch', error } as const;
        if (code === 'RepoNotFound' || answer.status === 404)
          return { missing: 'repository', error } as const;
        throw answer.status === 403 || answer.status === 401
          ? await this.#refuse(answer, 'shows the repository')
          : error;
      } finally {
        answer.close();
      }
    });
    if (typeof found !== 'string') return found;
    const json = parsed(found);
    const { sha, siblings, private: isPrivate } = isRecord(json) ? json : {};
    if (typeof sha !== 'string' || !isCommit(sha) || !Array.isArray(siblings))
      throw this.#wrong('its listing has no commit and no files');
    const names = siblings.map((entry: unknown) => (isRecord(entry) ? entry['rfilename'] : undefined));
    return { commit: sha, names: names.filter((name) => typeof name === 'string'), isPrivate };
  }

  /** Whether it was created; false where somebody has just done so. */
  async #createRepository(): Promise<boolean> {
    const [organization, name] = this.subject.repository.id.split('/');
    const { private: asked } = this.options;
    const visibility = asked === undefined ? {} : { visibility: asked ? 'private' : 'public' };
    return this.#create(
      '/api/repos/create',
      { name, ...visibility, organization, type: 'model' },
      'creates the repository',
    );
  }

  /** False for what exists already. */
  async #create(path: string, body: object, doing: string): Promise<boolean> {
    let exists = false;
    await sendJson(
      {
        connection: this.#connection,
        refuse: (answer, what) => this.#refuse(answer, what),
      },
      doing,
      async () => {
        const answer = await this.#post(path, body);
        exists = answer.status === 409;
        if (!exists) return answer;
        answer.close();
        return { ...answer, status: 200, pieces: none() };
      },
    );
    return !exists;
  }

  // ---- what differs

  /** Whether a file goes to the hub: a card that we have written does not replace one that somebody has. */
  async #isWanted({ name, content }: PushFile, { commit, names }: Head): Promise<boolean> {
    if (name !== cardFile || !names.includes(cardFile) || !('text' in content)) return true;
    if (!isOurs(content.text)) return true;
    const address = `${pageOf(this.subject)}/resolve/${commit}/${cardFile}`;
    const there = await this.#connection.persist(async () => {
      const answer = await this.#connection.ask(address);
      try {
        const later = passing(answer);
        if (later !== undefined || answer.status >= 400)
          throw later ?? refusal(this.subject, answer, cardFile);
        return await textOf(answer);
      } finally {
        answer.close();
      }
    });
    if (isOurs(there)) return true;
    this.#notice(
      'card',
      `${cardFile} of ${this.subject.repository.id} was written or changed by somebody: it stays`,
    );
    return false;
  }

  async #modes(files: readonly PushedFile[]): Promise<Map<string, Mode>> {
    const { id, revision } = this.subject.repository;
    const modes = new Map<string, Mode>();
    for (let at = 0; at < files.length; at += batchFiles) {
      const some = files.slice(at, at + batchFiles);
      const asked = await Promise.all(
        some.map(async (file) => ({ path: file.name, size: file.size, sample: await file.sample() })),
      );
      const json = await this.#sendJson(
        `/api/models/${id}/preupload/${encodeURIComponent(revision)}`,
        { files: asked },
        'looks at the files',
      );
      const said: readonly unknown[] = isRecord(json) && Array.isArray(json['files']) ? json['files'] : [];
      for (const { name, size } of some) {
        const found = said.find((one) => isRecord(one) && one['path'] === name);
        const { uploadMode, shouldIgnore, oid } = isRecord(found) ? found : {};
        if (uploadMode !== 'lfs' && uploadMode !== 'regular')
          throw this.#wrong(`it does not say where ${name} goes`);
        // Large storage takes nothing that is empty.
        modes.set(name, {
          large: uploadMode === 'lfs' && size > 0,
          ignored: shouldIgnore === true,
          there: oid,
        });
      }
    }
    return modes;
  }

  /** The files that the hub does not have as they are. */
  async #changes(files: readonly PushedFile[]): Promise<Change[]> {
    const modes = await this.#modes(files);
    const changes: Change[] = [];
    for (const file of files) {
      const { large, ignored, there } = modes.get(file.name)!;
      const onBytes = (bytes: number): void => this.#bytes('hash', bytes, file.name);
      const hash = await file.hash(large ? 'sha256' : 'git', onBytes);
      if (!ignored && hash !== there) changes.push({ file, oid: large ? hash : undefined });
    }
    return changes;
  }

  // ---- the files

  async #send(changes: readonly Change[], parent: string): Promise<string> {
    const { repository, settings } = this.subject;
    const large = changes.flatMap(({ file, oid }) => (oid === undefined ? [] : [{ file, oid }]));
    this.#loaded = 0;
    this.#total = large.reduce((sum, { file }) => sum + file.size, 0);
    for (let at = 0; at < large.length; at += batchFiles)
      await uploadLarge(
        {
          connection: this.#connection,
          batchAddress: `${settings.endpoint}/${repository.id}.git/info/lfs/objects/batch`,
          branch: repository.revision,
          onBytes: (bytes, name) => this.#bytes('upload', bytes, name),
          refuse: (answer, doing) => this.#refuse(answer, doing),
          wrong: (message) => hubError(this.subject, message),
        },
        large.slice(at, at + batchFiles),
      );
    for (const { file } of changes) await file.checkUnchanged();
    return this.#commit(changes, parent);
  }

  /** One commit, which is made once: what comes of a request whose answer is lost is asked for. */
  async #commit(changes: readonly Change[], parent: string): Promise<string> {
    const { id, revision } = this.subject.repository;
    const path = `/api/models/${id}/commit/${encodeURIComponent(revision)}`;
    const headers = { 'content-type': 'application/x-ndjson' };
    const body = commitBody(this.options.message ?? defaultMessage, parent, changes);
    let asked = false;
    const json = await this.#sendJsonOf('makes the commit', async () => {
      const landed = asked ? await this.#landed(changes, parent) : undefined;
      asked = true;
      if (landed !== undefined) return answerOf({ commitOid: landed });
      return this.#connection.ask(this.#address(path), { method: 'POST', headers, body });
    });
    const commit = isRecord(json) ? json['commitOid'] : undefined;
    if (typeof commit !== 'string' || !isCommit(commit))
      throw this.#wrong('it does not say which commit it made');
    return commit;
  }

  /** The commit that has the changes already; undefined where the branch is as it was. */
  async #landed(changes: readonly Change[], parent: string): Promise<string | undefined> {
    const head = await this.#head();
    if ('missing' in head) throw head.error;
    if (head.commit === parent) return undefined;
    const modes = await this.#modes(changes.map(({ file }) => file));
    for (const { file, oid } of changes) {
      const { there } = modes.get(file.name)!;
      if ((oid ?? (await file.hash('git', () => undefined))) !== there)
        throw hubError(
          this.subject,
          `${this.subject.repository.id} has got another commit on ${this.subject.repository.revision} meanwhile: push again`,
        );
    }
    return head.commit;
  }

  // ---- requests

  #address(path: string): string {
    return `${this.subject.settings.endpoint}${path}`;
  }

  async #post(path: string, body: object): Promise<Answer> {
    const headers = { 'content-type': 'application/json' };
    return this.#connection.ask(this.#address(path), { method: 'POST', headers, body: JSON.stringify(body) });
  }

  async #sendJsonOf(doing: string, request: () => Promise<Answer>): Promise<unknown> {
    const refuse = (answer: Answer, what: string): Promise<Error> => this.#refuse(answer, what);
    return sendJson({ connection: this.#connection, refuse }, doing, request);
  }

  async #sendJson(path: string, body: object, doing: string): Promise<unknown> {
    return this.#sendJsonOf(doing, () => this.#post(path, body));
  }

  /** The error for an answer, with what the hub says in it, in which the token is never shown. */
  async #refuse(answer: Answer, doing: string): Promise<Error> {
    const text = await textOf(answer).catch(() => '');
    const json = parsed(text);
    const error = isRecord(json) ? (json['error'] ?? json['message']) : undefined;
    const said = typeof error === 'string' ? error : (answer.headers.get('x-error-message') ?? '');
    const { token } = this.subject.settings;
    const words = token === undefined ? said : said.replaceAll(token, '…');
    return pushRefusal(this.subject, answer, doing, words.slice(0, 300));
  }

  #wrong(why: string): LoRAError {
    return hubError(this.subject, `${this.subject.settings.endpoint} does not answer as a hub: ${why}`);
  }

  // ---- what the caller is told

  #tell(progress: PushProgress): void {
    this.options.onProgress?.(progress);
  }

  #notice(reason: 'retry' | 'card', message: string): void {
    this.#tell({ type: 'notice', reason, message, loaded: this.#loaded, total: this.#total });
  }

  #announce(created: boolean): void {
    const { id, revision } = this.subject.repository;
    const url = pageOf(this.subject);
    const bytes = { loaded: this.#loaded, total: this.#total };
    this.#tell({ type: 'target', repository: id, revision, created, url, ...bytes });
  }

  #bytes(type: 'hash' | 'upload', bytes: number, file: string): void {
    this.#loaded += bytes;
    if (this.#loaded < this.#total && performance.now() - this.#lastEvent < eventMs) return;
    this.#lastEvent = performance.now();
    this.#tell({ type, file, loaded: this.#loaded, total: this.#total });
  }
}

async function* none(): AsyncGenerator<Uint8Array> {
  yield* [];
}

/** An answer that need not be asked for. */
function answerOf(value: object): Answer {
  async function* pieces(): AsyncGenerator<Uint8Array> {
    yield await Promise.resolve(Buffer.from(JSON.stringify(value)));
  }
  return { status: 200, headers: new Headers(), hops: [], pieces: pieces(), close: () => undefined };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

/**
 * Puts files into a repository of the hub with one commit.
 *
 * Errors: ERR_HUB for what the hub does not take, without a token, and without a network; ERR_FILE for a file that cannot be read or changes
 * meanwhile; the reason of the signal.
 */
export async function pushFiles(
  op: string,
  repository: RepositoryName,
  files: readonly PushFile[],
  options: PushOptions,
): Promise<PushResult> {
  const settings = await hubSettings(op, { token: options.token });
  const subject: Subject = { op, repository, settings };
  if (settings.offline) throw hubError(subject, 'nothing is sent to the hub since HF_HUB_OFFLINE is set');
  if (settings.token === undefined)
    throw hubError(subject, 'to push needs a token that may write: `hf auth login`, HF_TOKEN, or { token }');
  try {
    return await new Push(subject, options).complete(files);
  } catch (error) {
    options.signal?.throwIfAborted();
    if (error instanceof Passing) throw unreachable(subject, error);
    throw error instanceof Refused ? hubError(subject, error.message) : error;
  }
}
