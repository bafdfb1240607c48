import { keep, memoryUsage, noGrad, parameter, tensor, tidy, type Tensor } from '../../lib/index';
import { expectThrow } from '../support/errors';

const device = 'reference';
const make = (n = 1): Tensor => tensor([n], { device });
const tick = (ms = 1): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

describe('tidy', () => {
  test('frees what was made inside and keeps what it returns, nested too', async () => {
    const made: Record<string, Tensor> = {};
    const out = tidy(() => {
      for (const name of ['gone', 'list', 'map', 'object', 'set', 'kept']) made[name] = make();
      keep(made.kept!);
      return {
        list: [[made.list]],
        map: new Map([['x', made.map]]),
        deep: { object: made.object },
        set: new Set([made.set]),
      };
    });
    expect(made.gone!.disposed).toBe(true);
    for (const name of ['list', 'map', 'object', 'set', 'kept']) expect(made[name]!.disposed).toBe(false);
    expect(await out.list[0]![0]!.item()).toBe(1);
  });

  test('a result of an inner scope belongs to the outer one', () => {
    let inner: Tensor | undefined;
    const result = tidy(() => {
      inner = tidy(() => make());
      expect(inner.disposed).toBe(false);
      return 3;
    });
    expect(result).toBe(3);
    expect(inner!.disposed).toBe(true);
  });

  test('takes async functions', async () => {
    let gone: Tensor | undefined;
    const y = await tidy(async () => {
      gone = make(2);
      await tick();
      const square = gone.square();
      await tick();
      return square;
    });
    expect(gone!.disposed).toBe(true);
    expect(await y.item()).toBe(4);
  });

  test('overlapping scopes do not touch each other', async () => {
    const run = (ms: number): Promise<{ inside: Tensor; out: Tensor }> =>
      tidy(async () => {
        const inside = make(ms);
        await tick(ms);
        const out = inside.add(1);
        await tick(ms);
        expect(inside.disposed).toBe(false);
        return { inside: keep(inside), out };
      });
    const [a, b] = await Promise.all([run(3), run(8), run(1)]);
    expect(await a.out.item()).toBe(4);
    expect(await b.out.item()).toBe(9);
    const outside = make(5);
    const pending = tidy(async () => {
      await tick(2);
      return make();
    });
    const later = make(6); // made while the scope is open, but not inside
    (await pending).dispose();
    expect([outside.disposed, later.disposed]).toEqual([false, false]);
  });

  test('frees when the function throws or rejects', async () => {
    const made: Tensor[] = [];
    expect(() =>
      tidy(() => {
        made.push(make());
        throw new Error('no');
      }),
    ).toThrow('no');
    await expect(
      tidy(async () => {
        made.push(make());
        await tick();
        throw new Error('later');
      }),
    ).rejects.toThrow('later');
    expect(made.map((t) => t.disposed)).toEqual([true, true]);
  });

  test('leaves parameters and gradients alone', async () => {
    const w = tidy(() => {
      const w = parameter(make(3));
      w.square().sum().backward();
      return { w };
    }).w;
    expect(await w.grad!.item()).toBe(6);
    let hidden: Tensor | undefined;
    tidy(() => {
      hidden = parameter(make(3));
    });
    expect(hidden!.disposed).toBe(false);
  });

  test('a returned loss can still run backward', async () => {
    const w = parameter(make(3));
    const loss = tidy(() => w.mul(2).square().sum());
    loss.backward();
    expect(await w.grad!.item()).toBe(24);
  });

  test('what outlives its scope belongs to the next one outside', async () => {
    let late: Promise<Tensor> | undefined;
    await tidy(async () => {
      tidy(() => {
        late = tick(5).then(() => make());
      });
      await late;
    });
    expect((await late!).disposed).toBe(true);
  });

  test('gives all memory back', () => {
    const before = memoryUsage();
    tidy(() => {
      const x = make().mul(3).add(1).square();
      x.sum();
    });
    expect(memoryUsage().tensors).toBeLessThanOrEqual(before.tensors); // less when older garbage goes
    expect(memoryUsage().bytes).toBeLessThanOrEqual(before.bytes);
  });

  test('frees what only an instance of a class holds, and what sits in a typed view', () => {
    class Holder {
      constructor(readonly held: Tensor) {}
    }
    const { held } = tidy(() => new Holder(make()));
    expect(held.disposed).toBe(true);
    const bare = tidy(() => Object.assign(Object.create(null) as { held: Tensor }, { held: make() }));
    expect(bare.held.disposed).toBe(false);
  });

  test('follows a result that holds itself, and the keys of a map', () => {
    interface Ring {
      self?: Ring;
      inside: Tensor;
      keys: Map<Tensor, number>;
    }
    const ring = tidy(() => {
      const out: Ring = { inside: make(), keys: new Map([[make(), 1]]) };
      out.self = out;
      return out;
    });
    expect(ring.inside.disposed).toBe(false);
    expect([...ring.keys.keys()][0]!.disposed).toBe(false);
  });

  test('a tensor that was disposed inside, or kept in an inner scope, is no longer its business', () => {
    let kept: Tensor | undefined;
    tidy(() => {
      make().dispose();
      tidy(() => {
        kept = keep(make());
      });
      expect(kept!.disposed).toBe(false);
    });
    expect(kept!.disposed).toBe(false);
  });

  test('frozen tensors are freed and passed on as others are; keep() leaves objects of the program as they are', () => {
    const frozen = (): Tensor => {
      const made = make();
      Object.freeze(made);
      return made;
    };
    let gone: Tensor | undefined;
    const passed = tidy(() => {
      gone = frozen();
      return tidy(frozen);
    });
    expect([gone!.disposed, passed.disposed]).toEqual([true, false]);
    const own = Object.freeze({ dispose: () => undefined });
    expect(keep(own)).toBe(own);
    const open = { dispose: () => undefined };
    expect(Reflect.ownKeys(keep(open))).toEqual(['dispose']);
  });

  test('a result of three scopes belongs to the outermost, whatever lies between', () => {
    let passed: Tensor | undefined;
    tidy(() => {
      tidy(() => {
        passed = tidy(() => make());
        return passed;
      });
      expect(passed!.disposed).toBe(false);
    });
    expect(passed!.disposed).toBe(true);
  });

  test('takes any thenable, also a function that is one', async () => {
    let inside: Tensor | undefined;
    const later = tidy(() => {
      inside = make();
      const then = (resolve: (value: number) => void): void => void setTimeout(() => resolve(7), 2);
      return Object.assign(() => undefined, { then });
    });
    expect(inside!.disposed).toBe(false);
    expect(await (later as unknown as PromiseLike<number>)).toBe(7);
    expect(inside!.disposed).toBe(true);
  });

  test('wants a function', () => {
    expectThrow(() => keep(3 as never), 'ERR_ARGUMENT', '[keep] expected a tensor but received 3');
    expectThrow(() => tidy(3 as never), 'ERR_ARGUMENT', '[tidy] expected a function but received 3');
    expectThrow(
      () => noGrad(null as never),
      'ERR_ARGUMENT',
      '[noGrad] expected a function but received null',
    );
  });
});

describe('noGrad', () => {
  test('records nothing, sync and async, and only inside', async () => {
    const w = parameter(make(3));
    expect(noGrad(() => w.square()).requiresGrad).toBe(false);
    const pending = noGrad(async () => {
      await tick(3);
      return w.square();
    });
    expect(w.square().requiresGrad).toBe(true);
    const quiet = await pending;
    expect(quiet.requiresGrad).toBe(false);
    expectThrow(
      () => quiet.backward(),
      'ERR_ARGUMENT',
      '[backward] this tensor depends on nothing that requires a gradient',
    );
    expect(w.square().requiresGrad).toBe(true);
  });
  test('tensors made inside belong to the tidy() outside', () => {
    let inside: Tensor | undefined;
    tidy(() => {
      inside = noGrad(() => make());
      expect(inside.disposed).toBe(false);
    });
    expect(inside!.disposed).toBe(true);
  });
  test('ends with a function that throws', () => {
    const w = parameter(make(3));
    expect(() =>
      noGrad(() => {
        throw new Error('no');
      }),
    ).toThrow('no');
    expect(w.square().requiresGrad).toBe(true);
  });
  test('tidy inside keeps it', () => {
    const w = parameter(make(3));
    noGrad(() => tidy(() => expect(w.square().requiresGrad).toBe(false)));
  });
});
