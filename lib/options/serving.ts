/** The numbers of an engine and of a server, with their defaults. A row with `help` is a flag of `lora-native serve` too. */
import type { Options } from './option';

/** What CausalLM.configureEngine takes. */
export const engineOptions = {
  maxBatchSize: { type: 'integer', minimum: 1, default: 16, help: 'texts that are generated at once' },
  maxQueued: { type: 'integer', minimum: 1, default: 256 },
  kvCacheBytes: {
    type: 'integer',
    minimum: 1,
    default: 2 ** 30,
    help: 'for keys, values and states of all texts',
  },
  prefillChunk: { type: 'integer', minimum: 1, default: 256 },
} as const satisfies Options;

/** Those of createOpenAIHandler that are whole numbers. */
export const handlerNumbers = {
  maxAdapters: { type: 'integer', minimum: 1, default: 16, help: 'adapters in memory at once' },
  maxRunning: { type: 'integer', minimum: 1, default: engineOptions.maxBatchSize.default },
  maxQueued: { type: 'integer', minimum: 0, default: 256, help: 'requests that wait; one more is 429' },
  defaultMaxNewTokens: {
    formerly: 'defaultMaxTokens',
    type: 'integer',
    minimum: 1,
    default: 1024,
    help: 'of a chat that asks for no number',
  },
  maxMessages: { type: 'integer', minimum: 1, default: 1024 },
  maxBodyBytes: { type: 'integer', minimum: 1, default: 4 * 2 ** 20 },
  maxWaitingBytes: { type: 'integer', minimum: 1, default: 64 * 2 ** 20 },
  bodyTimeoutMs: { type: 'integer', minimum: 1, default: 30_000 },
  stallTimeoutMs: { type: 'integer', minimum: 1, default: 60_000 },
} as const satisfies Options;

/** The values that hold where a program gives none. */
export const defaultsOf = <const O extends Readonly<Record<string, { default: number }>>>(
  table: O,
): { [Name in keyof O]: number } =>
  Object.fromEntries(Object.entries(table).map(([name, row]) => [name, row.default])) as {
    [Name in keyof O]: number;
  };
