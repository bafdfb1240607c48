import { memoryUsage, noGrad, tensor, type Tensor } from '../../lib/index';
import { DeltaTable } from '../../lib/linear/delta_table';
import { binding } from '../../lib/native/calls';
import { loraLinear, loraLinearGroup } from '../../lib/ops';
import { FrozenWeight } from '../../lib/tensor/frozen_weight';
import { expectThrow } from '../support/errors';
import { bits, relativeError, roundToBf16, seeded } from '../support/numbers';

const [inFeatures, outFeatures] = [6, 5];
const site = { inFeatures, outFeatures };

describe.each(['cpu', 'reference'] as const)('a table of changes on %s', (device) => {
  const weight = FrozenWeight.pack(seeded([outFeatures, inFeatures], 1, { device }));
  const x = seeded([3, inFeatures], 2, { device });
  const change = (r: number, seed: number): { up: Tensor; down: Tensor; scale: number } => ({
    up: seeded([outFeatures, r], seed, { device }),
    down: seeded([r, inFeatures], seed + 1, { device }),
    scale: seed / 4,
  });
  const slotsOf = (slots: number[]): Tensor =>
    tensor(Int32Array.from(slots), { shape: [slots.length], dtype: 'i32', device });
  const forward = (table: DeltaTable, slots: number[]): Tensor =>
    loraLinearGroup(x, [{ weight, site: 0 }], {
      phase: 'decode',
      rows: { table, slots: slotsOf(slots) },
    })[0]!;
  const row = (y: Tensor, i: number): string => bits(y).slice(i * 8 * outFeatures, (i + 1) * 8 * outFeatures);

  test('gives every row the change of its slot, from the tensors that it holds', () => {
    const table = new DeltaTable(device, [site], { slots: 2, maxRank: 4 });
    const [a, b] = [change(4, 3), change(1, 5)];
    const alone = [undefined, a, b].map(
      (each) => loraLinearGroup(x, [{ weight, ...each }], { phase: 'decode' })[0]!,
    );
    table.set(0, [a]);
    table.set(1, [b]);
    for (const t of [a.up, a.down, b.up, b.down]) t.dispose();
    const y = forward(table, [1, -1, 0]);
    expect([0, 1, 2].map((i) => row(y, i))).toEqual([
      row(alone[2]!, 0),
      row(alone[0]!, 1),
      row(alone[1]!, 2),
    ]);
    table.set(1, null);
    expect(row(forward(table, [1, 1, 1]), 0)).toBe(row(alone[0]!, 0));
    table.set(1, [undefined]);
    expect(row(forward(table, [0, 1, 1]), 1)).toBe(row(alone[0]!, 1));
    table.dispose();
  });

  test('gives every row the factors of its slot', () => {
    const table = new DeltaTable(device, [site], { slots: 3, maxRank: 4 });
    const factor = (seed: number): Tensor => seeded([outFeatures], seed, { device });
    const changes = [
      { ...change(4, 3), factor: factor(7) },
      change(1, 5),
      { ...change(2, 9), factor: factor(8) },
    ];
    const of = [undefined, ...changes];
    for (const phase of ['decode', 'prefill'] as const) {
      const alone = of.map((each) => loraLinearGroup(x, [{ weight, ...each }], { phase })[0]!);
      changes.forEach((each, slot) => table.set(slot, [each]));
      for (const slots of [
        [0, 1, 2],
        [2, -1, 0],
        [1, 1, 0],
      ]) {
        const rows = { table, slots: slotsOf(slots) };
        const y = loraLinearGroup(x, [{ weight, site: 0 }], { phase, rows })[0]!;
        expect(slots.map((_, i) => row(y, i))).toEqual(slots.map((slot, i) => row(alone[slot + 1]!, i)));
      }
    }
    table.set(0, [changes[1]]); // without one, after one
    expect(row(forward(table, [0, 2, 2]), 0)).toBe(
      row(loraLinearGroup(x, [{ weight, ...changes[1] }], { phase: 'decode' })[0]!, 0),
    );
    table.dispose();
  });

  test('lives on in the calls that are queued, and then gives everything back', async () => {
    const { bytes } = memoryUsage();
    const table = new DeltaTable(device, [site], { slots: 1, maxRank: 4 });
    const a = change(4, 3);
    table.set(0, [a]);
    const y = forward(table, [0, 0, -1]);
    a.up.dispose();
    a.down.dispose();
    table.dispose();
    expect((await y.data()).length).toBe(3 * outFeatures);
    y.dispose();
    const late = (): unknown => forward(table, [0, 0, 0]);
    expectThrow(late, 'ERR_DISPOSED', /table was disposed/);
    expect(memoryUsage().bytes - bytes).toBeLessThan(100); // the slots, which are garbage
  });

  test('a slot outside of it, and a change that had failed, fail the call that reads them', async () => {
    const table = new DeltaTable(device, [site], { slots: 2, maxRank: 4 });
    await expect(forward(table, [0, 2, 0]).data()).rejects.toMatchObject({
      code: 'ERR_DATA',
      message: expect.stringContaining('expected slots from -1 to 1 but received 2 at row 1') as string,
    });
    const failed = change(2, 3);
    binding().injectFailure('fill', 'broken');
    binding().fill(failed.up.handle, 1);
    const failedFactor = { ...change(2, 3), factor: seeded([outFeatures], 7, { device }) };
    binding().injectFailure('fill', 'broken');
    binding().fill(failedFactor.factor.handle, 1);
    table.set(1, [change(2, 3)]);
    for (const each of [failed, failedFactor]) {
      table.set(0, [each]);
      await expect(forward(table, [1, 0, 1]).data()).rejects.toMatchObject({
        code: 'ERR_DATA',
        message: expect.stringContaining(
          'the adapter in slot 0 was set with weights that had failed',
        ) as string,
      });
    }
    expect((await forward(table, [1, -1, 1]).data()).length).toBe(3 * outFeatures);
    table.dispose();
  });

  test('refuses what does not fit', () => {
    const table = new DeltaTable(device, [site], { slots: 2, maxRank: 4 });
    const good = change(2, 3);
    const set = (slot: number, changes: Parameters<DeltaTable['set']>[1]) => (): void =>
      table.set(slot, changes);
    expectThrow(set(2, [good]), 'ERR_ARGUMENT', /expected slot/);
    expectThrow(set(0, []), 'ERR_ARGUMENT', /expected 1 changes \(one per site\) but received 0/);
    expectThrow(
      set(0, [change(5, 3)]),
      'ERR_ARGUMENT',
      /expected a rank from 1 to 4 \(that of the table\) but received 5/,
    );
    expectThrow(
      set(0, [{ ...good, up: good.down }]),
      'ERR_ARGUMENT',
      /expected up of shape \[5, rank\] but received \[2, 6\]/,
    );
    expectThrow(set(0, [{ ...good, scale: NaN }]), 'ERR_ARGUMENT', /scale/);
    expectThrow(
      set(0, [{ ...good, factor: seeded([outFeatures + 1], 7, { device }) }]),
      'ERR_ARGUMENT',
      /expected factor of shape \[5\] but received \[6\]/,
    );
    expectThrow(
      () => new DeltaTable(device, [], { slots: 1, maxRank: 1 }),
      'ERR_ARGUMENT',
      /expected at least one site/,
    );
    expectThrow(() => new DeltaTable(device, [site], { slots: 0, maxRank: 1 }), 'ERR_ARGUMENT', /slots/);
    const rows = { table, slots: slotsOf([0, 0, 0]) };
    const call = (branch: object, options: object) => (): unknown =>
      loraLinearGroup(x, [{ weight, ...branch }], options);
    expectThrow(call({ site: 1 }, { rows }), 'ERR_ARGUMENT', /expected a site from 0 to 0 but received 1/);
    expectThrow(call({ site: 0 }, {}), 'ERR_ARGUMENT', /expected a table with site 0 but received none/);
    expectThrow(
      call({ site: 0, ...good }, { rows }),
      'ERR_ARGUMENT',
      /expected no up and down beside a table/,
    );
    expectThrow(
      call({ site: 0, factor: seeded([outFeatures], 7, { device }) }, { rows }),
      'ERR_ARGUMENT',
      /expected no factor beside a table/,
    );
    expectThrow(
      call({ site: 0 }, { rows: { table, slots: slotsOf([0]) } }),
      'ERR_ARGUMENT',
      /expected slots of shape \[3\] \(rows\)/,
    );
    const learned = x.detach();
    learned.requiresGrad = true;
    const recorded = (): unknown => loraLinearGroup(learned, [{ weight, site: 0 }], { rows });
    expectThrow(recorded, 'ERR_UNSUPPORTED', /noGrad/);
    expect(() => noGrad(recorded)).not.toThrow();
    const dropout = { p: 0.5, seed: 1, layer: 0, forward: 0 };
    expectThrow(() => loraLinear(x, { weight, site: 0, dropout }), 'ERR_ARGUMENT', /table/);
    table.dispose();
  });

  describe('of bf16', () => {
    const x16 = seeded([3, inFeatures], 2, { device, dtype: 'bf16' });
    const weight16 = FrozenWeight.pack(seeded([outFeatures, inFeatures], 1, { device, dtype: 'bf16' }));
    const options = { slots: 2, maxRank: 4, dtype: 'bf16' } as const;
    const step = (
      table: DeltaTable,
      slots: number[],
      x = x16,
      phase: 'decode' | 'prefill' = 'decode',
    ): Tensor =>
      loraLinearGroup(x, [{ weight: x === x16 ? weight16 : weight, site: 0 }], {
        phase,
        rows: { table, slots: slotsOf(slots) },
      })[0]!;
    const rounded = (t: Tensor): Tensor =>
      tensor(Float32Array.from(t.dataSync(), roundToBf16), { shape: t.shape, device });

    test('is for bf16 activations where the device reads it', () => {
      expect(DeltaTable.dtypeFor('bf16', device)).toBe('bf16');
      expect(DeltaTable.dtypeFor('f32', device)).toBe('f32');
      expect(DeltaTable.dtypeFor('f16', device)).toBe('f32');
      expectThrow(
        () => new DeltaTable(device, [site], { ...options, dtype: 'f16' as 'bf16' }),
        'ERR_UNSUPPORTED',
        /reads no tables of f16/,
      );
    });

    test('keeps copies of what it was given, until the slot is set again', async () => {
      const { bytes } = memoryUsage();
      const table = new DeltaTable(device, [site], options);
      const changes = [{ ...change(3, 3), factor: seeded([outFeatures], 7, { device }) }, change(4, 5)];
      changes.forEach((each, slot) => table.set(slot, [each]));
      const y = step(table, [1, 0, -1]);
      const exact = new DeltaTable(device, [site], { slots: 2, maxRank: 4 });
      changes.forEach((each, slot) =>
        exact.set(slot, [{ ...each, up: rounded(each.up), down: rounded(each.down) }]),
      );
      expect(relativeError(y.dataSync(), step(exact, [1, 0, -1]).dataSync())).toBeLessThan(0.01);
      const before = bits(y);
      binding().fill(changes[1]!.down.handle, 0);
      expect(bits(step(table, [1, 0, -1]))).toBe(before);
      const held = memoryUsage().bytes;
      table.set(1, [changes[1]]);
      expect(memoryUsage().bytes).toBe(held);
      expect(bits(step(table, [1, 0, -1]))).not.toBe(before);
      expect(bytes).toBeLessThan(held);
    });

    test('refuses other calls and other tensors', () => {
      const table = new DeltaTable(device, [site], options);
      const why = /expected a table of f32, but in a decode step on bf16 x, and received one of bf16/;
      expectThrow(() => step(table, [0, 0, 0], x16, 'prefill'), 'ERR_ARGUMENT', why);
      expectThrow(() => step(table, [0, 0, 0], x), 'ERR_ARGUMENT', why);
      const { up, down, scale } = change(2, 3);
      const packed = (t: Tensor): FrozenWeight['handle'] => FrozenWeight.pack(t).handle;
      const set = (a: unknown, b: Tensor): void =>
        binding().setDeltaSlot(table.handle, 0, [
          { up: a as typeof up.handle, down: b.handle, scale, factor: null },
        ]);
      const down16 = down.to({ dtype: 'bf16' });
      expectThrow(() => set(up.handle, down16), 'ERR_ARGUMENT', /up/);
      expectThrow(
        () => set(packed(up), down16),
        'ERR_ARGUMENT',
        /expected up of dtype bf16 but received f32/,
      );
      const up16 = packed(up.to({ dtype: 'bf16' }));
      expectThrow(() => set(up16, down), 'ERR_ARGUMENT', /expected down of dtype bf16 but received f32/);
      set(up16, down16);
      const narrow = packed(seeded([4, 2], 3, { device, dtype: 'bf16' }));
      expectThrow(
        () => set(narrow, down16),
        'ERR_ARGUMENT',
        /expected up of shape \[5, rank\] but received \[4, 2\]/,
      );
      const exact = new DeltaTable(device, [site], { slots: 1, maxRank: 4 });
      expectThrow(
        () => binding().setDeltaSlot(exact.handle, 0, [{ up: up16, down: down.handle, scale, factor: null }]),
        'ERR_ARGUMENT',
        /up/,
      );
    });
  });
});
