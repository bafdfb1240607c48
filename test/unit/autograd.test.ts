import {
  AdamW,
  memoryUsage,
  parameter,
  tensor,
  tidy,
  type DType,
  type MemoryUsage,
  type Tensor,
} from '../../lib/index';
import { gated, rmsNorm } from '../../lib/ops';
import { record } from '../../lib/tensor/autograd';
import { rawCast } from '../../lib/tensor/raw';
import { prepareParameters } from '../../lib/tensor/state';
import { entry } from '../../lib/native/calls';
import { expectThrow } from '../support/errors';
import { collectGarbage } from '../support/garbage';
import { list } from '../support/numbers';

const device = 'reference';

// Less when garbage of other tests goes meanwhile.
function expectNoMore(before: MemoryUsage): void {
  expect(memoryUsage().tensors).toBeLessThanOrEqual(before.tensors);
  expect(memoryUsage().bytes).toBeLessThanOrEqual(before.bytes);
}

describe('backward', () => {
  test('of the documented example', async () => {
    const x = tensor(
      [
        [1, 2],
        [3, 4],
      ],
      { device, requiresGrad: true },
    );
    const loss = x.square().mean();
    expect(await loss.item()).toBe(7.5);
    loss.backward();
    expect(await list(x.grad)).toEqual([0.5, 1, 1.5, 2]);
  });

  test('gradients accumulate over calls', async () => {
    const w = parameter(tensor([1, 2], { device }));
    w.mul(3).sum().backward();
    w.square().sum().backward();
    expect(await list(w.grad)).toEqual([5, 7]);
    expect(w.grad!.dtype).toBe('f32');
  });

  test('a tensor used several times gets the sum', async () => {
    const x = tensor([2, 3], { device, requiresGrad: true });
    const y = x.mul(x).add(x).sub(x.mul(5)); // 2x + 1 − 5
    y.sum().backward();
    expect(await list(x.grad)).toEqual([0, 2]);
  });

  test.each([
    ['itself', (a: Tensor) => a],
    ['a view', (a: Tensor) => a.reshape([2, 1]).reshape([2])],
  ])('aliased gradients stay apart: add gives both sides one, one side is %s', async (_, through) => {
    const u = tensor([1, 2], { device, requiresGrad: true });
    const v = tensor([3, 4], { device, requiresGrad: true });
    const [a, b] = [u.mul(1), v.mul(1)];
    const more = a.mul(10); // recorded before, so its gradient is added to that of the sum
    through(a).add(b).add(more).sum().backward();
    expect(await list(u.grad)).toEqual([11, 11]);
    expect(await list(v.grad)).toEqual([1, 1]);
  });

  test('leaves that one gradient reached do not share it: adding to one leaves the other', async () => {
    const a = tensor([1, 2], { device, requiresGrad: true });
    const b = tensor([3, 4], { device, requiresGrad: true });
    a.add(b).sum().backward();
    a.mul(10).sum().backward();
    expect(await list(a.grad)).toEqual([11, 11]);
    expect(await list(b.grad)).toEqual([1, 1]);
  });

  test('of a leaf with its gradient: the leaf has a copy, and adding to it leaves the original', async () => {
    const x = tensor([1, 2], { device, requiresGrad: true });
    const g = tensor([3, 4], { device });
    x.backward(g);
    x.backward(g);
    expect(await list(x.grad)).toEqual([6, 8]);
    expect(await list(g)).toEqual([3, 4]);
    g.dispose();
    expect(await list(x.grad)).toEqual([6, 8]);
  });
  test('a gradient that a leaf got through a view is not shared with the original', async () => {
    const x = tensor([1, 2], { device, requiresGrad: true });
    const g = tensor([[3], [4]], { device });
    for (let i = 0; i < 2; i++) x.reshape([2, 1]).backward(g);
    expect([await list(x.grad), await list(g)]).toEqual([
      [6, 8],
      [3, 4],
    ]);
  });

  test('takes a gradient of another float dtype', async () => {
    const x = tensor([1, 2], { device, requiresGrad: true });
    x.square().backward(tensor([1, 10], { dtype: 'bf16', device }));
    expect([x.grad!.dtype, ...(await list(x.grad))]).toEqual(['f32', 2, 40]);
  });

  test('a gradient that the program disposed or took away begins anew', async () => {
    const w = parameter(tensor([1, 2], { device }));
    w.mul(3).sum().backward();
    w.grad!.dispose();
    w.mul(5).sum().backward();
    expect(await list(w.grad)).toEqual([5, 5]);
    const kept = w.grad;
    w.grad = null;
    w.mul(7).sum().backward();
    expect([await list(kept), await list(w.grad)]).toEqual([
      [5, 5],
      [7, 7],
    ]);
  });

  test('passes over a leaf that was disposed', async () => {
    const [gone, there] = [parameter(tensor([1], { device })), parameter(tensor([2], { device }))];
    const loss = gone.mul(there).sum();
    gone.dispose();
    loss.backward();
    expect(gone.grad).toBeNull();
    expect(await list(there.grad)).toEqual([1]);
  });

  test('adds bf16 gradients of several uses in bf16', async () => {
    const x = tensor([1, 2], { dtype: 'bf16', device, requiresGrad: true });
    x.mul(3)
      .add(x)
      .add(x.reshape([2]))
      .sum()
      .backward();
    expect([x.grad!.dtype, ...(await list(x.grad))]).toEqual(['bf16', 5, 5]);
  });

  test('an op sees the gradient of its output in the dtype of the output, a leaf gets it in its own', async () => {
    const seen: string[] = [];
    const through = (x: Tensor, give: DType): Tensor => {
      const y = x.mul(1).detach();
      record([x], [y], [], ([g]) => {
        seen.push(g!.dtype);
        return [rawCast(g!, give)];
      });
      return y;
    };
    const w = parameter(tensor([1, 2], { device }));
    through(w, 'bf16').backward(tensor([3, 4], { dtype: 'bf16', device }));
    expect([seen, w.grad!.dtype, await list(w.grad)]).toEqual([['f32'], 'f32', [3, 4]]);
    // Two gradients of one output, one of them in another dtype: their sum is not read in the wrong one.
    const middle = w.mul(2);
    through(middle, 'bf16').add(middle).sum().backward();
    expect(await list(w.grad)).toEqual([7, 8]);
  });

  test('of a non-scalar with its gradient', async () => {
    const x = tensor([1, 2, 3], { device, requiresGrad: true });
    const g = tensor([1, 10, 100], { device });
    x.square().backward(g);
    expect(await list(x.grad)).toEqual([2, 40, 600]);
    expect(await list(g)).toEqual([1, 10, 100]);
    x.mul(1).backward(g);
    expect(await list(x.grad)).toEqual([3, 50, 700]);
    expect(await list(g)).toEqual([1, 10, 100]);
  });

  test('of a leaf', async () => {
    const x = tensor(3, { device, requiresGrad: true });
    x.backward();
    x.backward();
    expect(await x.grad!.item()).toBe(2);
  });

  test('mixed dtypes: gradients come in the dtype of the leaf', async () => {
    const x = tensor([1, 2], { dtype: 'bf16', device, requiresGrad: true });
    const w = parameter(tensor([3, 4], { device }));
    const y = x.mul(w);
    expect(y.dtype).toBe('f32');
    y.sum().backward();
    expect([x.grad!.dtype, ...(await list(x.grad))]).toEqual(['bf16', 3, 4]);
    expect([w.grad!.dtype, ...(await list(w.grad))]).toEqual(['f32', 1, 2]);
    const half = tensor([1], { dtype: 'f16', device }).add(tensor([1], { dtype: 'bf16', device }));
    expect(half.dtype).toBe('f32');
  });

  test('detach cuts the graph', async () => {
    const w = parameter(tensor([2], { device }));
    const y = w.square();
    y.detach().mul(w).sum().backward();
    expect(await list(w.grad)).toEqual([4]);
  });

  test('operands may be disposed before', async () => {
    const x = tensor([1, 2], { device, requiresGrad: true });
    const c = tensor([3, 4], { device });
    const y = x.mul(c);
    const z = y.square();
    const loss = z.sum();
    for (const t of [c, y, z]) t.dispose();
    loss.backward();
    expect(await list(x.grad)).toEqual([18, 64]);
  });

  test('nothing of the graph stays alive', () => {
    const w = parameter(tensor(new Float32Array(1000), { device }));
    const run = (): void => {
      const a = w.square();
      const b = a.mul(w);
      const loss = b.mean();
      a.dispose();
      b.dispose();
      loss.backward();
      loss.dispose();
    };
    run();
    const before = memoryUsage();
    run();
    expectNoMore(before);
  });

  test('nor do the gradients that were added up on the way, or shared by two leaves', () => {
    const make = (): Tensor => parameter(tensor(new Float32Array(1000), { device }));
    const [u, v] = [make(), make()];
    const run = (): void =>
      tidy(() => {
        const [a, b] = [u.mul(1), v.mul(1)];
        const sums = a.add(b).add(a.mul(2).add(a.mul(3))); // of shared gradients and of others
        sums.add(u.add(v)).sum().backward();
        u.add(v).sum().backward();
      });
    run();
    const before = memoryUsage();
    run();
    expectNoMore(before);
  });

  test.each(['mean', 'sum', 'none'] as const)('nor do labels that a %s of losses has read', (reduction) => {
    const logits = tensor(new Float32Array(1000), { device, shape: [10, 100] });
    const before = memoryUsage();
    logits.crossEntropy(Array<number>(10).fill(3), { reduction }).dispose();
    expectNoMore(before);
  });

  test('nothing of the graph stays alive when a backward function throws', () => {
    const w = parameter(tensor(new Float32Array(1000), { device }));
    const run = (): Tensor => {
      const saved = w.mul(2);
      const y = saved.square();
      const broken = tensor(0, { device });
      record([y], [broken], [y], () => {
        throw new Error('no memory');
      });
      const loss = broken.mul(1);
      for (const t of [saved, y, broken]) t.dispose();
      return loss;
    };
    const before = memoryUsage();
    const loss = run();
    expect(() => loss.backward()).toThrow('no memory');
    // The loss is not disposed, and yet it holds nothing of its graph.
    const { tensors, bytes } = memoryUsage();
    expect(tensors).toBeLessThanOrEqual(before.tensors + 1);
    expect(bytes).toBeLessThan(before.bytes + 1000);
    expect(w.grad).toBeNull();
    expectThrow(() => loss.backward(), 'ERR_ARGUMENT', /the graph was freed by an earlier backward/);
  });

  test('a record of inputs that need no gradient is released at once, any other with its graph', () => {
    const released: string[] = [];
    const make = (x: Tensor, name: string): Tensor => {
      const y = tensor([0], { device });
      record([x], [y], [], ([g]) => [g!], { release: () => void released.push(name) });
      return y;
    };
    make(tensor([1], { device }), 'no gradient');
    expect(released).toEqual(['no gradient']);
    const w = parameter(tensor([1], { device }));
    const [used, unused] = [make(w, 'used'), make(w, 'unused')];
    expect(released).toHaveLength(1);
    unused.dispose();
    expect(released).toEqual(['no gradient', 'unused']);
    used.backward();
    expect(released).toEqual(['no gradient', 'unused', 'used']);
    used.dispose();
    expect(released).toHaveLength(3);
  });

  test('a graph stays as long as one of its outputs is used', async () => {
    const w = parameter(tensor([3], { device }));
    const shared = w.square();
    const [a, b] = [shared.mul(2), shared.mul(5)];
    shared.dispose();
    a.dispose();
    b.backward();
    expect(await list(w.grad)).toEqual([30]);
  });

  test('a graph whose outputs are disposed goes without backward', () => {
    const w = parameter(tensor(new Float32Array(1000), { device }));
    const before = memoryUsage();
    const a = w.square();
    const b = a.mul(w);
    const loss = b.mean();
    for (const t of [a, b, loss]) t.dispose();
    expectNoMore(before);
  });

  test('what is cheap to compute is not held, and computed again has the same bits', async () => {
    const n = 4096;
    const values = (seed: number): Float32Array =>
      Float32Array.from({ length: n }, (_, i) => Math.sin(seed * (i + 1)));
    const [x, weight] = [tensor(values(1), { device }), tensor(values(2), { device })];
    const w = parameter(tensor(values(3), { device }));
    /** Sum of norm(x·w)·w or gated(x·w, x)·w, where the product saves its first operand or that operand's copy. */
    const loss = (kind: 'norm' | 'gated', copied: boolean): Tensor =>
      tidy(() => {
        const a = x.mul(w);
        const cheap = kind === 'norm' ? rmsNorm(a, weight, 1e-5, 'f32', 1) : gated(a, x, 'gelu_tanh');
        return (copied ? cheap.reshape([n]) : cheap).mul(w).sum();
      });
    for (const kind of ['norm', 'gated'] as const) {
      const held: number[] = [];
      const gradients: number[][] = [];
      for (const copied of [true, false]) {
        await collectGarbage(); // of other tests
        const before = memoryUsage().bytes;
        const y = loss(kind, copied);
        held.push(memoryUsage().bytes - before);
        y.backward();
        gradients.push(await list(w.grad));
        y.dispose();
        w.grad = null;
      }
      expect(held[1]).toBe(held[0]! - 4 * n);
      expect(gradients[1]).toEqual(gradients[0]);
    }
  });

  test('a long chain does not overflow the stack', () => {
    const w = parameter(tensor([1], { device }));
    const chain = (): Tensor =>
      entry(() => {
        let y: Tensor = w;
        for (let i = 0; i < 20_000; i++) {
          const next = y.reshape([1]);
          if (y !== w) y.dispose();
          y = next;
        }
        return y;
      });
    chain().dispose();
    chain().backward();
    expect(w.grad!.itemSync()).toBe(1);
  });
});

describe('backward refuses', () => {
  test('a second time', () => {
    const w = parameter(tensor([1], { device }));
    const loss = w.square().sum();
    loss.backward();
    const sentence = '[backward] the graph was freed by an earlier backward(); compute the loss again';
    expectThrow(() => loss.backward(), 'ERR_ARGUMENT', sentence);
    const shared = w.square();
    const [a, b] = [shared.sum(), shared.mean()];
    a.backward();
    expectThrow(() => b.backward(), 'ERR_ARGUMENT', sentence);
  });

  test('a graph recorded before a step that changed its parameters', async () => {
    const w = parameter(tensor([1], { device }), 'w');
    const other = parameter(tensor([1], { device }), 'other');
    const optimizer = new AdamW([w], { lr: 0.1 });
    const [early, untouched] = [w.square().sum(), other.square().sum()];
    w.mul(2).sum().backward();
    optimizer.step();
    expectThrow(
      () => early.backward(),
      'ERR_ARGUMENT',
      "[backward] the parameter 'w' was changed by a step() after this graph was recorded; compute the loss again",
    );
    // Nor is it good again where a state is loaded that holds the values of before.
    prepareParameters('load', 'it', [w], { w: tensor([1], { device }) })();
    expectThrow(() => early.backward(), 'ERR_ARGUMENT', /^\[backward\] the parameter 'w' was changed/);
    untouched.backward();
    optimizer.zeroGrad();
    w.mul(2).sum().backward();
    expect(await list(w.grad)).toEqual([2]);
  });

  test('a graph whose frozen parameter was changed: its gradients would be those of other numbers', () => {
    const w = parameter(tensor([2], { device }), 'w');
    const x = tensor([1], { device, requiresGrad: true });
    w.square().backward();
    w.requiresGrad = false; // from now on; its gradient of before is still there
    const y = x.mul(w);
    new AdamW([w]).step();
    expectThrow(
      () => y.backward(),
      'ERR_ARGUMENT',
      /^\[backward\] the parameter 'w' was changed by a step\(\)/,
    );
    expect(x.grad).toBeNull();
  });

  test('what it cannot do', () => {
    const x = tensor([1, 2], { device, requiresGrad: true });
    expectThrow(
      () => x.square().backward(),
      'ERR_ARGUMENT',
      '[backward] expected a tensor of one element, or its gradient as argument, but received [2]',
    );
    expectThrow(
      () => x.square().backward(tensor([1], { device })),
      'ERR_ARGUMENT',
      /expected g to be a float tensor of shape \[2\] but received Tensor\(f32 \[1\]/,
    );
    expectThrow(
      () => x.square().backward(tensor([1, 2], { dtype: 'i32', device })),
      'ERR_ARGUMENT',
      /expected g to be a float tensor of shape \[2\] but received Tensor\(i32 \[2\]/,
    );
    expectThrow(
      () => x.square().backward(tensor([1, 2], { device: 'cpu' })),
      'ERR_ARGUMENT',
      '[backward] expected g on reference but received one on cpu',
    );
    const gone = tensor([1, 2], { device });
    gone.dispose();
    expectThrow(() => x.square().backward(gone), 'ERR_DISPOSED', '[backward] g has been disposed');
    expectThrow(() => tensor([1], { device }).backward(), 'ERR_ARGUMENT', /depends on nothing/);
    const loss = x.sum();
    loss.dispose();
    expectThrow(() => loss.backward(), 'ERR_DISPOSED', '[backward] the tensor has been disposed');
  });

  test('integers and mixed devices in tape ops', () => {
    const i = tensor([1], { dtype: 'i32', device });
    const x = tensor([1], { device });
    expectThrow(
      () => i.add(1),
      'ERR_ARGUMENT',
      /expected the left operand to hold floats but received Tensor\(i32/,
    );
    expectThrow(() => x.mul(i), 'ERR_ARGUMENT', /expected the right operand to hold floats/);
    expectThrow(() => i.sum(), 'ERR_ARGUMENT', /expected the tensor to hold floats/);
    expectThrow(
      () => x.add(tensor([1], { device: 'cpu' })),
      'ERR_ARGUMENT',
      '[add] expected the right operand on reference but received it on cpu',
    );
    expectThrow(
      () => x.add('1' as never),
      'ERR_ARGUMENT',
      "[add] expected a tensor or a number but received '1'",
    );
    expectThrow(
      () => tensor([1, 2], { device }).add(tensor([1, 2, 3], { device })),
      'ERR_ARGUMENT',
      '[add] expected shapes that broadcast but received [2] and [3]',
    );
    expectThrow(
      () => x.matmul(x),
      'ERR_ARGUMENT',
      '[matmul] expected shapes [.., m, k] and [.., k, n] but received [1] and [1]',
    );
    expectThrow(
      () => x.reshape([2]),
      'ERR_ARGUMENT',
      '[reshape] expected a shape of 1 elements for [1] but received [2]',
    );
    expectThrow(
      () => x.sum({ axis: 0 } as never),
      'ERR_ARGUMENT',
      /unknown option 'axis'; did you mean 'dim'/,
    );
  });
});
