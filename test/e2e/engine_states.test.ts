/**
 * An engine for a model whose layers keep states. In random histories every text is that of its request alone, though states are copied from prompts that begin
 * alike, given up for other requests, and computed again where memory ran out.
 */
import fc from 'fast-check';
import { SequencePlan } from '../../lib/data/sequence_plan';
import { defaultLimits, Engine } from '../../lib/engine/engine';
import type { EngineModel } from '../../lib/engine/model';
import { pageBytes } from '../../lib/engine/pages';
import type { Request } from '../../lib/engine/request';
import { plainDefaults, planGeneration } from '../../lib/engine/sampling';
import { slotBytes } from '../../lib/engine/states';
import { estimateMemory, LoRAError, setThreads } from '../../lib/index';
import { createOpenAIHandler } from '../../lib/serve';
import { Metrics } from '../../lib/serve/metrics';
import { binding } from '../../lib/native/calls';
import { loadedModels } from '../support/engine_requests';
import { lfm2Config, tinyConfig } from '../support/tiny_model';
import { stateModel, vocabSize } from '../support/state_model';

const histories = Number(process.env['LORA_HISTORIES'] ?? (process.env['CI'] ? 40 : 15));

beforeAll(() => setThreads(1));
const load = loadedModels();

const text = (length: number, seed: number): number[] =>
  Array.from({ length }, (_, i) => (i * 7 + seed * 5 + ((i * i) % 11)) % vocabSize);

function submit(engine: Engine, prompt: readonly number[], maxNewTokens: number): Request {
  return engine.submit({
    prompt,
    maxNewTokens,
    adapter: null,
    sequence: new SequencePlan(),
    generation: planGeneration({ temperature: 0.9, seed: 3, ignoreEos: true, logprobs: 0 }, plainDefaults),
  });
}

/** The tokens of a request, and how probable each was: another state shows there though it draws the same. */
async function drawsOf(request: Request): Promise<(readonly [id: number, logprob: number])[]> {
  const draws: [number, number][] = [];
  for await (const { id, logprob } of request.delivery) draws.push([id, logprob!]);
  return draws;
}
type Draws = Awaited<ReturnType<typeof drawsOf>>;

/** Prompts that begin alike for more than a page, or for more than two. */
const prompts = [
  text(70, 1),
  [...text(70, 1), ...text(70, 2)],
  [...text(140, 1), 3],
  [...text(140, 1), ...text(60, 4)],
  text(5, 5),
  text(128, 1),
];

const model = stateModel();
const bytes = { page: pageBytes(model), slot: slotBytes(model.layers) };
/** An engine of so many slots and pages. */
const engineOf = (slots: number, pages: number, more = {}): Engine =>
  new Engine(model, {
    ...defaultLimits,
    maxBatchSize: 3,
    prefillChunk: 64,
    kvCacheBytes: Math.max(2 * slots * bytes.slot, slots * bytes.slot + pages * bytes.page),
    ...more,
  });

const known = new Map<string, Promise<Draws>>();
/** The draws of a request in an engine of its own. */
function alone(prompt: number, maxNewTokens: number): Promise<Draws> {
  const key = `${prompt}:${maxNewTokens}`;
  if (!known.has(key)) {
    const engine = engineOf(4, 8, { prefillChunk: 1000 });
    known.set(
      key,
      drawsOf(submit(engine, prompts[prompt]!, maxNewTokens)).finally(() => engine.dispose()),
    );
  }
  return known.get(key)!;
}

test('a text depends on all of its prompt, through its states', async () => {
  const engine = engineOf(4, 8);
  const prompt = prompts[3]!;
  const draws = await drawsOf(submit(engine, prompt, 20));
  expect(draws).toEqual(await alone(3, 20));
  expect(new Set(draws.map(([id]) => id)).size).toBeGreaterThan(5);
  const { stateBytes, kvCacheBytes, speculates } = engine.stats;
  // The snapshot at the last page end, and four pages, one of which is not whole, so it is not kept.
  expect([stateBytes, kvCacheBytes, speculates]).toEqual([bytes.slot, bytes.slot + 3 * bytes.page, false]);
  const gauges = { queue: { running: 0, waiting: 0 }, adapters: { resident: 0, loads: 0 } };
  const counted = new Metrics().text({ ...gauges, engine: engine.stats });
  expect(counted).toContain(`lora_native_state_bytes ${bytes.slot}\n`);
  expect(counted).toContain(`lora_native_kv_cache_bytes ${kvCacheBytes}\n`);
  engine.dispose();
  expect(engine.stats).toMatchObject({ stateBytes: 0, kvCacheBytes: 0, kvCacheCapacity: 0 });
});

test('texts of a model with states are not guessed', async () => {
  const loaded = await load({ config: { ...lfm2Config } });
  const refused = {
    code: 'ERR_UNSUPPORTED',
    message: expect.stringContaining('this one has layers that keep a state') as string,
  };
  await expect(loaded.generate(text(8, 1), { speculate: true })).rejects.toMatchObject(refused);
  expect(() => createOpenAIHandler(loaded, { speculate: true })).toThrow(expect.objectContaining(refused));
  expect(loaded.engineStats().speculates).toBe(false);
  const { ids } = await loaded.generate(text(8, 1), { maxNewTokens: 4, ignoreEos: true });
  expect(ids).toHaveLength(4);
});

test('estimates count the states of texts, and those at the ends of their prompts', () => {
  const config = { ...tinyConfig, ...lfm2Config };
  const cache = (length: number, streams: number): number =>
    estimateMemory(config, { length, streams, dtype: 'f32' }).kvCache;
  const [page, states] = [2 * 64 * 2 * 6 * 4, 2 * (2 * 24) * 4];
  expect(cache(64, 1)).toBe(2 * (page + 2 * states));
  expect(cache(65, 3)).toBe(3 * 2 * (2 * page + 2 * states));
});

test('work that finds too little memory begins again, and ends where there is never enough', async () => {
  let short = 0;
  const scarce: EngineModel = {
    ...model,
    logits(hidden, use) {
      if (short-- > 0) throw new LoRAError('ERR_OUT_OF_MEMORY', 'needs more than there is');
      return model.logits(hidden, use);
    },
  };
  const engine = new Engine(scarce, { ...defaultLimits, prefillChunk: 64 });
  short = 3;
  const request = submit(engine, prompts[3]!, 20);
  expect(await drawsOf(request)).toEqual(await alone(3, 20));
  expect([short < 0, request.shortages, engine.stats.preemptions]).toEqual([true, 0, 0]);
  short = 1000;
  await expect(drawsOf(submit(engine, prompts[0]!, 5))).rejects.toMatchObject({ code: 'ERR_OUT_OF_MEMORY' });
  expect(short).toBeGreaterThan(900);
  engine.dispose();
});

type Deed =
  | { do: 'submit'; prompt: number; tokens: number }
  | { do: 'turns'; count: number }
  | { do: 'abort'; which: number }
  | { do: 'exhaust'; nth: number }
  | { do: 'finish' };
const deed: fc.Arbitrary<Deed> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('submit' as const),
      prompt: fc.nat(prompts.length - 1),
      tokens: fc.constantFrom(1, 3, 20, 60),
    }),
  },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('turns' as const), count: fc.nat(12) }) },
  fc.record({ do: fc.constant('abort' as const), which: fc.nat(5) }),
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('exhaust' as const), nth: fc.integer({ min: 1, max: 200 }) }),
  },
  fc.record({ do: fc.constant('finish' as const) }),
);

test('every text is that of its request alone', async () => {
  const seen = { compared: 0, hits: 0, short: 0 };
  const play = async (deeds: readonly Deed[], slots: number, pages: number): Promise<void> => {
    const engine = engineOf(slots, pages);
    const requests: {
      prompt: number;
      tokens: number;
      draws: Promise<Draws>;
      request: Request;
      over: boolean;
    }[] = [];
    for (const one of deeds)
      switch (one.do) {
        case 'submit': {
          const request = submit(engine, prompts[one.prompt]!, one.tokens);
          const own = { ...one, request, draws: drawsOf(request), over: false };
          void own.draws.catch(() => undefined).then(() => (own.over = true));
          requests.push(own);
          break;
        }
        case 'turns':
          for (let i = 0; i < one.count; i++) await new Promise(setImmediate);
          break;
        case 'abort':
          requests.filter(({ over }) => !over)[one.which]?.request.cancel(new Error('aborted'));
          break;
        case 'exhaust':
          binding().injectOutOfMemory(one.nth);
          break;
        case 'finish':
          await Promise.allSettled(requests.map(({ draws }) => draws));
      }
    const texts = await Promise.allSettled(requests.map(({ draws }) => draws));
    binding().injectOutOfMemory(0);
    for (const [i, { prompt, tokens, request }] of requests.entries()) {
      const result = texts[i]!;
      if (result.status === 'rejected') {
        if ((result.reason as Error).message !== 'aborted') throw result.reason;
        continue;
      }
      expect({ i, draws: result.value }).toEqual({ i, draws: await alone(prompt, tokens) });
      if (request.shortages > 0) seen.short++;
      seen.compared++;
    }
    const { running, waiting, prefixHits } = engine.stats;
    expect({ running, waiting }).toEqual({ running: 0, waiting: 0 });
    seen.hits += prefixHits;
    engine.dispose();
  };
  const size = fc.constantFrom<[number, number]>([1, 5], [2, 8], [3, 12], [6, 24]);
  await fc.assert(
    fc.asyncProperty(fc.array(deed, { minLength: 4, maxLength: 20 }), size, (deeds, [slots, pages]) =>
      play(deeds, slots, pages),
    ),
    { numRuns: histories, seed: 1, endOnFailure: true },
  );
  expect(seen.compared).toBeGreaterThan(histories);
  expect(seen.hits).toBeGreaterThan(histories / 10);
}, 600_000);
