/** Processes that are killed while they save: what is there afterwards is one of the two adapters that they saved in turn. */
import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { readAdapter, writeAdapter } from '../../lib/index';

const root = mkdtempSync(join(tmpdir(), 'killed-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const pair = (alpha: number) => ({
  config: { peft_type: 'LORA', r: 8, lora_alpha: alpha },
  tensors: new Map(
    Array.from({ length: 20 }, (_, i) => [
      `w${i}`,
      { dtype: 'F32' as const, shape: [64, 64], bytes: new Uint8Array(64 * 64 * 4).fill(alpha) },
    ]),
  ),
});

test('SIGKILL between saves of two adapters of equal shapes leaves one of them', async () => {
  const dir = join(root, 'adapter');
  const program = `
    const { writeAdapter } = require(${JSON.stringify(resolve(__dirname, '../../dist/index.js'))});
    const pair = ${String(pair)};
    const dir = ${JSON.stringify(dir)};
    (async () => {
      await writeAdapter(dir, pair(1));
      console.log('ready');
      for (;;) for (const alpha of [100, 1]) await writeAdapter(dir, pair(alpha));
    })();`;
  const warned = jest.spyOn(process, 'emitWarning');
  for (let i = 0; i < 15; i++) {
    const child = spawn(process.execPath, ['-e', program], { stdio: ['ignore', 'pipe', 'inherit'] });
    await new Promise((ready) => child.stdout.once('data', ready));
    await new Promise((later) => setTimeout(later, 5 + 3 * i));
    const ended = new Promise((end) => child.on('exit', end));
    child.kill('SIGKILL');
    await ended;
    const { config, tensors } = await readAdapter(dir);
    const values = new Set([...tensors.values()].flatMap(({ bytes }) => [...new Set(bytes)]));
    expect([...values]).toEqual([config['lora_alpha']]);
  }
  expect(warned).not.toHaveBeenCalled();
  await writeAdapter(dir, pair(5));
  expect(readdirSync(dir).sort()).toEqual(['adapter_config.json', 'adapter_model.safetensors']);
});
