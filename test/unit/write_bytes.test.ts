// Overwriting a tensor with bytes, in the order of the calls.
import { tensor, type Tensor } from '../../lib/index';
import { binding } from '../../lib/native/calls';
import { writeBytes } from '../../lib/tensor/create';
import { rawView } from '../../lib/tensor/raw';
import { expectReject, expectThrow } from '../support/errors';
import { list, seeded } from '../support/numbers';

const bytes = (...values: number[]): Uint8Array => new Uint8Array(Float32Array.from(values).buffer);

describe.each(['cpu', 'reference'] as const)('on %s', (device) => {
  test('what was called before sees the old values, what is called after the new ones', async () => {
    const x = tensor([1, 2], { device });
    const busy = seeded([200, 200], 1, { device });
    const seen: Tensor[] = [];
    for (let i = 0; i < 5; i++) {
      busy.matmul(busy); // so that the queue is not empty
      seen.push(x.mul(10));
      const next = bytes(i, i + 1);
      writeBytes(x, next);
      next.fill(255); // the call has copied them
    }
    seen.push(x.mul(10));
    expect(await Promise.all(seen.map(list))).toEqual([
      [10, 20],
      ...[0, 1, 2, 3, 4].map((i) => [10 * i, 10 * i + 10]),
    ]);
    writeBytes(x, bytes(7, 8)); // the queue is empty
    expect(await list(x)).toEqual([7, 8]);
  });

  test('a view is a part; a whole write makes a failed tensor good, a part does not', async () => {
    for (const busy of [true, false]) {
      const x = tensor([1, 2, 3], { device });
      writeBytes(rawView(x, 1, [2]), bytes(8, 9));
      expect(await list(x)).toEqual([1, 8, 9]);
      binding().injectFailure('unary', 'injected');
      const failed = x.mul(2);
      if (!busy) await expectReject(failed.data(), 'ERR_ARGUMENT', /injected/);
      writeBytes(rawView(failed, 0, [1]), bytes(5));
      await expectReject(failed.data(), 'ERR_ARGUMENT', /injected/);
      writeBytes(failed, bytes(4, 5, 6));
      expect(await list(failed)).toEqual([4, 5, 6]);
    }
  });
});

test('bytes of another size, and tensors that are gone, are errors', () => {
  const x = tensor([1, 2]);
  expectThrow(
    () => writeBytes(x, bytes(1)),
    'ERR_ARGUMENT',
    '[write] expected 8 bytes for f32 [2] but received 4',
  );
  expectThrow(
    () => binding().writeBytes(x.handle, bytes(1)),
    'ERR_ARGUMENT',
    '[write] expected 8 bytes for shape [2] of f32 but received 4',
  );
  x.dispose();
  expectThrow(() => writeBytes(x, bytes(1, 2)), 'ERR_DISPOSED', '[write] the target has been disposed');
  writeBytes(tensor([]), new Uint8Array(0));
});
