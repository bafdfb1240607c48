// SGD and Lion against loops in double, and what all optimizers share.
import { Lion, SGD, parameter, tensor, type Parameter, type StateDict } from '../../lib/index';
import { binding } from '../../lib/native/calls';
import { expectThrow } from '../support/errors';
import { bits, relativeError, values } from '../support/numbers';

type Device = 'reference' | 'cpu';
const make = (seed: number, n = 5, device: Device = 'cpu', name = ''): Parameter =>
  parameter(tensor(values(n, seed), { device }), name);
const setGrad = (p: Parameter, g: number[]): void => {
  p.grad?.dispose();
  p.grad = tensor(g, { device: p.device });
};

interface PlainSettings {
  lr: number;
  decay: number;
  momentum?: number;
  nesterov?: boolean;
  betas?: [number, number];
}

/** PyTorch's SGD, or Lion where there are betas. */
class Plain {
  readonly m: number[];
  constructor(
    readonly p: number[],
    readonly o: PlainSettings,
  ) {
    this.m = p.map(() => 0);
  }
  step(g: number[], lr = this.o.lr): void {
    const { decay, betas, momentum = 0, nesterov = false } = this.o;
    g.forEach((gi, i) => {
      if (betas) {
        const c = betas[0] * this.m[i]! + (1 - betas[0]) * gi;
        this.p[i] = this.p[i]! * (1 - lr * decay) - lr * Math.sign(c);
        this.m[i] = betas[1] * this.m[i]! + (1 - betas[1]) * gi;
        return;
      }
      const d = gi + decay * this.p[i]!;
      this.m[i] = momentum * this.m[i]! + d;
      this.p[i]! -= lr * (momentum === 0 ? d : nesterov ? d + momentum * this.m[i] : this.m[i]);
    });
  }
}

describe.each(['reference', 'cpu'] as const)('on %s', (device) => {
  const cases: [string, PlainSettings, (p: Parameter[]) => SGD | Lion][] = [
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
    const want = [new Plain(values(5, 1), o), new Plain(values(3, 2), o)] as const;
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
    for (const optimizerOf of [(p: Parameter[]) => new Lion(p), (p: Parameter[]) => new SGD(p)]) {
      const p = make(1, 3, device);
      setGrad(p, [1, NaN, 1]);
      optimizerOf([p]).step();
      expect([...(await p.data())].map(Number.isNaN)).toEqual([false, true, false]);
    }
  });

  test.each([
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

const kinds = [
  [
    'SGD',
    (a: Parameter[], b: Parameter[]) =>
      new SGD([{ params: a, lr: 0.3, momentum: 0.7, nesterov: true }, { params: b }], {
        lr: 0.1,
        momentum: 0.5,
        weightDecay: 0.2,
      }),
    (a: Parameter[], b: Parameter[]) => new SGD([{ params: a }, { params: b }], { lr: 9, momentum: 0.1 }),
  ],
  [
    'Lion',
    (a: Parameter[], b: Parameter[]) =>
      new Lion([{ params: a, lr: 0.3, betas: [0.5, 0.6] }, { params: b }], { lr: 0.1, weightDecay: 0.2 }),
    (a: Parameter[], b: Parameter[]) => new Lion([{ params: a }, { params: b }], { lr: 9 }),
  ],
] as const;

describe.each(kinds)('%s', (name, first, second) => {
  test('a state of several groups and parameters goes over to another optimizer, bit for bit; twice the same', () => {
    const run = (split: boolean): string => {
      const [a, b, c] = [make(1), make(2, 3), make(3, 4)];
      let optimizer: SGD | Lion = first([a, b], [c]);
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
    const of = (o: PlainSettings): PlainSettings =>
      name === 'Lion' ? { ...o, betas: [0.9, 0.99] } : { ...o, momentum: 0.5 };
    const own =
      name === 'Lion' ? { betas: [0.5, 0.6] as [number, number] } : { momentum: 0.7, nesterov: true };
    const want = [
      new Plain(values(5, 1), { ...of({ lr: 0.15, decay: 0.2 }), ...own }),
      new Plain(values(5, 2), of({ lr: 0.05, decay: 0.2 })),
    ] as const;
    optimizer.lr = 0.05;
    for (const seed of [3, 4, 5]) {
      const g = values(5, seed);
      for (const p of [a, b]) setGrad(p, g);
      optimizer.step();
      want.forEach((w) => w.step(g));
    }
    expect(relativeError(await a.data(), want[0].p)).toBeLessThan(1e-6);
    expect(relativeError(await b.data(), want[1].p)).toBeLessThan(1e-6);
  });

  test('a state that does not fit is refused, and nothing of it is taken over', () => {
    const optimizer = second([make(1)], [make(2), make(3, 3)]);
    const saved = (): StateDict & { groups: Record<string, unknown>[] } =>
      first([make(1)], [make(2), make(3, 3)]).stateDict() as never;
    const plain = ({ lr, groups }: StateDict): string =>
      JSON.stringify([lr, (groups as object[]).map((g) => ({ ...g, m: 0, velocity: 0 }))]);
    const before = plain(optimizer.stateDict());
    const tensorName = name === 'Lion' ? 'm' : 'velocity';
    const cases: [(s: ReturnType<typeof saved>) => unknown, RegExp | string][] = [
      [(s) => s.groups.pop(), /expected a state of 2 groups but received/],
      [
        (s) => delete s.groups[1]!.weightDecay,
        `[${name}] expected weightDecay of the state but received nothing`,
      ],
      [(s) => (s.groups[1]!.weightDecay = -1), /expected weightDecay to be a finite number of at least 0/],
      [(s) => (s.groups[1]!.eps = 1), /unknown option 'eps'/],
      [(s) => (s.groups[1]!.steps = [1]), `[${name}] expected steps of 2 parameters but received [1]`],
      [
        (s) => (s.groups[1]![tensorName] = 3),
        `[${name}] expected ${tensorName} of the state to be a tensor of shape [8] but received 3`,
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
  expectThrow(() => plain.loadStateDict(moving.stateDict()), 'ERR_ARGUMENT', /unknown option 'velocity'/);
  expectThrow(
    () => moving.loadStateDict(plain.stateDict()),
    'ERR_ARGUMENT',
    /expected velocity of the state to be a tensor of shape \[5\] but received undefined/,
  );
});
