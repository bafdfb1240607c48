/** The bounds of an engine, and what it refuses. */
import { loadedModels, run, text, type Wish } from '../support/engine_requests';

const load = loadedModels();

test('the bounds are said before any work', async () => {
  const model = await load();
  const code = async (wish: Partial<Wish>): Promise<unknown> =>
    run(model, { prompt: text(4, 1), maxNewTokens: 2, ignoreEos: true, ...wish }).then(
      () => 'accepted',
      ({ code, message }: { code: string; message: string }) => `${code} ${message}`,
    );
  expect(await code({ prompt: text(128, 1) })).toMatch(/^ERR_ARGUMENT .* at most 127 tokens.* received 128$/);
  expect(await code({ prompt: text(100, 1), maxNewTokens: 29 })).toMatch(
    /^ERR_ARGUMENT .* received 100 and 29$/,
  );
  expect(await code({ prompt: text(100, 1), maxNewTokens: 28 })).toBe('accepted');
  expect((await model.generate(text(120, 1), { ignoreEos: true })).ids).toHaveLength(8); // what the context leaves
  const { kvCacheCapacity } = model.engineStats();
  model.configureEngine({ kvCacheBytes: kvCacheCapacity / 8 });
  expect(await code({ prompt: text(60, 1), maxNewTokens: 6 })).toMatch(/^ERR_ARGUMENT .* at most 64 tokens/);
  expect(await code({ prompt: text(60, 1), maxNewTokens: 5 })).toBe('accepted');
  model.configureEngine({ maxBatchSize: 1, maxQueued: 2 });
  const answers = await Promise.all([1, 2, 3, 4].map(() => code({})));
  expect(answers.filter((answer) => answer === 'accepted')).toHaveLength(3); // one runs
  expect(answers.find((answer) => answer !== 'accepted')).toMatch(
    /^ERR_BUSY \[generate\] 2 requests wait already/,
  );
  expect(() => model.configureEngine({ maxBatchSize: 0 })).toThrow(/maxBatchSize of at least 1/);
  expect(() => model.configureEngine({ batchSize: 1 } as object)).toThrow(/did you mean 'maxBatchSize'/);
});

test('ERR_BUSY for other bounds while a generation runs', async () => {
  const model = await load();
  const iterator = model.generate(text(4, 1), { ignoreEos: true })[Symbol.asyncIterator]();
  await iterator.next();
  expect(() => model.configureEngine({ maxBatchSize: 2 })).toThrow(
    expect.objectContaining({ code: 'ERR_BUSY' }),
  );
  await iterator.return!();
  model.configureEngine({ maxBatchSize: 2 });
});
