// The class AdamW, clipping, and what every optimizer has of the class that they share. What each computes, and its state:
// optimizers.test.ts.
import { inspect } from 'node:util';
import {
  AdamW,
  clipGradNorm,
  memoryUsage,
  parameter,
  tensor,
  type Parameter,
  type StateDict,
} from '../../lib/index';
import { expectThrow } from '../support/errors';
import { collectGarbage } from '../support/garbage';
import { bits, list, relativeError, values } from '../support/numbers';
import { PlainOptimizer, seededParameter, setGrad } from '../support/optimizers';

const device = 'reference';
const make = (seed: number, n = 5, name = ''): Parameter => seededParameter(seed, n, { device, name });

describe('AdamW', () => {
  test('the defaults: lr 1e-3, betas [0.9, 0.999], eps 1e-8, weightDecay 0.01', async () => {
    const p = make(1);
    const optimizer = new AdamW([p]);
    expect(optimizer.lr).toBe(1e-3);
    const want = new PlainOptimizer(values(5, 1), { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, decay: 0.01 });
    for (let i = 0; i < 3; i++) {
      setGrad(p, values(5, i));
      optimizer.step();
      want.step(values(5, i));
    }
    expect(relativeError(await p.data(), want.p)).toBeLessThan(1e-6);
    const [{ betas, eps, weightDecay }] = optimizer.stateDict().groups as [Record<string, unknown>];
    expect({ betas, eps, weightDecay }).toEqual({ betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0.01 });
  });

  test('a group whose lr is 0 stays as it is, at every lr of the optimizer', () => {
    const [still, moving] = [make(1), make(2)];
    const before = [bits(still), bits(moving)];
    const optimizer = new AdamW([{ params: [still], lr: 0 }, { params: [moving] }], { lr: 0.1 });
    optimizer.lr = 0.5;
    for (const p of [still, moving]) setGrad(p, values(5, 3));
    optimizer.step();
    expect(bits(still)).toBe(before[0]);
    expect(bits(moving)).not.toBe(before[1]);
  });

  test('an optimizer with lr 0 changes nothing until its lr is set, unless a group asks for one', () => {
    const p = make(1);
    const before = bits(p);
    const optimizer = new AdamW([{ params: [p], lr: 0 }], { lr: 0 });
    setGrad(p, values(5, 3));
    optimizer.step();
    expect(bits(p)).toBe(before);
    expectThrow(
      () => new AdamW([{ params: [p], lr: 0.1 }], { lr: 0 }),
      'ERR_ARGUMENT',
      '[AdamW] expected the lr of the optimizer to be above 0 when a group has its own',
    );
    const plain = new AdamW([p], { lr: 0 });
    plain.lr = 0.1;
    plain.step();
    expect(bits(p)).not.toBe(before);
  });

  test('a parameter whose gradient was disposed is left as it is', () => {
    const [a, b] = [make(1), make(2)];
    const before = bits(a);
    const optimizer = new AdamW([a, b]);
    for (const p of [a, b]) setGrad(p, values(5, 3));
    a.grad!.dispose();
    optimizer.step();
    expect(bits(a)).toBe(before);
    expect([a.version, b.version]).toEqual([0, 1]);
  });

  test('a state that does not fit is refused, and nothing of it is taken over', () => {
    const make2 = (): AdamW => new AdamW([{ params: [make(1)] }, { params: [make(2), make(3, 3)] }]);
    const optimizer = make2();
    const saved = (): StateDict & { groups: Record<string, unknown>[] } => {
      const other = new AdamW(
        [
          { params: [make(1)], lr: 5, betas: [0.1, 0.2], eps: 1, weightDecay: 1 },
          { params: [make(2), make(3, 3)] },
        ],
        { lr: 7 },
      );
      return other.stateDict() as never;
    };
    const plain = ({ lr, groups }: StateDict): unknown =>
      JSON.stringify([lr, (groups as Record<string, unknown>[]).map((g) => ({ ...g, m: 0, v: 0 }))]);
    const before = plain(optimizer.stateDict());
    const second = (change: object) => (s: ReturnType<typeof saved>) => Object.assign(s.groups[1]!, change);
    const short = tensor(values(7), { device });
    const cases: [(s: ReturnType<typeof saved>) => unknown, RegExp | string][] = [
      [
        (s) => (s.lr = -1),
        '[AdamW] expected lr of the state to be a finite number of at least 0 but received -1',
      ],
      [(s) => s.groups.pop(), /^\[AdamW\] expected a state of 2 groups but received/],
      [(s) => Object.assign(s, { groups: undefined }), /expected a state of 2 groups but received undefined/],
      [(s) => Object.assign(s, { step: 1 }), /unknown option 'step'/],
      [second({ rate: 1 }), /unknown option 'rate'/],
      [
        second({ factor: NaN }),
        /expected factor of the state to be a finite number of at least 0 but received NaN/,
      ],
      [second({ betas: [0.9] }), /expected betas to be two numbers/],
      [second({ eps: -1 }), /expected eps to be a finite number of at least 0/],
      [second({ weightDecay: -1 }), /expected weightDecay to be a finite number of at least 0/],
      [second({ steps: [1] }), '[AdamW] expected steps of 2 parameters but received [1]'],
      [
        second({ steps: [1, 0.5] }),
        /expected steps of the state to be an integer of at least 0 but received 0\.5/,
      ],
      [
        second({ m: short }),
        '[AdamW] expected m of the state to be a tensor of shape [8] but received a tensor f32 [7]',
      ],
      [second({ v: 3 }), '[AdamW] expected v of the state to be a tensor of shape [8] but received 3'],
    ];
    for (const [spoil, sentence] of cases) {
      const state = saved();
      spoil(state);
      expectThrow(() => optimizer.loadStateDict(state), 'ERR_ARGUMENT', sentence);
      expect(plain(optimizer.stateDict())).toBe(before);
    }
    const gone = saved();
    (gone.groups[1]!.m as ReturnType<typeof tensor>).dispose();
    expectThrow(
      () => optimizer.loadStateDict(gone),
      'ERR_DISPOSED',
      '[AdamW] m of the state has been disposed',
    );
    optimizer.loadStateDict(saved());
    expect(plain(optimizer.stateDict())).not.toBe(before);
    expect(optimizer.lr).toBe(7);
  });

  test('bad arguments', () => {
    const p = make(1, 5, 'p');
    const cases: [() => unknown, RegExp | string][] = [
      [
        () => new AdamW([p], { learningRate: 1 } as never),
        "[AdamW] unknown option 'learningRate'; did you mean 'lr'?",
      ],
      [() => new AdamW([{ params: [p], rate: 1 } as never]), /unknown option 'rate'/],
      [() => new AdamW([]), '[AdamW] expected at least one parameter but received []'],
      [() => new AdamW([p, p]), "[AdamW] parameter 'p' is listed twice"],
      [() => new AdamW([{ params: [p] }, { params: [p] }]), '[AdamW] a parameter is in two groups'],
      [
        () => new AdamW({ parameters: () => [p] } as never),
        '[AdamW] expected a list of parameters but received an object: pass its parameters()',
      ],
      [() => new AdamW('abc' as never), "[AdamW] expected a list of parameters but received 'abc'"],
      [
        () => new AdamW([null] as never),
        '[AdamW] expected parameter 0 to be a Parameter (see parameter(x)) but received null',
      ],
      [() => new AdamW(undefined as never), '[AdamW] expected a list of parameters but received undefined'],
      [() => new AdamW([tensor([1], { device }) as never]), /expected parameter 0 to be a Parameter/],
      [
        () => new AdamW([p], { lr: -1 }),
        '[AdamW] expected lr to be a finite number of at least 0 but received -1',
      ],
      [() => new AdamW([p], { betas: [1, 0.9] }), /expected betas to be two numbers/],
      [() => new AdamW([p], { betas: [0.9] as never }), /expected betas to be two numbers/],
      [() => new AdamW([p], { betas: Array(2) as never }), /expected betas to be two numbers/],
      [() => new AdamW([p], { betas: [0.9, -0.1] }), /expected betas to be two numbers/],
      [() => new AdamW([p], { eps: -1 }), /expected eps to be a finite number of at least 0 but received -1/],
      [() => new AdamW([{ params: [p], weightDecay: -1 }]), /expected weightDecay to be a finite number/],
      [() => new AdamW([{ params: [p], lr: -1 }]), /expected lr to be a finite number of at least 0/],
      [() => new AdamW([{ params: [] }]), '[AdamW] expected at least one parameter in a group'],
      [() => (new AdamW([p]).lr = NaN), /expected lr to be a finite number/],
      [() => (new AdamW([p]).lr = -1), /expected lr to be a finite number of at least 0/],
      [
        () => new AdamW([p, parameter(tensor([1], { device: 'cpu' }), 'q')]),
        "[AdamW] expected parameter 'q' on reference but received it on cpu",
      ],
    ];
    for (const [fn, sentence] of cases) expectThrow(fn, 'ERR_ARGUMENT', sentence);
  });

  test('a disposed parameter is an error before anything is updated', () => {
    const [first, p] = [make(1), make(2, 5, 'p')];
    const optimizer = new AdamW([{ params: [first] }, { params: [p] }]);
    for (const q of [first, p]) setGrad(q, values(5));
    const before = bits(first);
    p.dispose();
    expectThrow(() => optimizer.step(), 'ERR_DISPOSED', "[AdamW] parameter 'p' has been disposed");
    expect(bits(first)).toBe(before);
    expect(first.version).toBe(0);
  });

  test('zeroGrad frees the gradients, and dispose the moments', async () => {
    await collectGarbage(); // of other tests
    const p = parameter(tensor(new Float32Array(1 << 14), { device }));
    const before = memoryUsage();
    const optimizer = new AdamW([p]);
    p.grad = tensor(new Float32Array(1 << 14), { device });
    const { grad } = p;
    optimizer.zeroGrad();
    expect([grad.disposed, p.grad]).toEqual([true, null]);
    expect(memoryUsage().bytes).toBeGreaterThan(before.bytes);
    optimizer.dispose();
    expect(memoryUsage().bytes).toBeLessThanOrEqual(before.bytes + 1000);
  });

  test('a disposed optimizer', () => {
    const optimizer = new AdamW([make(1)]);
    const state = optimizer.stateDict();
    optimizer.dispose();
    optimizer.dispose();
    expect(optimizer.disposed).toBe(true);
    const calls = {
      step: () => optimizer.step(),
      zeroGrad: () => optimizer.zeroGrad(),
      stateDict: () => optimizer.stateDict(),
      loadStateDict: () => optimizer.loadStateDict(state),
    };
    for (const [name, call] of Object.entries(calls))
      expectThrow(call, 'ERR_DISPOSED', `[AdamW] ${name}: the optimizer has been disposed`);
  });
});

test('what an optimizer says of itself, and the end of its scope', () => {
  let left: AdamW;
  {
    using optimizer = new AdamW([make(3, 3), make(4, 4)], { lr: 0.5 });
    expect(String(optimizer)).toBe('AdamW(lr 0.5, 7 parameters in 1 group)');
    expect(inspect(optimizer)).toBe(String(optimizer));
    expect(JSON.stringify(optimizer)).toBe(JSON.stringify(String(optimizer)));
    const two = new AdamW([{ params: [make(1, 1)] }, { params: [make(2, 2)] }]);
    expect(String(two)).toBe('AdamW(lr 0.001, 3 parameters in 2 groups)');
    two.dispose();
    left = optimizer;
  }
  expect(left.disposed).toBe(true);
});

describe('clipGradNorm', () => {
  test('what is no list of parameters', () => {
    for (const [wrong, words] of [
      ['abc', "'abc'"],
      [5, '5'],
      [{}, 'an object'],
    ] as const)
      expectThrow(
        () => clipGradNorm(wrong as never, 1),
        'ERR_ARGUMENT',
        `[clipGradNorm] expected a list of parameters but received ${words}`,
      );
  });

  test('scales all gradients by one factor and gives the norm before', async () => {
    const [a, b, c] = [make(1, 1), make(2, 2), make(3)];
    setGrad(a, [3]);
    setGrad(b, [0, 4]);
    expect(await clipGradNorm([a, b, c], 1).item()).toBe(5);
    expect(relativeError(await a.grad!.data(), [3 / (5 + 1e-6)])).toBeLessThan(1e-6);
    expect(relativeError(await b.grad!.data(), [0, 4 / (5 + 1e-6)])).toBeLessThan(1e-6);
    expect(c.grad).toBeNull();
    setGrad(a, [0.1]);
    setGrad(b, [0, 0]);
    expect(await clipGradNorm([a, b], 1).item()).toBeCloseTo(0.1, 7);
    expect([...(await a.grad!.data())]).toEqual([Math.fround(0.1)]);
  });
  test('without gradients the norm is 0', async () => {
    expect(await clipGradNorm([make(1)], 1).item()).toBe(0);
    const none = clipGradNorm([], 1);
    expect([none.device, none.shape, await none.item()]).toEqual(['cpu', [], 0]);
  });
  test('a gradient that was disposed counts nothing', async () => {
    const [a, b] = [make(1, 1), make(2, 2)];
    setGrad(a, [100]);
    setGrad(b, [3, 4]);
    a.grad!.dispose();
    expect(await clipGradNorm([a, b], Infinity).item()).toBe(5);
    expect(await clipGradNorm([a], 1).item()).toBe(0);
  });
  test('a maxNorm of Infinity only measures', async () => {
    const p = make(1, 2);
    setGrad(p, [3e10, 4e10]);
    expect(await clipGradNorm([p], Infinity).item()).toBe(Math.fround(5e10));
    expect(await list(p.grad)).toEqual([3e10, 4e10].map(Math.fround));
  });
  test('takes any list, and a norm in (0, 1) as well', async () => {
    const p = make(1, 2);
    setGrad(p, [3, 4]);
    expect(await clipGradNorm(new Set([p]), 0.5).item()).toBe(5);
    expect(relativeError(await list(p.grad), [0.3, 0.4])).toBeLessThan(1e-6);
  });
  test('bad arguments', () => {
    expectThrow(
      () => clipGradNorm([make(1)], 0),
      'ERR_ARGUMENT',
      '[clipGradNorm] expected maxNorm to be a number above 0 but received 0',
    );
    for (const bad of [-1, NaN, '1'])
      expectThrow(
        () => clipGradNorm([make(1)], bad as number),
        'ERR_ARGUMENT',
        /expected maxNorm to be a number above 0/,
      );
    const gone = make(1);
    gone.dispose();
    expectThrow(
      () => clipGradNorm([make(1), gone], 1),
      'ERR_DISPOSED',
      '[clipGradNorm] parameter 1 has been disposed',
    );
    expectThrow(
      () => clipGradNorm(3 as never, 1),
      'ERR_ARGUMENT',
      /expected a list of parameters but received 3/,
    );
  });
});
