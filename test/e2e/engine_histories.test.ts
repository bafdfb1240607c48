/**
 * Random histories of an engine: requests that are submitted, aborted and left while adapters are scaled, trained, merged, removed and
 * replaced, in a pool of keys and values that is too small for them. Every text is that of the request alone, in a new engine on a model
 * in the state in which the request began and without guesses; only those whose adapter changed while they ran have no such text.
 *
 * LORA_HISTORIES sets how many are tried.
 */
import fc from 'fast-check';
import { pageBytes } from '../../lib/engine/pages';
import { mostSlots, slotBytes } from '../../lib/engine/states';
import type { CausalLM, LoRAError } from '../../lib/index';
import { loadedModels, run, text, type Wish } from '../support/engine_requests';
import { fillAdapter } from '../support/fill_adapter';
import { lfm2Config } from '../support/tiny_model';

const load = loadedModels();
const asked = process.env['LORA_HISTORIES'];
const histories = Number(asked ?? (process.env['CI'] ? 200 : 25));

/** What is played with: each family keeps other things of a text. */
interface Played {
  readonly config: Record<string, unknown>;
  /** Modules of attention and of the MLP that adapters change. */
  readonly targets: readonly string[];
  readonly outputs: readonly string[];
  /** Parameters of experts. */
  readonly parameters?: readonly string[];
}
const played: Record<string, Played> = {
  llama: { config: {}, targets: ['q_proj', 'down_proj'], outputs: ['o_proj'] },
  // Layers whose heads differ in width, the last of which share keys, and inputs of layers.
  gemma4: {
    config: {
      ...{ model_type: 'gemma4_text', hidden_act: null, num_hidden_layers: 5, num_kv_shared_layers: 2 },
      ...{ global_head_dim: 12, hidden_size_per_layer_input: 4, vocab_size_per_layer_input: 262 },
      ...{ sliding_window: 40, final_logit_softcapping: 30 },
      layer_types: [...'ssfsf'].map((kind) => (kind === 'f' ? 'full_attention' : 'sliding_attention')),
    },
    targets: ['q_proj', 'per_layer_input_gate', 'down_proj'],
    outputs: ['o_proj'],
  },
  // Delta rules behind convolutions, and attention with a gate.
  qwen3_5: {
    config: {
      ...{
        model_type: 'qwen3_5_text',
        layer_types: ['linear_attention', 'full_attention', 'linear_attention'],
      },
      ...{
        linear_key_head_dim: 4,
        linear_value_head_dim: 6,
        linear_num_key_heads: 2,
        linear_num_value_heads: 4,
      },
      ...{
        linear_conv_kernel_dim: 4,
        rope_parameters: { rope_type: 'default', rope_theta: 10000, partial_rotary_factor: 0.5 },
      },
      head_dim: 8,
    },
    targets: ['q_proj', 'in_proj_qkv', 'down_proj'],
    outputs: ['o_proj', 'out_proj'],
  },
  // Sinks, a window in every other layer, and experts with biases.
  gpt_oss: {
    config: {
      ...{ model_type: 'gpt_oss', num_local_experts: 4, num_experts_per_tok: 2, intermediate_size: 16 },
      ...{ sliding_window: 40, tie_word_embeddings: false },
      rope_parameters: {
        ...{ rope_type: 'yarn', rope_theta: 10000, factor: 8, original_max_position_embeddings: 16 },
        truncate: false,
      },
    },
    targets: ['q_proj', 'v_proj'],
    outputs: ['o_proj'],
  },
  lfm2: {
    config: lfm2Config,
    targets: ['q_proj', 'in_proj', 'w2'],
    outputs: ['out_proj'],
  },
  // Experts in the place of the MLP, but for one layer.
  qwen3_moe: {
    config: {
      ...{ model_type: 'qwen3_moe', mlp_only_layers: [1], norm_topk_prob: true },
      ...{ num_experts: 5, num_experts_per_tok: 2, moe_intermediate_size: 16 },
    },
    targets: ['q_proj', 'gate', 'down_proj'],
    outputs: ['o_proj'],
    parameters: ['mlp.experts.gate_up_proj', 'mlp.experts.down_proj'],
  },
  // And beside it, in layers whose heads differ in width.
  gemma4_experts: {
    config: {
      ...{ model_type: 'gemma4_text', hidden_act: null, hidden_size_per_layer_input: 0, global_head_dim: 12 },
      ...{ enable_moe_block: true, num_experts: 5, top_k_experts: 2, moe_intermediate_size: 16 },
      layer_types: ['sliding_attention', 'full_attention', 'sliding_attention'],
      sliding_window: 40,
    },
    targets: ['q_proj', 'router.proj', 'down_proj'],
    outputs: ['o_proj'],
    parameters: ['experts.gate_up_proj', 'experts.down_proj'],
  },
};

const configs = ({ targets, outputs, parameters }: Played) =>
  ({
    lora: { r: 2, targetModules: 'all-linear', targetParameters: parameters },
    dora: { r: 3, targetModules: targets, useDora: true },
    head: { r: 2, targetModules: outputs, modulesToSave: ['lm_head'] },
  }) as const;
type Name = keyof ReturnType<typeof configs>;
const names = ['lora', 'dora', 'head'] as const;

/** What an adapter holds, and whose weights the base has beside its own. */
interface Weights {
  seed: number;
  scale: number;
}
type State = { [K in Name]: Weights } & { merged: Name | null };

type Deed =
  | { do: 'submit'; wish: number; adapter: Name | null; tokens: number; sampled: boolean; guessed: boolean }
  | { do: 'abort' | 'leave'; which: number }
  | { do: 'scale'; name: Name; value: number }
  | { do: 'flicker'; name: Name; count: number }
  | { do: 'train' | 'replace'; name: Name; seed: number }
  | { do: 'merge'; name: Name }
  | { do: 'unmerge' | 'configure' | 'finish' }
  | { do: 'turns'; count: number };

const name = fc.constantFrom(...names);
const seed = fc.integer({ min: 1, max: 3 });
const which = fc.nat(5);
const deed: fc.Arbitrary<Deed> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('submit' as const),
      wish: fc.nat(3),
      adapter: fc.option(name),
      tokens: fc.constantFrom(1, 3, 20, 70),
      sampled: fc.boolean(),
      guessed: fc.boolean(),
    }),
  },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('turns' as const), count: fc.nat(12) }) },
  fc.record({ do: fc.constantFrom('abort' as const, 'leave' as const), which }),
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('scale' as const), name, value: fc.constantFrom(1, 0.5, -1) }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('flicker' as const), name, count: fc.nat(6) }) },
  fc.record({ do: fc.constantFrom('train' as const, 'replace' as const), name, seed }),
  fc.record({ do: fc.constant('merge' as const), name }),
  fc.record({ do: fc.constantFrom('unmerge' as const, 'configure' as const, 'finish' as const) }),
);

/** Prompts of which some begin with others, some by more than a page of 64. */
const prompts = [text(70, 1), [...text(70, 1), 9, 8], text(5, 2), [...text(66, 1), 200]];
/** While an adapter is merged, requests name none. */
const wishOf = (
  { wish, adapter, tokens, sampled, guessed }: Deed & { do: 'submit' },
  { merged }: State,
  speculates: boolean,
): Wish => {
  const prompt = prompts[wish]!;
  return {
    prompt,
    adapter: merged === null ? adapter : undefined,
    maxNewTokens: Math.min(tokens, 128 - prompt.length),
    temperature: sampled ? 0.8 : 0,
    seed: 7,
    ignoreEos: true,
    speculate: guessed && speculates,
  };
};

const limits = { maxBatchSize: 3, maxQueued: 64, prefillChunk: 16 };
const begun = (): State => ({
  lora: { seed: 1, scale: 1 },
  dora: { seed: 2, scale: 1 },
  head: { seed: 3, scale: 1 },
  merged: null,
});

const turns = async (count: number): Promise<void> => {
  for (let i = 0; i < count; i++) await new Promise(setImmediate);
};

/** Does what is asked, or what it must not do is ERR_BUSY. */
async function unlessBusy(act: () => unknown): Promise<boolean> {
  try {
    await act();
    return true;
  } catch (error) {
    if ((error as LoRAError).code !== 'ERR_BUSY') throw error;
    return false;
  }
}

function addAdapter(model: CausalLM, family: Played, own: Name, weights: Weights): void {
  const adapter = model.addAdapter({ ...configs(family)[own] }, { name: own, seed: 1 });
  fillAdapter(adapter, weights.seed);
  adapter.scale = weights.scale;
}

/** Brings a model from one state to another. */
async function become(model: CausalLM, from: State, to: State): Promise<void> {
  if (from.merged) await model.unmerge();
  for (const own of names) {
    fillAdapter(model.adapters.get(own)!, to[own].seed);
    model.adapters.get(own)!.scale = to[own].scale;
  }
  if (to.merged) await model.merge(to.merged);
}

interface Running {
  readonly wish: Wish;
  /** Of the model when it was submitted. */
  readonly state: State;
  readonly stop: AbortController;
  /** Its ids, or undefined where it was stopped. */
  readonly ids: Promise<number[] | undefined>;
  readonly leave: () => void;
  settled: boolean;
  /** Whether its adapter has changed since. */
  changed: boolean;
}

function submit(model: CausalLM, wish: Wish, state: State): Running {
  const stop = new AbortController();
  const { prompt, ...options } = wish;
  const handle = model.generate(prompt, { ...options, signal: stop.signal });
  let left = false;
  const ids = (async () => {
    const read: number[] = [];
    for await (const { id } of handle) {
      read.push(id);
      if (left) return undefined;
    }
    return read;
  })().catch((error: unknown) => {
    if (stop.signal.aborted) return undefined;
    throw error;
  });
  const running: Running = {
    wish,
    state: structuredClone(state),
    stop,
    ids,
    leave: () => (left = true),
    settled: false,
    changed: false,
  };
  const settle = (): boolean => (running.settled = true);
  ids.then(settle, settle);
  return running;
}

test.each(Object.entries(played))(
  '%s: every text is that of its request alone, whatever else has happened',
  async (_, family) => {
    const model = await load({ config: family.config });
    const alone = await load({ config: family.config });
    const { speculates } = model.engineStats();
    let state = begun();
    let oracle = begun();
    for (const one of [model, alone]) {
      for (const own of names) addAdapter(one, family, own, state[own]);
      one.setAdapter(null);
    }
    const known = new Map<string, number[]>();
    /** The ids of the request in a new engine. */
    const expected = async ({ wish: asked, state: then }: Running): Promise<number[]> => {
      const wish = { ...asked, speculate: false };
      const key = JSON.stringify([
        wish,
        wish.adapter && then[wish.adapter as Name],
        then.merged && [then.merged, then[then.merged]],
      ]);
      if (!known.has(key)) {
        await become(alone, oracle, then);
        oracle = then;
        alone.configureEngine();
        known.set(key, (await run(alone, wish)).ids);
      }
      return known.get(key)!;
    };
    const { layers } = model.config;
    const bytesOf = (pages: number): number =>
      pages * pageBytes({ layers, dtype: 'f32' }) + mostSlots(limits.maxBatchSize) * slotBytes(layers);

    const seen = { compared: 0, hits: 0, guesses: 0 };
    const play = async (deeds: readonly Deed[]): Promise<void> => {
      const requests: Running[] = [];
      const alive = (): Running[] => requests.filter(({ settled }) => !settled);
      const changes = (own: Name): void => {
        for (const request of alive()) if (request.wish.adapter === own) request.changed = true;
      };
      model.configureEngine({ ...limits, kvCacheBytes: bytesOf(4) });
      for (const one of deeds) {
        switch (one.do) {
          case 'submit':
            await unlessBusy(() => requests.push(submit(model, wishOf(one, state, speculates), state)));
            break;
          case 'turns':
            await turns(one.count);
            break;
          case 'flicker': {
            // Another scale for a while: what is computed meanwhile must not be taken for what the first scale gives.
            const adapter = model.adapters.get(one.name)!;
            const { scale } = adapter;
            if (state.merged === one.name || !(await unlessBusy(() => (adapter.scale = -2)))) break;
            changes(one.name);
            await turns(one.count);
            adapter.scale = scale;
            changes(one.name);
            break;
          }
          case 'abort':
            alive()[one.which]?.stop.abort();
            break;
          case 'leave':
            alive()[one.which]?.leave();
            break;
          case 'scale':
            if (state.merged === one.name) break; // what is merged keeps what it was merged with
            if (await unlessBusy(() => (model.adapters.get(one.name)!.scale = one.value))) {
              if (state[one.name].scale !== one.value) changes(one.name);
              state[one.name].scale = one.value;
            }
            break;
          case 'train':
            if (state.merged === one.name) break;
            fillAdapter(model.adapters.get(one.name)!, one.seed);
            state[one.name].seed = one.seed;
            changes(one.name);
            break;
          case 'replace': {
            const weights = { seed: one.seed, scale: 1 };
            if (!(await unlessBusy(() => model.removeAdapter(one.name)))) break;
            addAdapter(model, family, one.name, weights);
            state[one.name] = weights;
            break;
          }
          case 'merge':
            if (!state.merged && (await unlessBusy(() => model.merge(one.name)))) state.merged = one.name;
            break;
          case 'unmerge':
            if (state.merged && (await unlessBusy(() => model.unmerge()))) state.merged = null;
            break;
          case 'configure':
            await unlessBusy(() => model.configureEngine({ ...limits, kvCacheBytes: bytesOf(5) }));
            break;
          case 'finish':
            await Promise.all(requests.map(({ ids }) => ids));
        }
      }
      const texts = await Promise.all(requests.map(({ ids }) => ids));
      const { running, waiting, prefixHits, acceptedTokens } = model.engineStats();
      expect({ running, waiting }).toEqual({ running: 0, waiting: 0 });
      seen.hits += prefixHits;
      seen.guesses += acceptedTokens;
      for (const [i, request] of requests.entries()) {
        if (texts[i] === undefined || request.changed) continue;
        expect({ i, ids: texts[i] }).toEqual({ i, ids: await expected(request) });
        seen.compared++;
      }
    };
    const clean = async (): Promise<void> => {
      const fresh = begun();
      await become(model, state, fresh);
      state = fresh;
    };
    await fc.assert(
      fc.asyncProperty(fc.array(deed, { minLength: 4, maxLength: 24 }), play).afterEach(clean),
      {
        numRuns: histories,
        seed: 1,
        endOnFailure: false,
      },
    );
    // The histories are worth playing: texts are compared, prefixes shared, and tokens guessed.
    expect(seen.compared).toBeGreaterThan(histories);
    expect(seen.hits).toBeGreaterThan(histories / 10);
    if (speculates) expect(seen.guesses).toBeGreaterThan(histories / 2);
  },
  24 * 3600_000,
);
