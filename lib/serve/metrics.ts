/** What a server counts, in Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats). */
import type { EngineStats } from '../engine/engine';
import type { Exchange } from './exchange';
import type { FairQueue } from './fair_queue';
import type { ServedAdapters } from './served_adapters';

const prefix = 'lora_native_';

/** Seconds up to which times are counted apart. */
const buckets = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120];

type Labels = Readonly<Record<string, string | number>>;

const escaped = (value: string | number): string =>
  String(value).replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');

function series(name: string, labels: Labels, value: number): string {
  const pairs = Object.entries(labels).map(([key, label]) => `${key}="${escaped(label)}"`);
  return `${prefix}${name}${pairs.length === 0 ? '' : `{${pairs.join(',')}}`} ${value}`;
}

/** Times of one kind, counted by how long they are. */
class Histogram {
  readonly #counts = buckets.map(() => 0);
  #count = 0;
  #sum = 0;

  add(seconds: number): void {
    this.#count++;
    this.#sum += seconds;
    for (const [i, bound] of buckets.entries()) if (seconds <= bound) this.#counts[i]!++;
  }

  lines(name: string): string[] {
    return [
      ...buckets.map((le, i) => series(`${name}_bucket`, { le }, this.#counts[i]!)),
      series(`${name}_bucket`, { le: '+Inf' }, this.#count),
      series(`${name}_sum`, {}, this.#sum),
      series(`${name}_count`, {}, this.#count),
    ];
  }
}

type Kind = 'counter' | 'gauge' | 'histogram';

const family = (name: string, kind: Kind, help: string, lines: readonly string[]): string[] => [
  `# HELP ${prefix}${name} ${help}`,
  `# TYPE ${prefix}${name} ${kind}`,
  ...lines,
];

/** What is read when it is asked for, where the rest is counted. */
interface Gauges {
  readonly engine: EngineStats;
  readonly queue: Pick<FairQueue, 'running' | 'waiting'>;
  readonly adapters: Pick<ServedAdapters, 'resident' | 'loads'>;
}

export class Metrics {
  /** By path and status; paths are those of the server, so that a client cannot make more of them. */
  readonly #requests = new Map<string, { readonly labels: Labels; count: number }>();
  readonly #duration = new Histogram();
  readonly #firstToken = new Histogram();
  #promptTokens = 0;
  #completionTokens = 0;

  /** Counts a request that has ended. `path`: undefined for one that the server does not have. */
  ended({ facts, elapsedMs }: Exchange, path: string | undefined, status: number): void {
    const labels = { path: path ?? 'other', status };
    const key = `${labels.path} ${status}`;
    const counted = this.#requests.get(key) ?? { labels, count: 0 };
    counted.count++;
    this.#requests.set(key, counted);
    this.#duration.add(elapsedMs / 1000);
    if (facts.firstTokenMs !== undefined) this.#firstToken.add(facts.firstTokenMs / 1000);
    this.#promptTokens += facts.promptTokens ?? 0;
    this.#completionTokens += facts.completionTokens ?? 0;
  }

  /** All of it, with what the engine, the queue and the adapters say now. */
  text({ engine, queue, adapters }: Gauges): string {
    const one = (name: string, kind: Kind, help: string, value: number): string[] =>
      family(name, kind, help, [series(name, {}, value)]);
    const requests = [...this.#requests.values()].map(({ labels, count }) =>
      series('requests_total', labels, count),
    );
    const lines = [
      ...family('requests_total', 'counter', 'Requests that have ended.', requests),
      ...family(
        'request_duration_seconds',
        'histogram',
        'Time of requests to the end of their answer.',
        this.#duration.lines('request_duration_seconds'),
      ),
      ...family(
        'time_to_first_token_seconds',
        'histogram',
        'Time to the first token of an answer, waiting included.',
        this.#firstToken.lines('time_to_first_token_seconds'),
      ),
      ...one('queue_running', 'gauge', 'Texts that have a place.', queue.running),
      ...one('queue_waiting', 'gauge', 'Requests that wait for one.', queue.waiting),
      ...one('prompt_tokens_total', 'counter', 'Tokens of prompts that were answered.', this.#promptTokens),
      ...one('completion_tokens_total', 'counter', 'Tokens of answers.', this.#completionTokens),
      ...one('engine_steps_total', 'counter', 'Steps of the engine.', engine.steps),
      ...one('engine_tokens_total', 'counter', 'Tokens that the engine has drawn.', engine.tokens),
      ...one(
        'engine_proposed_tokens_total',
        'counter',
        'Tokens that were guessed, with --speculate.',
        engine.proposedTokens,
      ),
      ...one(
        'engine_accepted_tokens_total',
        'counter',
        'Guessed tokens that were right.',
        engine.acceptedTokens,
      ),
      ...one(
        'engine_preemptions_total',
        'counter',
        'Texts that lost their memory to others.',
        engine.preemptions,
      ),
      ...one(
        'kv_cache_bytes',
        'gauge',
        'Keys, values and states in use, kept ones included.',
        engine.kvCacheBytes,
      ),
      ...one('state_bytes', 'gauge', 'Of those, states of layers that are not attention.', engine.stateBytes),
      ...one('kv_cache_capacity_bytes', 'gauge', 'Memory for them.', engine.kvCacheCapacity),
      ...one(
        'prefix_hits_total',
        'counter',
        'Prompts whose beginning was computed already.',
        engine.prefixHits,
      ),
      ...one('prefix_cached_tokens_total', 'counter', 'Tokens of these beginnings.', engine.cachedTokens),
      ...one('adapters_resident', 'gauge', 'Adapters in memory that requests have named.', adapters.resident),
      ...one('adapter_loads_total', 'counter', 'How often the files of one were read.', adapters.loads),
    ];
    return `${lines.join('\n')}\n`;
  }
}
