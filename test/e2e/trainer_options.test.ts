// The options of a Trainer are checked before any work.
import { Trainer, type TrainerOptions } from '../../lib/index';
import { expectReject, expectThrow } from '../support/errors';
import { makeRows, trainingFixture } from '../support/training';

const fixture = trainingFixture();
const data = makeRows(12);

function start(options: Partial<TrainerOptions> = {}): Trainer {
  const { model } = fixture;
  if (!model.activeAdapter) fixture.addAdapter('mine');
  return new Trainer({ model, data, maxSteps: 6, ...options });
}

test.each([
  [{ maxSteps: 0 }, 'expected maxSteps to be a whole number of at least 1 but received 0'],
  [{ epochs: 1 }, 'expected one of maxSteps, epochs and maxTokens but received maxSteps and epochs'],
  [{ lr: Number.NaN }, "expected lr to be a number of at least 0 or 'auto' but received NaN"],
  [{ lr: '1e-4' }, "expected lr to be a number of at least 0 or 'auto' but received '1e-4'"],
  [
    { schedule: 'cosin' as 'cosine' },
    "expected schedule to be one of constant, linear, cosine, wsd but received 'cosin'",
  ],
  [
    { schedule: 'toString' as 'cosine' },
    "expected schedule to be one of constant, linear, cosine, wsd but received 'toString'",
  ],
  [{ decaySteps: 2 }, "expected the schedule 'wsd', since decaySteps is given"],
  [
    { maxSteps: undefined, data: () => data, schedule: 'constant', warmupSteps: 0.1 },
    'expected maxSteps, since warmupSteps is the share 0.1 of all steps',
  ],
  [
    { optimizer: 'adam' },
    "expected optimizer to be one of adamw, adamw8bit, sgd, lion, or an optimizer, but received 'adam'",
  ],
  [
    { optimizer: 'toString' },
    "expected optimizer to be one of adamw, adamw8bit, sgd, lion, or an optimizer, but received 'toString'",
  ],
  [{ optimizer: { lr: 1 } }, /^expected optimizer to be one of .* but received an object/],
  [{ loraPlusRatio: 0 }, 'expected loraPlusRatio to be a number above 0 but received 0'],
  [{ loraPlusRatio: '16' }, "expected loraPlusRatio to be a number above 0 but received '16'"],
  [{ saveEvery: 1 }, 'expected outDir, since saveEvery is given'],
  [{ evalEvery: 1 }, 'expected evalData, since evalEvery is given'],
  [{ learningRate: 1 }, "unknown option 'learningRate'; did you mean 'lr'?"],
  [{ steps: 1 }, "unknown option 'steps'; did you mean 'maxSteps'?"],
  [{ model: undefined }, 'expected model to be a CausalLM but received undefined'],
  [{ data: undefined }, /^expected data to be an Iterable or AsyncIterable of .* but received undefined/],
  [{ data: null }, /^expected data to be an Iterable or AsyncIterable of .* but received null/],
  [{ data: { length: 3 } }, /^expected data to be an Iterable or AsyncIterable of .* but received an object/],
  [{ data: 'train.jsonl' }, /^expected data to be .* but received 'train.jsonl'/],
  [{ evalData: 7 }, /^expected evalData to be an Iterable or AsyncIterable of/],
  [
    { maxSteps: undefined, data: () => data },
    'expected maxSteps, since the cosine schedule needs the number of steps and the data does not tell its length',
  ],
])('%j', (options: object, sentence: string | RegExp) => {
  expectThrow(
    () => start(options),
    'ERR_ARGUMENT',
    typeof sentence === 'string'
      ? `[Trainer] ${sentence}`
      : new RegExp(`^\\[Trainer\\] ${sentence.source.slice(1)}`),
  );
});

test('resume needs a folder to look in, or one', () => {
  expectThrow(
    () => start({ resume: true }),
    'ERR_ARGUMENT',
    '[Trainer] expected outDir, in which resume: true looks for the newest checkpoint',
  );
  expectThrow(
    () => start({ resume: 3 as unknown as string }),
    'ERR_ARGUMENT',
    '[Trainer] expected resume to be true, false or a folder but received 3',
  );
});

const whole = 'to be a whole number of at least';
const real = 'to be a number of at least 0';
const oneOrMore = ['epochs', 'batchSize', 'gradientAccumulationSteps', 'evalEvery', 'saveEvery', 'saveLimit'];
test.each([
  ...oneOrMore.flatMap((name) => [0, 1.5].map((value) => ({ name, value, expected: `${whole} 1` }))),
  ...[-1, 0.5].map((value) => ({ name: 'seed', value, expected: `${whole} 0` })),
  ...[-1, 1.5].map((value) => ({ name: 'warmupSteps', value, expected: 'to be an integer of at least 0' })),
  ...[-1, Infinity].map((value) => ({ name: 'lr', value, expected: `${real} or 'auto'` })),
  ...['weightDecay', 'maxGradNorm'].flatMap((name) =>
    [-1, Infinity].map((value) => ({ name, value, expected: real })),
  ),
])('$name: $value', ({ name, value, expected }) => {
  const steps = name === 'epochs' ? { maxSteps: undefined } : {};
  const others = { evalData: data, outDir: 'unused', ...steps };
  expect(() => start({ ...others, [name]: value })).toThrow(
    `[Trainer] expected ${name} ${expected} but received ${value}`,
  );
});

test('maxSteps: undefined is as if it were absent, epochs beside it too', () => {
  expect(() => start({ maxSteps: undefined, epochs: 1 })).not.toThrow();
});

test('a one-shot source for several epochs', () => {
  const once = (): IterableIterator<(typeof data)[number]> => data[Symbol.iterator]();
  const options = { maxSteps: undefined, schedule: 'constant' } as object;
  expectThrow(
    () => start({ ...options, data: once(), epochs: 2 }),
    'ERR_ARGUMENT',
    /^\[Trainer\] .*pass a function/,
  );
  expect(() => start({ ...options, data: once(), epochs: 1 })).not.toThrow();
});

test('a one-shot source for several evaluations', () => {
  const evalData = data[Symbol.iterator]();
  expectThrow(() => start({ evalData, evalEvery: 3 }), 'ERR_ARGUMENT', /^\[Trainer\] .*pass a function/);
  expect(() => start({ evalData, evalEvery: 4 })).not.toThrow(); // of 6 steps: one evaluation
  const unknown = { maxSteps: undefined, data: () => data, schedule: 'constant' } as object;
  expect(() => start({ ...unknown, evalData, evalEvery: 99 })).toThrow('pass a function');
});

test('no options at all, and those of run()', async () => {
  const none = undefined as unknown as TrainerOptions;
  expect(() => new Trainer(none)).toThrow('expected an object of options but received undefined');
  const trainer = start();
  await expect(trainer.run({ sginal: 1 } as object)).rejects.toThrow("did you mean 'signal'?");
  const signal = 5 as unknown as AbortSignal;
  await expectReject(
    trainer.run({ signal }),
    'ERR_ARGUMENT',
    '[run] expected signal to be an AbortSignal but received 5',
  );
});

test('labels of which none counts are ERR_DATA, with the number of the step', async () => {
  const masked = [{ inputIds: [1, 2], labels: [-100, -100] }];
  await expectReject(
    Promise.resolve(start({ data: masked, maxSteps: 1 }).run()),
    'ERR_DATA',
    '[Trainer] step 1: expected labels that count but all are -100',
  );
});
