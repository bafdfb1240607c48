/** What reward functions say of completions. */
import { loraError } from '../../errors';
import { Pace } from '../../tensor/pace';
import { describe } from '../../validate';
import type { Metrics } from '../metrics';
import { deviation, mean, type Reward } from './advantages';
import type { GRPOSettings, Rewarded } from './grpo_settings';

const op = 'Trainer';
/** Node takes no longer one. */
const longestTimer = 2 ** 31 - 1;

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : describe(error));

interface Patience {
  readonly mostMs: number;
  readonly signal: AbortSignal | undefined;
  /** What gave nothing, in error sentences. */
  readonly late: () => string;
}

/** What work of the program gives. @throws ERR_DATA where it takes longer than it may, the reason of the signal. */
export async function inTime<T>(work: Promise<T>, { mostMs, signal, late }: Patience): Promise<T> {
  let [timer, abort]: [NodeJS.Timeout | undefined, () => void] = [undefined, () => {}];
  const ended = new Promise<never>((_, reject) => {
    abort = () => reject(signal!.reason as Error);
    if (signal?.aborted) abort();
    signal?.addEventListener('abort', abort, { once: true });
    const fail = (): void =>
      reject(loraError(op, 'ERR_DATA', `${late()} gave nothing within ${mostMs} ms (rewardTimeout)`));
    timer = setTimeout(fail, Math.min(mostMs, longestTimer));
  });
  try {
    return await Promise.race([work, ended]);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', abort);
  }
}

/** What a function of the program gives; `what`: the function, in error sentences. @throws ERR_DATA where it fails. */
export async function answerOf<T>(what: string, call: () => T | Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (cause) {
    throw loraError(op, 'ERR_DATA', `${what} failed: ${messageOf(cause)}`, cause);
  }
}

/** The rewards of completions, of each a list of one per function. What is asynchronous is under way for all of them together. */
export async function rewardsOf(
  completions: readonly Rewarded[],
  { rewards, names, rewardTimeout }: Pick<GRPOSettings, 'rewards' | 'names' | 'rewardTimeout'>,
  signal: AbortSignal | undefined,
): Promise<Reward[][]> {
  const waiting = new Set<string>();
  const ask = async (f: number, i: number): Promise<Reward> => {
    const what = `the reward ${names[f]} of completion ${i}`;
    waiting.add(what);
    const reward: unknown = await answerOf(what, () => rewards[f]!(completions[i]!));
    waiting.delete(what);
    if (reward === null || Number.isFinite(reward)) return reward as Reward;
    const sentence = `expected ${what} to be a finite number or null but received ${describe(reward)}`;
    throw loraError(op, 'ERR_DATA', sentence);
  };
  const pace = new Pace();
  const asked: Promise<Reward[]>[] = [];
  for (const i of completions.keys()) {
    if (pace.due) await pace.rest(signal);
    const own = Promise.all(rewards.map((_, f) => ask(f, i)));
    own.catch(() => undefined); // it is thrown below, when all have been asked
    asked.push(own);
  }
  const late = (): string => [...waiting][0]!;
  return inTime(Promise.all(asked), { mostMs: rewardTimeout, signal, late });
}

/** What TRL logs of each function. */
export function rewardMetrics(table: readonly (readonly Reward[])[], names: readonly string[]): Metrics {
  const figures = names.flatMap((name, f) => {
    const own = table.map((row) => row[f] ?? NaN);
    return [
      [`rewards/${name}/mean`, mean(own)],
      [`rewards/${name}/std`, deviation(own)],
    ] as const;
  });
  // A function that has nothing to say of a step has no figures in it.
  return Object.fromEntries(figures.filter(([, value]) => !Number.isNaN(value)));
}
