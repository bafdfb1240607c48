/** Requests near the limit of memory, in a process of its own: a short form of scripts/serving-soak.mjs. */
import { spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { runChild } from '../support/child';
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
  const { report } = runChild(
    `
    const model = await lora.CausalLM.fromPretrained(${JSON.stringify(dir)});
    const used = lora.memoryUsage().bytes;
    const outcomes = [];
    const ask = (length, maxNewTokens) =>
      model.generate(Array.from({ length }, (_, i) => i % 200), { maxNewTokens, ignoreEos: true }).then(
        ({ ids }) => ids.length,
        ({ code, message }) => code + ' ' + message,
      );
    for (const [length, count] of [[3, 5], [470, 30], [3, 5], [100, 20]]) outcomes.push(await ask(length, count));
    outcomes.push(...(await Promise.all([ask(470, 30), ask(5, 4), ask(9, 3)])));
    report(outcomes);`,
    { env: { LORA_MEMORY_LIMIT: '1100KiB', LORA_THREADS: '1' } },
  );
  const tooLarge = expect.stringMatching(
    /^ERR_OUT_OF_MEMORY \[generate\] expected memory for a prompt of 470 tokens and \d+ more, .* needs \d+ bytes but only \d+ bytes are free on cpu$/,
  ) as unknown;
  expect(report).toEqual([5, tooLarge, 5, 20, tooLarge, 4, 3]);
});
