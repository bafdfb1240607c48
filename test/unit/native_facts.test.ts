// What both the native side and TypeScript state is the same on both.
import { tensor, LoRAError } from '../../lib/index';
import { ignoredLabel } from '../../lib/data/example';
import {
  binaryKinds,
  linearPhases,
  unaryKinds,
  type BinaryKind,
  type LinearPhase,
  type UnaryKind,
} from '../../lib/native/binding';
import { binding } from '../../lib/native/calls';
import { crossEntropy } from '../../lib/ops';
import { dropout } from '../../lib/ops/dropout';
import { isDropout } from '../../lib/validate';
import { expectThrow } from '../support/errors';

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

test('the phases of lora_linear', () => {
  const listed = `[lora_linear] expected phase to be ${linearPhases.slice(0, -1).join(', ')} or ${linearPhases.at(-1)} but received "both"`;
  expectThrow(
    () => binding().loraLinearForward(x.handle, [], 'both' as LinearPhase, null, null, false),
    'ERR_ARGUMENT',
    listed,
  );
});

test('the functions of the elementwise ops', () => {
  for (const kind of binaryKinds) binding().binary(kind, x.handle, x.handle, 'f32');
  for (const kind of unaryKinds) binding().unary(kind, 1, x.handle, 'f32');
  const listed = (kinds: readonly string[]): RegExp =>
    new RegExp(`expected kind to be ${kinds.slice(0, -1).join(', ')} or ${kinds.at(-1)} but received "pow"`);
  expectThrow(
    () => binding().binary('pow' as BinaryKind, x.handle, x.handle, 'f32'),
    'ERR_ARGUMENT',
    listed(binaryKinds),
  );
  expectThrow(
    () => binding().unary('pow' as UnaryKind, 1, x.handle, 'f32'),
    'ERR_ARGUMENT',
    listed(unaryKinds),
  );
});
