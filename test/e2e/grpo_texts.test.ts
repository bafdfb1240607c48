/** Training on rewards with a tokenizer: how completions are drawn, what rewards get, what the report shows, and runs that go on. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  CausalLM,
  loadDataset,
  Trainer,
  type Rewarded,
  type RewardFunction,
  type RolloutGeneration,
  type TrainerOptions,
} from '../../lib/index';
import { escapeHtml } from '../../lib/train/report/html';
import { expectReject } from '../support/errors';
import { temporaryFolder } from '../support/temporary';
import { llamaToolTemplate, tinyModel } from '../support/tiny_model';
import { collect } from '../support/training';

const scratch = temporaryFolder();
let dir: string;
let model: CausalLM;
beforeAll(async () => {
  dir = await tinyModel({
    chatTemplate: llamaToolTemplate,
    generation: { top_k: 1, top_p: 0.01, do_sample: true },
  });
  model = await CausalLM.fromPretrained(dir);
});
afterAll(async () => {
  await model.dispose();
  rmSync(dir, { recursive: true });
});
beforeEach(() => {
  model.addAdapter({ r: 2, targetModules: 'all-linear' }, { activate: true });
});
afterEach(async () => {
  jest.restoreAllMocks();
  await model.removeAdapter('default');
});

const data = [{ prompt: 'Who?', says: 'a' }, { prompt: 'When?' }, { prompt: 'Where?' }];
const options = {
  ...{
    data,
    objective: 'grpo' as const,
    numGenerations: 4,
    maxCompletionLength: 12,
    batchSize: 3,
    maxSteps: 1,
  },
  ...{ schedule: 'constant' as const, lr: 1e-2, shuffleWindow: 1 },
};

/** What rewards get in the first step, and its figures. */
async function rewarded(changes: Partial<TrainerOptions> = {}) {
  const seen: Rewarded[] = [];
  const note: RewardFunction = (one) => (seen.push(one), one.completionIds.length);
  const { rewards = [], ...others } = changes;
  const { steps } = await collect(new Trainer({ model, ...options, ...others, rewards: [note, ...rewards] }));
  return { seen, metrics: steps[0]!.metrics! };
}
const drawn = (generation: RolloutGeneration, changes: Partial<TrainerOptions> = {}) =>
  rewarded({ generation, ...changes });

describe('completions are drawn', () => {
  test('from all tokens unless an option says otherwise, whatever the model has as its defaults', async () => {
    const { seen } = await rewarded();
    expect(new Set(seen.map(({ completionIds }) => String(completionIds))).size).toBe(12);
    for (const { prompt, promptIds, completion, completionIds, row } of seen) {
      expect(data).toContain(row);
      expect(prompt).toBe(row['prompt']);
      expect([...promptIds]).toEqual([...model.tokenizer.encode(prompt)]);
      // Which of them ends with half a character does not matter.
      const text = model.tokenizer.decode(completionIds, { skipSpecialTokens: true });
      expect(completion.replace(/\ufffd+$/, '')).toBe(text.replace(/\ufffd+$/, ''));
    }
  });

  test('anew for a prompt that comes twice', async () => {
    const { seen } = await rewarded({ data: [data[0]!, data[0]!] });
    expect(new Set(seen.map(({ completionIds }) => String(completionIds))).size).toBe(8);
  });

  test.each([{ topK: 1 }, { topP: 1e-6 }, { minP: 1 }])('from the likeliest alone with %j', async (one) => {
    const { seen, metrics } = await drawn(one);
    expect(new Set(seen.map(({ completion }) => completion)).size).toBe(3);
    expect(metrics['frac_reward_zero_std']).toBe(1);
  });

  test('without tokens again that a penalty keeps out', async () => {
    const { seen } = await drawn({ repetitionPenalty: 1e6, topK: 1 });
    for (const { completionIds } of seen) expect(new Set(completionIds).size).toBe(completionIds.length);
  });

  test('to a stop string, which the text does not hold', async () => {
    const { seen: free } = await rewarded();
    const often = free.map(({ completion }) => completion[1]!).find((c) => /[!-~]/.test(c))!;
    await model.removeAdapter('default');
    model.addAdapter({ r: 2, targetModules: 'all-linear' }, { activate: true });
    const { seen, metrics } = await drawn({ stop: [often] });
    const ended = seen.filter(({ completionIds }) => completionIds.length < 12);
    expect(ended.length).toBeGreaterThan(0);
    for (const { completion } of seen) expect(completion).not.toContain(often);
    expect(metrics['completions/clipped_ratio']).toBeLessThan(1);
    // The tokens of the stop string count: they are what the model has learned to end with.
    expect(ended.some(({ completionIds }) => model.tokenizer.decode(completionIds).includes(often))).toBe(
      true,
    );
  });

  test('under a schema', async () => {
    const { seen, metrics } = await drawn({ jsonSchema: { enum: ['red', 7, { a: 1 }] } });
    for (const { completion } of seen)
      expect(['"red"', '7', '{"a":1}']).toContain(completion.replace(': ', ':'));
    expect(metrics['completions/clipped_ratio']).toBe(0);
    expect(seen.every(({ completionIds }) => completionIds.at(-1) === 257)).toBe(true);
  });
});

test('a conversation is asked through the template, with its tools', async () => {
  const messages = [{ role: 'user' as const, content: 'Hi' }];
  const tools = [{ type: 'function', function: { name: 'f', parameters: { type: 'object' } } }];
  const asked = [{ prompt: messages }];
  const { seen: plain } = await rewarded({ data: asked });
  const { seen } = await drawn({ tools }, { data: asked });
  const ids = (turns: object) =>
    model.tokenizer.applyChatTemplate(messages, { ...turns, addGenerationPrompt: true });
  expect([...plain[0]!.promptIds]).toEqual([...ids({})]);
  expect([...seen[0]!.promptIds]).toEqual([...ids({ tools })]);
  expect(seen[0]!.prompt).toContain('"name": "f"');
});

test('a file of prompts keeps the fields of its rows, and leaves out what fills maxLength', async () => {
  const file = join(scratch, 'prompts.jsonl');
  const messages = [{ role: 'user' as const, content: 'Hi' }];
  const rows = [{ prompt: 'abc', n: [1] }, { prompt: 'abcd' }, { prompt: messages, x: null }];
  writeFileSync(file, rows.map((row) => JSON.stringify(row)).join('\n'));
  const load = (maxLength: number) =>
    loadDataset(file, { tokenizer: model.tokenizer, objective: 'grpo', maxLength });
  const all = await load(64);
  const found = [...all];
  expect(found.map(({ promptIds: _, ...row }) => row)).toEqual(rows);
  expect(found.map(({ promptIds }) => promptIds)).toEqual([
    [256, 97, 98, 99],
    [256, 97, 98, 99, 100],
    [...model.tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true })],
  ]);
  const short = await load(5);
  expect([...short].map(({ promptIds }) => promptIds)).toEqual([
    [256, 97, 98, 99],
    [258, 72, 105, 259],
  ]);
  expect([all.dropped, short.dropped]).toEqual([0, 1]);
  const { seen } = await rewarded({ data: short, batchSize: 2 });
  expect(seen[0]!.row['n']).toEqual([1]);
  writeFileSync(file, '{"prompt":"a"}\n{"prompt":7}');
  await expectReject(load(9), 'ERR_DATA', /prompts\.jsonl:2.*"prompt" to be a string or messages/);
});

test('rewards are weighed; what one of them has nothing to say of, the others decide', async () => {
  const none: RewardFunction = () => null;
  let calls = 0;
  /** Speaks of every second completion, later than the others. */
  const late: RewardFunction = async () => {
    const i = calls++;
    await new Promise((resolve) => setTimeout(resolve, 5));
    return i % 2 === 0 ? 10 : null;
  };
  const { seen, metrics } = await rewarded({ rewards: [late, none], rewardWeights: [2, 0.5, 7] });
  expect(calls).toBe(12);
  const length = seen.reduce((sum, { completionIds }) => sum + completionIds.length, 0) / 12;
  expect(metrics['rewards/note/mean']).toBeCloseTo(length, 5);
  expect(metrics['rewards/late/mean']).toBe(10);
  expect(metrics).not.toHaveProperty('rewards/none/mean');
  expect(metrics['reward']).toBeCloseTo(2 * length + 0.5 * 10 * 0.5, 5);
});

test('functions of one name have figures of their own', async () => {
  const one = { note: () => 1 };
  const { metrics } = await rewarded({ rewards: [one.note] });
  expect(metrics['rewards/note/mean']).toBeGreaterThan(1);
  expect(metrics['rewards/note_1/mean']).toBe(1);
});

test('an evaluation is the mean over its prompts, of which each is drawn anew, and higher is better', async () => {
  const seen: string[] = [];
  let passes = 0;
  const rewards: RewardFunction[] = [
    ({ row, completion }) => {
      if (row['held'] === undefined) return 0;
      seen.push(completion);
      return Number(row['held']) + Math.floor(passes++ / 12);
    },
  ];
  const evalData = [0, 1, 5].map((held) => ({ prompt: 'Who?', held }));
  const run = { ...options, rewards, evalData, evalEvery: 1, batchSize: 2, maxSteps: 2, lr: 0 };
  const { events } = await collect(new Trainer({ model, ...run }));
  const found = events.flatMap((event) => (event.type === 'eval' ? [event] : []));
  expect(found.map(({ score, best }) => [score, best])).toEqual([
    [2, true],
    [3, true],
  ]);
  expect(new Set(seen.slice(0, 12)).size).toBe(12);
  expect(seen.slice(12)).toEqual(seen.slice(0, 12));
});

test('completions of a rollout end where their last token does', async () => {
  const rollout = (prompts: readonly object[]) =>
    prompts.map(() => [257, 72, 257, 72].map((end) => ({ completionIds: [72, 105, end] })));
  const { seen, metrics } = await rewarded({ rollout });
  expect(metrics['completions/clipped_ratio']).toBe(0.5);
  expect(seen.slice(0, 2).map(({ completion }) => completion)).toEqual(['Hi', 'HiH']);
});

test('log-probabilities of the engine are those of temperature 1 alone', async () => {
  const name = 'sampling/sampling_logp_difference/max';
  expect((await rewarded()).metrics[name]).toBeLessThan(1e-3);
  expect((await rewarded({ temperature: 2 })).metrics).not.toHaveProperty(name);
});

test('a prompt that fills the context is refused', async () => {
  const promptIds = Array<number>(128).fill(65);
  await expectReject(
    rewarded({ data: [{ promptIds }] }),
    'ERR_DATA',
    /a prompt of 128 tokens fills the context/,
  );
});

describe('the report', () => {
  const says: RewardFunction = ({ completion }) => completion.length;
  const blank: RewardFunction = () => null;
  const reportOf = async (name: string, changes: Partial<TrainerOptions>) => {
    const outDir = join(scratch, name);
    const run = new Trainer({ model, ...options, lr: 0, outDir, report: true, ...changes }).run();
    return readFileSync((await run).report!, 'utf8');
  };

  test('shows completions of whole prompts, without the adapter and with it, with their rewards', async () => {
    const html = await reportOf('report', { rewards: [says, blank], rewardWeights: [3, 1] });
    for (const { prompt } of data) expect(html).toContain(`<h3>Prompt</h3>\n<pre>&lt;s&gt;${prompt}</pre>`);
    expect(html).toContain('drawn as in the training.');
    expect(html).not.toContain('<h3>In the data</h3>');
    for (const who of ['The base model', 'With the adapter']) {
      const own = [
        ...html.matchAll(new RegExp(`<h3>${who}: reward (\\S+) \\(says (\\S+), blank null\\)</h3>`, 'g')),
      ];
      expect(own).toHaveLength(3);
      for (const [, total, part] of own) expect(Number(total)).toBeCloseTo(3 * Number(part), 6);
    }
  });

  test('shows what a rollout made, which knows no base, and no reward where there is none', async () => {
    const rollout = (prompts: readonly object[], { numGenerations }: { numGenerations: number }) =>
      prompts.map(() => Array.from({ length: numGenerations }, () => ({ completionIds: [72, 105, 60] })));
    const html = await reportOf('rollout', { rewards: [blank], rollout });
    expect(html).not.toContain('The base model');
    const article = `<h3>With the adapter: no reward</h3>\n<pre>${escapeHtml('Hi<')}</pre>`;
    expect(html.split(article)).toHaveLength(4);
  });
});

describe.each([
  ['an adapter in bf16', { dtype: 'bf16' }, 'adapter_model.safetensors'],
  ['an adapter of a base in NF4', { quantize: 'nf4' }, 'adapter_model.safetensors'],
  ['all weights', {}, 'model.safetensors'],
] as const)('a run of %s that is cut in the middle of a generation', (_, load, file) => {
  test('ends with the bytes of the whole run', async () => {
    const words: RewardFunction = ({ completionIds }) => completionIds.filter((id) => id % 2 === 0).length;
    const run = async (outDir: string, changes: Partial<TrainerOptions>) => {
      const own = await CausalLM.fromPretrained(dir, load);
      const full = file === 'model.safetensors';
      if (full) own.trainAll();
      else own.addAdapter({ r: 2, targetModules: 'all-linear' }, { activate: true, seed: 1 });
      const all = {
        ...options,
        rewards: [words],
        numIterations: 2,
        batchSize: 1,
        beta: full ? 0 : 0.1,
        outDir,
      };
      const { steps } = await collect(new Trainer({ model: own, ...all, ...changes }));
      await own.dispose();
      return steps.map(({ step, loss, metrics }) => ({ step, loss, metrics }));
    };
    const [whole, cut] = ['whole', 'cut'].map((name) =>
      join(scratch, `${name}-${file}-${Object.keys(load).join('')}`),
    );
    const want = await run(whole!, { maxSteps: 5 });
    const begun = await run(cut!, { maxSteps: 3, saveEvery: 3 });
    const rest = await run(cut!, { maxSteps: 5, resume: true });
    expect([...begun, ...rest]).toEqual(want);
    expect(readFileSync(join(cut!, file)).equals(readFileSync(join(whole!, file)))).toBe(true);
  });
});
