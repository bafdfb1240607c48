/** A scheduler over real pools, without a model. */
import { SequencePlan } from '../../lib/data/sequence_plan';
import type { EngineLayer } from '../../lib/engine/model';
import { pageBytes, pageLength, PagePool } from '../../lib/engine/pages';
import { boundless, type PoolMemory } from '../../lib/engine/pool';
import { PrefixCache } from '../../lib/engine/prefixes';
import { Request, type RequestPlan } from '../../lib/engine/request';
import { plainDefaults, planGeneration } from '../../lib/engine/sampling';
import { Scheduler, type Plan } from '../../lib/engine/scheduler';
import { SlotPool } from '../../lib/engine/states';

const attention: EngineLayer = { kind: 'attention', kvHeads: 1, headDim: 2 };
const state: EngineLayer = { kind: 'state', states: { past: [3] } };

/** A world of so many pages, and memory for so many, in which token n of a sequence is followed by n + 1. `slots`: a layer keeps states in so many. */
export function world({
  pages = 100,
  memoryFor = 1000,
  maxBatchSize = 4,
  prefillChunk = 100,
  slots = 0,
} = {}) {
  const layers = slots > 0 ? [attention, state] : [attention];
  const shape = { layers, dtype: 'f32', device: 'cpu' } as const;
  const bytes = pageBytes(shape);
  const sizes = { pages: memoryFor };
  const memory: PoolMemory = {
    // A tensor is there twice while it is copied, and a block may be larger than what was asked for.
    spare: () => ((sizes.pages - pool.capacity + 0.5 * sizes.pages) * bytes * 9) / 8,
    denied: () => undefined,
    letGo: () => undefined,
    reclaim: () => false,
  };
  const pool = new PagePool(shape, pages * bytes, memory);
  const kept = { pages: pool, slots: slots > 0 ? new SlotPool(shape, slots, boundless) : undefined };
  const prefixes = new PrefixCache(kept);
  let weights = 'base';
  let now = 0;
  const weightsOf = (): string => weights;
  const limits = { maxBatchSize, prefillChunk };
  const scheduler = new Scheduler(kept, prefixes, limits, weightsOf, () => now);
  let count = 0;
  const submit = (prompt: readonly number[], more: Partial<RequestPlan> = {}): Request => {
    const plan: RequestPlan = {
      prompt,
      adapter: null,
      sequence: new SequencePlan(),
      generation: planGeneration({}, plainDefaults),
      maxNewTokens: 1000,
      ...more,
    };
    const request = new Request(plan, count++, kept, () => undefined);
    scheduler.submit(request);
    return request;
  };
  /** Computes what runs next; every consumer fetches at once. */
  const step = (fetch: (request: Request) => boolean = () => true): Plan => {
    const plan = scheduler.plan();
    const draw = (request: Request): void => {
      if (request.computed === request.ids.length) request.take([{ id: request.ids.length }]);
      request.deliver();
      while (fetch(request) && request.delivery.fetch());
    };
    for (const request of plan.rows) {
      expect(request.pages.length * pageLength).toBeGreaterThan(request.computed);
      scheduler.rowDone(request);
      draw(request);
    }
    if (plan.chunk) {
      scheduler.chunkDone(plan.chunk);
      if (!plan.chunk.request.prefilling) draw(plan.chunk.request);
    }
    return plan;
  };
  const setWeights = (name: string): unknown => (weights = name);
  const wait = (milliseconds: number): unknown => (now += milliseconds);
  return { pool, slots: kept.slots, prefixes, scheduler, submit, step, setWeights, wait, sizes };
}

/** Tokens from `first` on. */
export const text = (length: number, first = 0): number[] => Array.from({ length }, (_, i) => first + i);
