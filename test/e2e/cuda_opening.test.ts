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

/** Statements of a program with `start`, and `turns`, how often a timer of 5 ms was heard until stop(). */
const clock = `
  const start = performance.now();
  let turns = 0;
  const timer = setInterval(() => turns++, 5);
  const stop = () => clearInterval(timer);`;
/** A tenth of what the timer could be heard while the driver takes its time; loading the model itself takes some ten turns. */
const mostlyFree = delay / 5 / 10;

onGpu('a model is loaded to a device whose driver takes seconds, and the event loop goes on', () =>
  withModel((dir) => {
    const [took, turns, ids] = childReport(
      `${clock}
      const model = await lora.CausalLM.fromPretrained(${JSON.stringify(dir)}, { device: 'cuda-emulated' });
      stop();
      const took = performance.now() - start;
      const { ids } = await model.generate([1, 2, 3], { maxNewTokens: 2, temperature: 0, ignoreEos: true });
      report([took, turns, ids.length]);`,
      { env: { LORA_EMULATED_OPENING_MS: String(delay) } },
    ) as [number, number, number];
    expect(took).toBeGreaterThan(delay);
    expect(turns).toBeGreaterThan(mostlyFree);
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
