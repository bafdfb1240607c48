/** What runs leave behind that fail, are left or dropped, in processes of their own. */
import { rmSync } from 'node:fs';
import { childReport } from '../support/child';
import { tinyModel } from '../support/tiny_model';

let dir: string;
beforeAll(async () => {
  dir = await tinyModel({ tokenizer: false });
});
afterAll(() => rmSync(dir, { recursive: true }));

/** Runs a program with `model`, `turns()` and a list of what was unhandled; gives its report. */
const program = (body: string): unknown =>
  childReport(`
    const unhandled = [];
    process.on('unhandledRejection', (error) => unhandled.push(error.code ?? error.message));
    const turns = () => new Promise((done) => setTimeout(done, 50));
    const collect = async () => { for (let i = 0; i < 3; i++) { gc(); await turns(); } };
    const model = await lora.CausalLM.fromPretrained(${JSON.stringify(dir)});
    const prompt = [1, 2, 3];
    ${body}
  `);

test('a failure of a run that nobody awaits is unhandled, and one that the loop got is not', () => {
  const report = program(`
    model.generate([]);
    await turns();
    const alone = unhandled.splice(0);
    let caught;
    try { for await (const _ of model.generate([])); } catch (error) { caught = error.code; }
    await turns();
    const iterated = unhandled.splice(0);
    for await (const _ of model.generate(prompt, { ignoreEos: true, maxNewTokens: 5 })) break;
    model.generate(prompt)[Symbol.asyncIterator]();
    await model.generate([]).catch(() => {});
    await model.generate([]).finally(() => {}).catch(() => {});
    await turns();
    report({ alone, caught, iterated, left: unhandled });
  `);
  expect(report).toEqual({ alone: ['ERR_ARGUMENT'], caught: 'ERR_ARGUMENT', iterated: [], left: [] });
});

test('a loop that was dropped half-way is collected, and gives its adapter and its cache back', () => {
  const report = program(`
    model.addAdapter({ r: 2 }, { name: 'a' });
    await model.generate(prompt, { maxNewTokens: 2, ignoreEos: true });
    await collect();
    const before = lora.memoryUsage().bytes;
    await (async () => {
      const events = model.generate(prompt, { maxNewTokens: 9, ignoreEos: true })[Symbol.asyncIterator]();
      await events.next();
    })();
    const busy = await model.removeAdapter('a').catch((error) => error.code);
    const during = model.engineStats().kvCacheBytes;
    await collect();
    const after = lora.memoryUsage().bytes - before;
    const { kvCacheBytes, running } = model.engineStats();
    await model.removeAdapter('a');
    report({ busy, during: during > 0, kvCacheBytes, running, after, adapters: model.adapters.size, unhandled });
  `);
  expect(report).toEqual({
    busy: 'ERR_BUSY',
    during: true,
    kvCacheBytes: 0,
    running: 0,
    after: 0,
    adapters: 0,
    unhandled: [],
  });
});

test('a training run that was dropped half-way is collected, and another may train', () => {
  const report = program(`
    model.addAdapter({ r: 2 });
    const data = [{ inputIds: prompt }, { inputIds: prompt }];
    const trainer = () => new lora.Trainer({ model, data, maxSteps: 2 });
    await (async () => {
      const events = trainer().run()[Symbol.asyncIterator]();
      await events.next();
      await events.next();
    })();
    const busy = await trainer().run().catch((error) => error.code);
    const disposed = await model.dispose().catch((error) => error.code);
    await collect();
    const { step } = await trainer().run();
    await model.dispose();
    await collect();
    report({ busy, disposed, step, unhandled, tensors: lora.memoryUsage().tensors });
  `);
  expect(report).toEqual({ busy: 'ERR_BUSY', disposed: 'ERR_BUSY', step: 2, unhandled: [], tensors: 0 });
});
