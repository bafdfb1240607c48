// The ops around the drawing of tokens, through their wrappers; native/test holds their numbers.
import { tensor } from '../../lib/index';
import { adjustLogits, drawnId, logProbs, maskLogits, sample, view } from '../../lib/ops';
import { expectReject, expectThrow } from '../support/errors';
import { seeded } from '../support/numbers';
import { rowsOf } from '../support/sampling';

describe.each(['reference', 'cpu'] as const)('on %s', (device) => {
  test('sampling', async () => {
    const logits = tensor(
      [
        [0, 3, 3, 1],
        [5, 0, 0, 0],
      ],
      { device },
    );
    const base = { temperature: 0, topK: 0, topP: 1, minP: 0, seed: 0, step: 0 };
    expect([...(await sample(logits, ...rowsOf([base, base], device)).data())]).toEqual([1, 0]);
    const counts = [0, 0, 0, 0];
    const row = view(logits, 0, [1, 4]);
    for (let step = 0; step < 400; step++) {
      const rows = rowsOf([{ ...base, temperature: 1, topK: 3, step }], device);
      counts[(await sample(row, ...rows).data())[0]!]!++;
    }
    expect(counts[0]).toBe(0); // the fourth largest
    expect(counts[1]! + counts[2]!).toBeGreaterThan(320);
    expect(Math.min(counts[1]!, counts[2]!)).toBeGreaterThan(130);
  });

  test('rows are sampled by rules, seeds and steps of their own', async () => {
    const logits = seeded([4, 50], 3, { device });
    const rules = [
      { temperature: 0, topK: 0, topP: 1, minP: 0, seed: 1, step: 0 },
      { temperature: 1, topK: 5, topP: 0.9, minP: 0, seed: 2 ** 40 + 3, step: 7 },
      { temperature: 2, topK: 0, topP: 1, minP: 0.2, seed: 2, step: 1 },
      { temperature: 1, topK: 0, topP: 1, minP: 0, seed: 2 ** 53 - 1, step: 2 ** 32 - 1 },
    ];
    const ids = [...(await sample(logits, ...rowsOf(rules, device)).data())];
    for (const [i, rule] of rules.entries()) {
      const alone = await sample(view(logits, 50 * i, [1, 50]), ...rowsOf([rule], device)).data();
      expect([...alone]).toEqual([ids[i]]);
    }
    const [reals, wholes] = rowsOf([{ ...rules[0]!, topK: 2 ** 40 }], device);
    expect((await wholes.data())[0]).toBe(2 ** 31 - 1);
    expect((await sample(view(logits, 0, [1, 50]), reals, wholes).data())[0]).toBe(ids[0]);
  });

  test('a row from which nothing can be drawn', async () => {
    const bad = [
      [0, NaN, 1],
      [0, 1, Infinity],
      [-Infinity, -Infinity, -Infinity],
      [0, 2, 1],
    ];
    const rule = { temperature: 0, topK: 0, topP: 1, minP: 0, seed: 0, step: 0 };
    const ids = await sample(tensor(bad, { device }), ...rowsOf([rule, rule, rule, rule], device)).data();
    expectThrow(() => drawnId(ids[0]!), 'ERR_NON_FINITE', '[sample] logits hold NaN or Infinity at token 1');
    expectThrow(() => drawnId(ids[1]!), 'ERR_NON_FINITE', '[sample] logits hold NaN or Infinity at token 2');
    expectThrow(
      () => drawnId(ids[2]!),
      'ERR_NON_FINITE',
      '[sample] expected a finite logit but all are -Infinity',
    );
    expect(drawnId(ids[3]!)).toBe(1);
    const wrong = rowsOf([{ ...rule, temperature: -1 }], device);
    await expectReject(
      sample(tensor([[1, 2]], { device }), ...wrong).data(),
      'ERR_DATA',
      '[sample] expected temperature of 0 (greedy) or more in row 0 but received -1',
    );
  });

  test('logits are adjusted in place', async () => {
    const values = [
      [2, -2, 0],
      [1, 4, 3],
    ];
    const logits = tensor(values, { device });
    const entries = {
      rows: Int32Array.of(0, 0, 1),
      ids: Int32Array.of(0, 1, 2),
      factors: Float32Array.of(2, 2, 1),
      addends: Float32Array.of(0, 0.5, -Infinity),
    };
    adjustLogits(logits, entries);
    expect([...(await logits.data())]).toEqual([1, -3.5, 0, 1, 4, -Infinity]);
    const none = new Int32Array(0);
    adjustLogits(logits, {
      rows: none,
      ids: none,
      factors: new Float32Array(0),
      addends: new Float32Array(0),
    });
    expect((await logits.data())[0]).toBe(1);
    adjustLogits(logits, { ...entries, ids: Int32Array.of(0, 3, 2) });
    await expectReject(
      logits.data(),
      'ERR_DATA',
      /^\[adjust_logits\] expected ids from 0 to 2 .* received 3/,
    );
    expectThrow(
      () => adjustLogits(tensor(values, { device }), { ...entries, ids: Int32Array.of(0) }),
      'ERR_ARGUMENT',
      '[adjust_logits] expected arrays of one length but received 3, 1, 3, 3',
    );
  });

  test('tokens are masked', async () => {
    const logits = seeded([2, 40], 5, { device });
    const before = await logits.data();
    maskLogits(logits, tensor(Int32Array.of(-1, 0xf0, 5, -1), { shape: [2, 2], device }));
    const after = await logits.data();
    const stays = (row: number, v: number): boolean =>
      row === 0 ? v < 32 || v >= 36 : v === 0 || v === 2 || v >= 32;
    for (let i = 0; i < 80; i++)
      expect(after[i]).toBe(stays(Math.floor(i / 40), i % 40) ? before[i] : -Infinity);
  });

  test('log-probabilities of the drawn token and of the likeliest', async () => {
    const logits = tensor([[0, Math.log(2), Math.log(4), 0]], { device });
    const drawn = tensor(Int32Array.of(3), { device });
    const [values, ids] = logProbs(logits, drawn, 2);
    expect([values.shape, ids.shape]).toEqual([
      [1, 3],
      [1, 3],
    ]);
    expect([...(await ids.data())]).toEqual([3, 2, 1]);
    for (const [i, p] of [1 / 8, 1 / 2, 1 / 4].entries())
      expect((await values.data())[i]).toBeCloseTo(Math.log(p), 5);
    expectThrow(
      () => logProbs(logits, drawn, 5),
      'ERR_ARGUMENT',
      '[log_probs] expected n from 0 to 4 (vocab) but received 5',
    );
  });
});
