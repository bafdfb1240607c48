/** Requests near the limit of memory, in a process of its own: a short form of scripts/serving-soak.mjs. */
import { spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { childReport } from '../support/child';
import { tinyModel } from '../support/tiny_model';

const root = join(__dirname, '../..');
let dir: string;
beforeAll(async () => {
  // Pages of 96 KiB, so that few of them fit.
  const config = { hidden_size: 64, num_attention_heads: 4, num_key_value_heads: 4, head_dim: 16 };
  dir = await tinyModel({ config: { ...config, max_position_embeddings: 512 } });
});
afterAll(() => rmSync(dir, { recursive: true }));

test('requests that fit alone all succeed, one after the other and at once, and give the same', () => {
  const args = ['--model', dir, '--requests', '200', '--room', '1.2MiB'];
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [join(root, 'scripts/serving-soak.mjs'), ...args],
    { cwd: root, encoding: 'utf8', timeout: 50_000, env: { ...process.env, LORA_THREADS: '1' } },
  );
  expect([status, stderr]).toEqual([0, '']);
  expect(stdout).toMatch(/none failed, memory is flat/);
});

test('one that does not fit alone says what is missing, and the next ones are served', () => {
  const model = `const model = await lora.CausalLM.fromPretrained(${JSON.stringify(dir)});`;
  const weight = childReport(`${model} report(lora.memoryUsage().peakBytes);`) as number;
  const report = childReport(
    `${model}
    const outcomes = [];
    const ask = (length, maxNewTokens) =>
      model.generate(Array.from({ length }, (_, i) => i % 200), { maxNewTokens, ignoreEos: true }).then(
        ({ ids }) => ids.length,
        ({ code, message }) => code + ' ' + message,
      );
    for (const [length, count] of [[3, 5], [470, 30], [3, 5], [100, 20]]) outcomes.push(await ask(length, count));
    outcomes.push(...(await Promise.all([ask(470, 30), ask(5, 4), ask(9, 3)])));
    report(outcomes);`,
    { env: { LORA_MEMORY_LIMIT: String(weight + 600 * 2 ** 10), LORA_THREADS: '1' } },
  );
  const tooLarge = expect.stringMatching(
    /^ERR_OUT_OF_MEMORY \[generate\] expected memory for the keys and values of \d+ tokens and the work on them, but with all that could be given back it needs [\d.]+ MiB but only [\d.]+ MiB are free on cpu: with what is held, [\d.]+ MiB of LORA_MEMORY_LIMIT = [\d.]+ MiB; smaller batches, /,
  ) as unknown;
  expect(report).toEqual([5, tooLarge, 5, 20, tooLarge, 4, 3]);
});

test('what the engine of another model keeps for later is given back', () => {
  const models = `
    const models = [];
    for (let i = 0; i < 2; i++) models.push(await lora.CausalLM.fromPretrained(${JSON.stringify(dir)}));`;
  const weight = childReport(`${models} report(lora.memoryUsage().peakBytes);`) as number;
  const report = childReport(
    `${models}
    const prompt = Array.from({ length: 450 }, (_, i) => i % 200);
    const lengths = [];
    for (const model of [...models, ...models])
      lengths.push((await model.generate(prompt, { maxNewTokens: 50, ignoreEos: true })).ids.length);
    report(lengths);`,
    { env: { LORA_MEMORY_LIMIT: String(weight + 1300 * 2 ** 10), LORA_THREADS: '1' } },
  );
  expect(report).toEqual([50, 50, 50, 50]);
});
