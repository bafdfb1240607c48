import { AdamW, clipGradNorm, parameter, tensor, type Parameter } from '../../lib/index';
import { expectThrow } from '../support/errors';
import { relativeError, values } from '../support/numbers';

const device = 'reference';
const make = (seed: number, n = 5, name = ''): Parameter =>
  parameter(tensor(values(n, seed), { device }), name);
const setGrad = (p: Parameter, g: number[]): void => {
  p.grad?.dispose();
  p.grad = tensor(g, { device });
};

/** AdamW in doubles, as its doc comment has it. */
class Plain {
  m: number[];
  v: number[];
  t = 0;
  constructor(
    readonly p: number[],
    readonly o = { lr: 1e-3, b1: 0.9, b2: 0.999, eps: 1e-8, decay: 0.01 },
  ) {
    this.m = p.map(() => 0);
    this.v = p.map(() => 0);
  }
  step(g: number[], lr = this.o.lr): void {
    const { b1, b2, eps, decay } = this.o;
    this.t++;
    g.forEach((gi, i) => {
      this.p[i]! *= 1 - lr * decay;
      this.m[i] = b1 * this.m[i]! + (1 - b1) * gi;
      this.v[i] = b2 * this.v[i]! + (1 - b2) * gi * gi;
      this.p[i]! -=
        ((lr / (1 - b1 ** this.t)) * this.m[i]) / (Math.sqrt(this.v[i] / (1 - b2 ** this.t)) + eps);
    });
  }
}

describe('AdamW', () => {
  test('follows the formula', async () => {
    const [a, b] = [make(1), make(2, 3)];
    const o = { lr: 0.05, b1: 0.8, b2: 0.95, eps: 1e-6, decay: 0.1 };
    const want = [new Plain(values(5, 1), o), new Plain(values(3, 2), o)] as const;
    const optimizer = new AdamW([a, b], { lr: 0.05, betas: [0.8, 0.95], eps: 1e-6, weightDecay: 0.1 });
    for (let i = 0; i < 20; i++) {
      optimizer.lr = 0.05 / (i + 1);
      const [ga, gb] = [values(5, 50 + i), values(3, 90 + i)];
      setGrad(a, ga);
      want[0].step(ga, optimizer.lr);
      if (i % 3 !== 1) {
        setGrad(b, gb);
        want[1].step(gb, optimizer.lr); // skipped without a gradient, its count too
      }
      optimizer.step();
      optimizer.zeroGrad();
      expect([a.grad, b.grad]).toEqual([null, null]);
    }
    expect(relativeError(await a.data(), want[0].p)).toBeLessThan(1e-5);
    expect(relativeError(await b.data(), want[1].p)).toBeLessThan(1e-5);
    expect([a.version, b.version]).toEqual([20, 13]);
  });

  test('groups have settings of their own, and lr scales them alike', async () => {
    const [a, b] = [make(1), make(2)];
    const optimizer = new AdamW([{ params: [a], lr: 0.02, weightDecay: 0 }, { params: [b] }], { lr: 0.01 });
    const want = [
      new Plain(values(5, 1), { lr: 0.01, b1: 0.9, b2: 0.999, eps: 1e-8, decay: 0 }),
      new Plain(values(5, 2), { lr: 0.005, b1: 0.9, b2: 0.999, eps: 1e-8, decay: 0.01 }),
    ] as const;
    optimizer.lr = 0.005;
    const g = values(5, 3);
    setGrad(a, g);
    setGrad(b, g);
    optimizer.step();
    want.forEach((w) => w.step(g));
    expect(relativeError(await a.data(), want[0].p)).toBeLessThan(1e-6);
    expect(relativeError(await b.data(), want[1].p)).toBeLessThan(1e-6);
  });

  test('a state goes over to another optimizer, bit for bit', () => {
    const run = (split: boolean): string => {
      const p = make(1);
      let optimizer = new AdamW([p], { lr: 0.1 });
      for (let i = 0; i < 6; i++) {
        if (split && i === 3) {
          const next = new AdamW([p], { lr: 9, betas: [0.1, 0.1] });
          next.loadStateDict(optimizer.stateDict());
          optimizer.dispose();
          optimizer = next;
        }
        setGrad(p, values(5, i));
        optimizer.step();
      }
      return Buffer.from(p.bytesSync()).toString('hex');
    };
    expect(run(true)).toBe(run(false));
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
      [() => new AdamW([tensor([1], { device }) as never]), /expected parameter 0 to be a Parameter/],
      [
        () => new AdamW([p], { lr: -1 }),
        '[AdamW] expected lr to be a finite number of at least 0 but received -1',
      ],
      [() => new AdamW([p], { betas: [1, 0.9] }), /expected betas to be two numbers/],
      [() => (new AdamW([p]).lr = NaN), /expected lr to be a finite number/],
    ];
    for (const [fn, sentence] of cases) expectThrow(fn, 'ERR_ARGUMENT', sentence);
  });

  test('disposed', () => {
    const p = make(1, 5, 'p');
    const optimizer = new AdamW([p]);
    setGrad(p, values(5));
    p.dispose();
    expectThrow(() => optimizer.step(), 'ERR_DISPOSED', "[AdamW] parameter 'p' has been disposed");
    optimizer.dispose();
    optimizer.dispose();
    expect(optimizer.disposed).toBe(true);
    expectThrow(() => optimizer.step(), 'ERR_DISPOSED', '[AdamW] step: the optimizer has been disposed');
  });
});

describe('clipGradNorm', () => {
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
  });
  test('bad arguments', () => {
    expectThrow(
      () => clipGradNorm([make(1)], 0),
      'ERR_ARGUMENT',
      '[clipGradNorm] expected maxNorm to be a number above 0 but received 0',
    );
    expectThrow(
      () => clipGradNorm(3 as never, 1),
      'ERR_ARGUMENT',
      /expected a list of parameters but received 3/,
    );
  });
});
