// What both the native side and TypeScript state is the same on both.
import { tensor, LoRAError } from '../../lib/index';
import { ignoredLabel } from '../../lib/data/example';
import { crossEntropy } from '../../lib/ops';
import { dropout } from '../../lib/ops/dropout';
import { isDropout } from '../../lib/validate';

const x = tensor([1, 2, 4], { shape: [1, 3] });

test('the label that counts nothing', async () => {
  const labels = (a: number, b: number) => tensor([a, b], { shape: [2], dtype: 'i32' });
  const logits = tensor([1, 2, 3, 4], { shape: [2, 2] });
  const { count } = crossEntropy(logits, labels(1, ignoredLabel));
  expect(await count.data()).toEqual(new Float32Array([1]));
  await expect(crossEntropy(logits, labels(1, ignoredLabel - 1)).count.data()).rejects.toThrow(
    `expected labels from 0 to 1, or ${ignoredLabel}, but received ${ignoredLabel - 1} at row 1`,
  );
});

test.each([0, 0.5, 1 - 2 ** -24, 1, 1.5, -1e-9, NaN, Infinity])('the range of dropout: %p', (p) => {
  let taken = true;
  try {
    dropout(x, { p, seed: 1, layer: 2, forward: 3 }).dispose();
  } catch (error) {
    expect(error).toBeInstanceOf(LoRAError);
    taken = false;
  }
  expect(isDropout(p)).toBe(taken);
});
