/** Opening a device whose driver takes long, played by the emulated GPU (LORA_EMULATED_OPENING_MS). */
import { rmSync } from 'node:fs';
import { childReport } from '../support/child';
import { onGpu } from '../support/emulated';
import { tinyModel } from '../support/tiny_model';

const delay = 4000;

async function withModel(body: (dir: string) => void): Promise<void> {
  const dir = await tinyModel();
  try {
    body(dir);
  } finally {
    rmSync(dir, { recursive: true });
  }
}

/** Statements of a program with `start`, and `longest`, the longest gap between turns of the event loop, in ms. */
const clock = `
  const start = performance.now();
  let last = start, longest = 0;
  const turn = () => {
    const now = performance.now();
    longest = Math.max(longest, now - last);
    last = now;
  };
  const timer = setInterval(turn, 5);
  const stop = () => { turn(); clearInterval(timer); };`;

onGpu('a model is loaded to a device whose driver takes seconds, and the event loop goes on', () =>
  withModel((dir) => {
    const [took, longest, ids] = childReport(
      `${clock}
      const model = await lora.CausalLM.fromPretrained(${JSON.stringify(dir)}, { device: 'cuda-emulated' });
      stop();
      const took = performance.now() - start;
      const { ids } = await model.generate([1, 2, 3], { maxNewTokens: 2, temperature: 0, ignoreEos: true });
      report([took, longest, ids.length]);`,
      { env: { LORA_EMULATED_OPENING_MS: String(delay) } },
    ) as [number, number, number];
    expect(took).toBeGreaterThan(delay);
    expect(longest).toBeLessThan(delay / 2);
    expect(ids).toBe(2);
  }),
);

onGpu('who needs the device while it is opened waits for it, and whoever loads a second model too', () =>
  withModel((dir) => {
    const [took, sums] = childReport(
      `${clock}
      const load = () => lora.CausalLM.fromPretrained(${JSON.stringify(dir)}, { device: 'cuda-emulated' });
      const loading = [load(), load()];
      await new Promise((done) => setTimeout(done, 100));
      const sums = [await lora.tensor([1, 2], { device: 'cuda-emulated' }).sum().item()];
      const took = performance.now() - start;
      for (const model of await Promise.all(loading)) {
        sums.push(await lora.tensor([3, 4], { device: 'cuda-emulated' }).sum().item());
        await model.dispose();
      }
      stop();
      report([took, sums]);`,
      { env: { LORA_EMULATED_OPENING_MS: String(delay) } },
    ) as [number, number[]];
    expect(took).toBeGreaterThan(delay);
    expect(sums).toEqual([3, 7, 7]);
  }),
);
