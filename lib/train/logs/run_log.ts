/** The logs of a run: event files for TensorBoard, and lines of JSON. */
import { open, type FileHandle } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { loraError } from '../../errors';
import { makeDirectory } from '../../formats/atomic';
import { systemReason } from '../../formats/system_reason';
import type { EvalEvent, StepEvent, TrainerEvent } from '../events';
import type { Fact } from '../facts';
import type { LogName } from './names';
import { hparamsEndEvent, hparamsEvent, scalarsEvent, textEvent, versionEvent } from './tensorboard';

/** What is known of a run when it begins. */
export interface LoggedRun {
  readonly settings: Readonly<Record<string, Setting>>;
  /** What is trained, and how, for people. */
  readonly facts: readonly Fact[];
}

type Setting = string | number | boolean;

/** Settings as hyperparameters: those that are a text, a number or a truth. */
export function plainSettings(settings: Readonly<Record<string, unknown>>): Record<string, Setting> {
  const plain = Object.entries(settings).filter(([, value]) =>
    ['string', 'number', 'boolean'].includes(typeof value),
  );
  return Object.fromEntries(plain) as Record<string, Setting>;
}

/** One log. */
interface Log {
  begin(run: LoggedRun, step: number): Promise<void>;
  add(event: TrainerEvent): Promise<void>;
  end(step: number, status: 'success' | 'failure'): Promise<void>;
}

/** A file to which is added; what is added is there when the promise resolves. */
class Appended {
  #handle: FileHandle | undefined;

  constructor(readonly path: string) {}

  async write(bytes: Uint8Array): Promise<void> {
    try {
      this.#handle ??= await open(this.path, 'a');
      await this.#handle.writeFile(bytes);
    } catch (cause) {
      throw loraError('Trainer', 'ERR_FILE', `cannot write ${this.path}: ${systemReason(cause)}`, cause);
    }
  }

  async close(): Promise<void> {
    await this.#handle?.close();
  }
}

const now = (): number => Date.now() / 1000;

/** The numbers of an event, by the tags under which TensorBoard shows them. */
function scalarsOf(event: StepEvent | EvalEvent): Record<string, number> {
  const { metrics = {} } = event;
  const [group, own] =
    event.type === 'step'
      ? ([
          'train',
          {
            loss: event.loss,
            lr: event.lr,
            grad_norm: event.gradNorm,
            tokens_per_second: event.tokensPerSecond,
            epoch: event.epoch,
          },
        ] as const)
      : (['eval', { loss: event.loss, perplexity: event.perplexity, score: event.score }] as const);
  const all = Object.entries({ ...own, ...metrics }).filter(([, value]) => value !== undefined);
  return Object.fromEntries(all.map(([name, value]) => [`${group}/${name}`, value as number]));
}

class TensorBoardLog implements Log {
  readonly #file: Appended;

  constructor(private readonly folder: string) {
    // The names that TensorBoard looks for; a run that is continued has a file of its own.
    const seconds = String(Math.floor(now())).padStart(10, '0');
    this.#file = new Appended(
      join(
        folder,
        `events.out.tfevents.${seconds}.${hostname()}.${process.pid}.${Math.round(performance.now())}`,
      ),
    );
  }

  async begin({ settings, facts }: LoggedRun, step: number): Promise<void> {
    await makeDirectory(this.folder);
    const at = { seconds: now(), step };
    const rows = facts.map(([name, value]) => `| ${name} | ${value.replaceAll('|', '\\|')} |\n`);
    const description = `| | |\n|---|---|\n${rows.join('')}`;
    await this.#file.write(
      Buffer.concat([
        versionEvent(at.seconds),
        hparamsEvent(at, settings),
        textEvent(at, 'run', description),
      ]),
    );
  }

  async add(event: TrainerEvent): Promise<void> {
    if (event.type === 'step' || event.type === 'eval')
      await this.#file.write(scalarsEvent({ seconds: now(), step: event.step }, scalarsOf(event)));
  }

  async end(step: number, status: 'success' | 'failure'): Promise<void> {
    try {
      await this.#file.write(hparamsEndEvent({ seconds: now(), step }, status));
    } finally {
      await this.#file.close();
    }
  }
}

/** A line for each event: { time, type, … }, with the settings in the first one. */
class JsonLog implements Log {
  readonly #file: Appended;

  constructor(folder: string) {
    this.#file = new Appended(join(folder, 'log.jsonl'));
  }

  async begin({ settings }: LoggedRun, step: number): Promise<void> {
    await this.#line({ type: 'settings', step, settings });
  }

  add(event: TrainerEvent): Promise<void> {
    return this.#line(event);
  }

  async end(): Promise<void> {
    await this.#file.close();
  }

  #line(value: object): Promise<void> {
    return this.#file.write(Buffer.from(`${JSON.stringify({ time: new Date().toISOString(), ...value })}\n`));
  }
}

/** Passes the events of a run on, and logs each before. A failing log ends the run, as a failing disk does. */
export async function* logged<R>(
  names: readonly LogName[],
  dir: string,
  begun: () => LoggedRun,
  events: AsyncGenerator<TrainerEvent, R, void>,
): AsyncGenerator<TrainerEvent, R, void> {
  const logs = names.map((name): Log =>
    name === 'jsonl' ? new JsonLog(dir) : new TensorBoardLog(join(dir, 'tensorboard')),
  );
  const begunLogs: Log[] = [];
  let step = 0;
  /** Ends all of them, whatever one meets. */
  const end = async (status: 'success' | 'failure'): Promise<void> => {
    const ends = await Promise.allSettled(begunLogs.splice(0).map((log) => log.end(step, status)));
    const failed = ends.find((one) => one.status === 'rejected');
    if (failed) throw failed.reason;
  };
  try {
    for (;;) {
      const next = await events.next();
      if (next.done) {
        await end('success');
        return next.value;
      }
      const event = next.value;
      ({ step } = event);
      if (event.type === 'start')
        for (const log of logs) {
          begunLogs.push(log);
          await log.begin(begun(), step);
        }
      for (const log of logs) await log.add(event);
      yield event;
    }
  } finally {
    await events.return(undefined as never);
    await end('failure').catch(() => undefined); // what stopped the run is told, not what stops this
  }
}
