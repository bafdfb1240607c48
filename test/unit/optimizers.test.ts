// Every optimizer against loops in double, and what all optimizers share. The class itself: adamw.test.ts.
import {
  AdamW,
  AdamW8bit,
  Lion,
  SGD,
  Tensor,
  memoryUsage,
  parameter,
  tensor,
  type Parameter,
  type StateDict,
} from '../../lib/index';
import { binding } from '../../lib/native/calls';
import { expectThrow } from '../support/errors';
import { collectGarbage } from '../support/garbage';
import { bits, relativeError, values } from '../support/numbers';
import { PlainOptimizer, seededParameter, setGrad, type PlainSettings } from '../support/optimizers';

const make = (seed: number, n = 5, device: 'reference' | 'cpu' = 'cpu'): Parameter =>
  seededParameter(seed, n, { device });
type Made = AdamW | AdamW8bit | SGD | Lion;

describe.each(['reference', 'cpu'] as const)('on %s', (device) => {
  const cases: [string, PlainSettings, (p: Parameter[]) => Made][] = [
    [
      'AdamW',
      { lr: 0.05, decay: 0.1, betas: [0.8, 0.95], eps: 1e-6 },
      (p) => new AdamW(p, { lr: 0.05, betas: [0.8, 0.95], eps: 1e-6, weightDecay: 0.1 }),
    ],
    ['SGD', { lr: 0.05, decay: 0 }, (p) => new SGD(p, { lr: 0.05 })],
    ['SGD with decay', { lr: 0.05, decay: 0.3 }, (p) => new SGD(p, { lr: 0.05, weightDecay: 0.3 })],
    [
      'SGD with momentum and decay',
      { lr: 0.05, decay: 0.3, momentum: 0.9 },
      (p) => new SGD(p, { lr: 0.05, weightDecay: 0.3, momentum: 0.9 }),
    ],
    [
      'SGD with nesterov',
      { lr: 0.05, decay: 0.1, momentum: 0.8, nesterov: true },
      (p) => new SGD(p, { lr: 0.05, weightDecay: 0.1, momentum: 0.8, nesterov: true }),
    ],
    ['Lion', { lr: 0.01, decay: 0, betas: [0.9, 0.99] }, (p) => new Lion(p, { lr: 0.01 })],
    [
      'Lion with decay',
      { lr: 0.01, decay: 0.5, betas: [0.7, 0.95] },
      (p) => new Lion(p, { lr: 0.01, weightDecay: 0.5, betas: [0.7, 0.95] }),
    ],
  ];
  test.each(cases)('%s follows the formula', async (_, o, optimizerOf) => {
    const [a, b, none] = [make(1, 5, device), make(2, 3, device), make(3, 0, device)];
    const want = [new PlainOptimizer(values(5, 1), o), new PlainOptimizer(values(3, 2), o)] as const;
    const optimizer = optimizerOf([a, none, b]);
    for (let i = 0; i < 20; i++) {
      optimizer.lr = o.lr / (i + 1);
      const [ga, gb] = [values(5, 50 + i), values(3, 90 + i)];
      setGrad(a, ga);
      setGrad(none, []);
      want[0].step(ga, optimizer.lr);
      if (i % 3 !== 1) {
        setGrad(b, gb);
        want[1].step(gb, optimizer.lr); // skipped without a gradient
      }
      optimizer.step();
      optimizer.zeroGrad();
      expect([a.grad, b.grad]).toEqual([null, null]);
    }
    expect(relativeError(await a.data(), want[0].p)).toBeLessThan(2e-6);
    expect(relativeError(await b.data(), want[1].p)).toBeLessThan(2e-6);
    expect([a.version, b.version]).toEqual([20, 13]);
  });

  test('parameters of more elements than are updated together', async () => {
    const sizes = [600_000, 1_500_000, 7];
    const gradient = (n: number, at: number): Float32Array =>
      Float32Array.from({ length: n }, (_, i) => ((i * 31 + at) % 17) - 8);
    const params = sizes.map((n) => parameter(tensor(new Float32Array(n).fill(1), { device })));
    const optimizer = new SGD(params, { lr: 0.5, momentum: 0.5 });
    for (let step = 0; step < 2; step++) {
      params.forEach((p, at) => (p.grad = tensor(gradient(sizes[at]!, at), { device })));
      optimizer.step();
      optimizer.zeroGrad();
    }
    // v is g, then 1.5·g: all exact in f32.
    for (const [at, p] of params.entries()) {
      const [got, g] = [await p.data(), gradient(sizes[at]!, at)];
      expect(got.findIndex((x, i) => x !== 1 - 0.5 * 2.5 * g[i]!)).toBe(-1);
    }
    for (const item of [optimizer, ...params]) item.dispose();
  });

  test('Lion moves by exactly lr, and not at all where the momentum is 0', async () => {
    const g = [1e-30, -1e-30, 0, 3e38, -3e38, 2 ** -120, -0, 5];
    const p = parameter(tensor(new Float32Array(8), { device }));
    setGrad(p, g);
    new Lion([p], { lr: 0.25 }).step();
    expect([...(await p.data())].map((x) => x + 0)).toEqual(g.map((x) => -0.25 * Math.sign(x) + 0));
  });

  test('a gradient that is no number spoils its own element, and is not taken for 0', async () => {
    for (const Kind of [AdamW, AdamW8bit, Lion, SGD]) {
      const p = make(1, 3, device);
      setGrad(p, [1, NaN, 1]);
      new Kind([p]).step();
      expect([...(await p.data())].map(Number.isNaN)).toEqual([false, true, false]);
    }
  });

  test.each([
    ['AdamW', (p: Parameter[]) => new AdamW(p, { lr: 0.1 })],
    ['AdamW8bit', (p: Parameter[]) => new AdamW8bit(p, { lr: 0.1 })],
    ['SGD', (p: Parameter[]) => new SGD(p, { lr: 0.1 })],
    ['SGD with momentum', (p: Parameter[]) => new SGD(p, { lr: 0.1, momentum: 0.9 })],
    ['Lion', (p: Parameter[]) => new Lion(p, { lr: 0.1 })],
  ])('%s: an update with a failed gradient does not run, and is reported', async (_, optimizerOf) => {
    const p = make(1, 5, device);
    const run = (): void => p.square().sum().backward();
    const optimizer = optimizerOf([p]);
    run();
    optimizer.step();
    optimizer.zeroGrad();
    const before = bits(p);
    binding().injectFailure('unary_backward', 'injected');
    run();
    optimizer.step();
    expect(bits(p)).toBe(before); // the read waits for the update
    expect(() => optimizer.step()).toThrow(/injected/);
    expect(() => optimizer.stateDict()).toThrow(/injected/);
    optimizer.zeroGrad();
    run();
    optimizer.step();
    optimizer.stateDict();
    expect(bits(p)).not.toBe(before);
  });
});

const adamWGroups = (a: Parameter[], b: Parameter[]) => [
  { params: a, lr: 0.3, betas: [0.5, 0.6] as const, eps: 0.05 },
  { params: b },
];
const adamWShared = { lr: 0.1, betas: [0.8, 0.95] as const, eps: 0.2, weightDecay: 0.2 };
/** A name, an optimizer of two groups with settings of their own, and one with others; a tensor that is kept. */
const kinds = [
  [
    'AdamW',
    (a: Parameter[], b: Parameter[]) => new AdamW(adamWGroups(a, b), adamWShared),
    (a: Parameter[], b: Parameter[]) => new AdamW([{ params: a }, { params: b }], { lr: 9 }),
    'v',
  ],
  [
    'AdamW8bit',
    (a: Parameter[], b: Parameter[]) => new AdamW8bit(adamWGroups(a, b), adamWShared),
    (a: Parameter[], b: Parameter[]) => new AdamW8bit([{ params: a }, { params: b }], { lr: 9 }),
    'vScales',
  ],
  [
    'SGD',
    (a: Parameter[], b: Parameter[]) =>
      new SGD([{ params: a, lr: 0.3, momentum: 0.7, nesterov: true }, { params: b }], {
        lr: 0.1,
        momentum: 0.5,
        weightDecay: 0.2,
      }),
    (a: Parameter[], b: Parameter[]) => new SGD([{ params: a }, { params: b }], { lr: 9, momentum: 0.1 }),
    'velocity',
  ],
  [
    'Lion',
    (a: Parameter[], b: Parameter[]) =>
      new Lion([{ params: a, lr: 0.3, betas: [0.5, 0.6] }, { params: b }], { lr: 0.1, weightDecay: 0.2 }),
    (a: Parameter[], b: Parameter[]) => new Lion([{ params: a }, { params: b }], { lr: 9 }),
    'm',
  ],
] as const;

describe.each(kinds)('%s', (name, first, second, kept) => {
  test('a state of several groups and parameters goes over to another optimizer, bit for bit; twice the same', () => {
    const run = (split: boolean): string => {
      const [a, b, c] = [make(1), make(2, 3), make(3, 4)];
      let optimizer: Made = first([a, b], [c]);
      for (let i = 0; i < 8; i++) {
        if (split && i === 4) {
          const next = second([a, b], [c]);
          next.loadStateDict(optimizer.stateDict());
          optimizer.dispose();
          optimizer = next;
        }
        setGrad(a, values(5, i));
        if (i % 2 === 0) setGrad(b, values(3, i)); // so that a and b are at different steps
        if (i !== 1) setGrad(c, values(4, i));
        optimizer.step();
        optimizer.zeroGrad();
      }
      const groups = optimizer.stateDict().groups as { steps: number[] }[];
      expect(groups.map(({ steps }) => steps)).toEqual([[8, 4], [7]]);
      return bits(a, b, c);
    };
    expect(run(true)).toBe(run(false));
    expect(run(false)).toBe(run(false));
  });

  test('the settings of a group win over the shared ones, and lr scales all groups alike', async () => {
    const [a, b] = [make(1), make(2)];
    const optimizer = first([a], [b]);
    const [own, shared] = {
      AdamW: [
        { betas: [0.5, 0.6], eps: 0.05 },
        { betas: [0.8, 0.95], eps: 0.2 },
      ],
      AdamW8bit: [
        { betas: [0.5, 0.6], eps: 0.05 },
        { betas: [0.8, 0.95], eps: 0.2 },
      ],
      SGD: [{ momentum: 0.7, nesterov: true }, { momentum: 0.5 }],
      Lion: [{ betas: [0.5, 0.6] }, { betas: [0.9, 0.99] }],
    }[name] as [Partial<PlainSettings>, Partial<PlainSettings>];
    const want = [
      new PlainOptimizer(values(5, 1), { lr: 0.15, decay: 0.2, ...own }),
      new PlainOptimizer(values(5, 2), { lr: 0.05, decay: 0.2, ...shared }),
    ] as const;
    optimizer.lr = 0.05;
    for (const seed of [3, 4, 5]) {
      const g = values(5, seed);
      for (const p of [a, b]) setGrad(p, g);
      optimizer.step();
      want.forEach((w) => w.step(g));
    }
    // Moments of 8 bits are off by 1 % and more.
    const bound = name === 'AdamW8bit' ? 2e-2 : 1e-6;
    expect(relativeError(await a.data(), want[0].p)).toBeLessThan(bound);
    expect(relativeError(await b.data(), want[1].p)).toBeLessThan(bound);
  });

  test('a state that does not fit is refused, and nothing of it is taken over', () => {
    const optimizer = second([make(1)], [make(2), make(3, 3)]);
    const saved = (): StateDict & { groups: Record<string, unknown>[] } =>
      first([make(1)], [make(2), make(3, 3)]).stateDict() as never;
    const plain = ({ lr, groups }: StateDict): string =>
      JSON.stringify([
        lr,
        ...(groups as object[]).flatMap((g) =>
          Object.entries(g as Record<string, unknown>).map(([key, value]) => [
            key,
            value instanceof Tensor ? bits(value) : value,
          ]),
        ),
      ]);
    const before = plain(optimizer.stateDict());
    const unknown = name.startsWith('AdamW') ? 'momentum' : 'eps';
    const { shape, dtype } = saved().groups[1]![kept] as Tensor;
    const wrong = dtype === 'f32' ? 'bf16' : 'f32';
    const cases: [(s: ReturnType<typeof saved>) => unknown, RegExp | string][] = [
      [(s) => s.groups.pop(), /expected a state of 2 groups but received/],
      [
        (s) => delete s.groups[1]!.weightDecay,
        `[${name}] expected weightDecay of the state but received nothing`,
      ],
      [(s) => (s.groups[1]!.weightDecay = -1), /expected weightDecay to be a finite number of at least 0/],
      [(s) => (s.groups[1]![unknown] = 1), new RegExp(`unknown option '${unknown}'`)],
      [(s) => (s.groups[1]!.steps = [1]), `[${name}] expected steps of 2 parameters but received [1]`],
      [
        (s) => (s.groups[1]!.steps = Array<number>(2)),
        `[${name}] expected steps of the state to be an integer of at least 0 but received undefined`,
      ],
      [
        (s) => (s.groups = [s.groups[0]!, null as never]),
        `[${name}] expected group 1 of the state to be an object but received null`,
      ],
      [
        (s) => (s.groups = Object.assign(Array(2), { 0: s.groups[0]! })),
        `[${name}] expected group 1 of the state to be an object but received undefined`,
      ],
      [
        (s) => (s.groups[1]![kept] = 3),
        `[${name}] expected ${kept} of the state to be a tensor of shape [${shape.join()}] but received 3`,
      ],
      [
        (s) => (s.groups[1]![kept] = tensor(new Float32Array(shape[0]!), { dtype: wrong })),
        `[${name}] expected ${kept} of the state to be ${dtype} but received a tensor ${wrong} [${shape.join()}]`,
      ],
      [
        (s) => (s.groups[1]!.other = tensor(new Float32Array(8))),
        new RegExp(
          `^\\[${name}\\] expected a state that keeps .*${kept}.* but received one that keeps other: another`,
        ),
      ],
    ];
    for (const [spoil, sentence] of cases) {
      const state = saved();
      spoil(state);
      expectThrow(() => optimizer.loadStateDict(state), 'ERR_ARGUMENT', sentence);
      expect(plain(optimizer.stateDict())).toBe(before);
    }
  });

  test('disposes its state, and says what it is', () => {
    using optimizer = first([make(1)], [make(2)]);
    expect(String(optimizer)).toBe(`${name}(lr 0.1, 10 parameters in 2 groups)`);
    optimizer.dispose();
    expectThrow(() => optimizer.step(), 'ERR_DISPOSED', `[${name}] step: the optimizer has been disposed`);
  });
});

test('bad settings', () => {
  const p = make(1);
  const cases: [() => unknown, RegExp | string][] = [
    [
      () => new SGD([p], { momentum: 1 }),
      '[SGD] expected momentum to be a number of at least 0 and below 1 but received 1',
    ],
    [() => new SGD([p], { nesterov: 1 as never, momentum: 0.9 }), /expected nesterov to be true or false/],
    [() => new SGD([p], { nesterov: true }), '[SGD] expected momentum above 0, since nesterov is true'],
    [() => new SGD([p], { weightDecay: -1 }), /expected weightDecay to be a finite number/],
    [() => new SGD([p], { betas: [0.9, 0.9] } as never), /unknown option 'betas'/],
    [() => new Lion([p], { betas: [0.9, 1] }), /expected betas to be two numbers/],
    [() => new Lion([p], { weightDecay: NaN }), /expected weightDecay to be a finite number/],
    [() => new Lion([p], { eps: 1 } as never), /unknown option 'eps'/],
    [() => new Lion([{ params: [p], lr: 1 }], { lr: 0 }), /expected the lr of the optimizer to be above 0/],
  ];
  for (const [fn, sentence] of cases) expectThrow(fn, 'ERR_ARGUMENT', sentence);
});

test('SGD without momentum keeps no velocity, and takes no state that has one', () => {
  const [p, q] = [make(1), make(2)];
  const [plain, moving] = [new SGD([p]), new SGD([q], { momentum: 0.9 })];
  const [{ velocity }] = plain.stateDict().groups as [Record<string, unknown>];
  expect(velocity).toBeUndefined();
  expectThrow(
    () => plain.loadStateDict(moving.stateDict()),
    'ERR_ARGUMENT',
    '[SGD] expected a state that keeps no tensors but received one that keeps velocity: another optimizer, or one with other ' +
      'settings, saved it',
  );
  expectThrow(
    () => moving.loadStateDict(plain.stateDict()),
    'ERR_ARGUMENT',
    /expected velocity of the state to be a tensor of shape \[5\] but received undefined/,
  );
});

describe('AdamW8bit', () => {
  test.each(['reference', 'cpu'] as const)('takes the first step of AdamW, bit for bit, on %s', (device) => {
    // Moments of 0 are exact, and rounding comes after the parameter is updated.
    const [a, b] = [make(1, 700, device), make(1, 700, device)];
    for (const p of [a, b]) setGrad(p, values(700, 2));
    new AdamW([a]).step();
    new AdamW8bit([b]).step();
    expect(bits(b)).toBe(bits(a));
  });

  test('keeps two bytes for each parameter, and two scales for each 256', async () => {
    const params = [make(1, 256 * 40), make(2, 1000)];
    await collectGarbage(); // of other tests
    const before = memoryUsage().bytes;
    using optimizer = new AdamW8bit(params);
    const blocks = 40 + 4;
    expect(memoryUsage().bytes - before).toBe(blocks * (2 * 256 + 2 * 4));
    const [group] = optimizer.stateDict().groups as Record<string, Tensor>[];
    const shapes = ['mCodes', 'vCodes', 'mScales', 'vScales'].map((name) => group![name]!.shape);
    expect(shapes).toEqual([[blocks * 64], [blocks * 64], [blocks], [blocks]]);
  });

  test('follows AdamW over many steps', async () => {
    const n = 600;
    const p = make(1, n);
    const want = new PlainOptimizer(values(n, 1), { lr: 0.01, decay: 0, betas: [0.9, 0.999], eps: 1e-8 });
    const optimizer = new AdamW8bit([p], { lr: 0.01, weightDecay: 0 });
    for (let step = 0; step < 50; step++) {
      const g = values(n, step + 5).map((x, i) => (x + 0.5) * 10 ** -(i % 2));
      setGrad(p, g);
      optimizer.step();
      want.step(g);
    }
    const moved = values(n, 1).map((x, i) => want.p[i]! - x);
    const got = [...(await p.data())].map((x, i) => x - values(n, 1)[i]!);
    const norm = (x: readonly number[]): number => Math.sqrt(x.reduce((sum, xi) => sum + xi * xi, 0));
    expect(norm(got.map((x, i) => x - moved[i]!)) / norm(moved)).toBeLessThan(0.06);
  });

  test.each(['reference', 'cpu'] as const)(
    'no step is larger than lr where a gradient is small beside the largest of its block, on %s',
    async (device) => {
      // The square of the small one is below the least code: rounded to 0, it would leave eps alone under the root.
      const p = make(1, 256, device);
      const optimizer = new AdamW8bit([p], { lr: 0.01, weightDecay: 0 });
      for (let step = 1; step <= 20; step++) {
        const g = new Array<number>(256).fill(step % 5 === 0 ? 1e-6 : 1e-4);
        g[0] = 1;
        setGrad(p, g);
        const before = await p.data<Float32Array>();
        optimizer.step();
        const after = await p.data<Float32Array>();
        const largest = Math.max(...after.map((x, i) => Math.abs(x - before[i]!)));
        expect(largest).toBeGreaterThan(0.005);
        expect(largest).toBeLessThan(0.0101);
      }
    },
  );

  test('a state of AdamW is refused, and its own by AdamW', () => {
    const [plain, small] = [new AdamW([make(1)]), new AdamW8bit([make(2)])];
    expectThrow(
      () => small.loadStateDict(plain.stateDict()),
      'ERR_ARGUMENT',
      /^\[AdamW8bit\] expected a state that keeps mCodes, vCodes, mScales, vScales but received one that keeps m, v: another/,
    );
    expectThrow(
      () => plain.loadStateDict(small.stateDict()),
      'ERR_ARGUMENT',
      /^\[AdamW\] expected a state that keeps m, v but received one that keeps mCodes, .*: another optimizer/,
    );
  });
});
