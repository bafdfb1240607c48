/** The profile of a device: which calls it counts, in a program too, and from when to when. */
import { tensor } from '../../lib/index';
import { binding } from '../../lib/native/calls';
import { nativeDevice } from '../../lib/native/device';
import { recordProgram } from '../../lib/tensor/program';
import { expectThrow } from '../support/errors';

const x = tensor([[1, 2, 3]]);
const y = tensor([[1], [2], [3]]);
const device = nativeDevice('cpu');

test('counts the calls between start and end, by op and shape', () => {
  x.matmul(y);
  binding().startProfile(device);
  x.matmul(y);
  x.matmul(y);
  y.matmul(x);
  const entries = binding().endProfile(device);
  x.matmul(y);
  expect(entries).toEqual([
    { op: 'matmul', shape: 'f32 1x3', calls: 2, ms: expect.any(Number), flops: 6, bytes: 28 },
    { op: 'matmul', shape: 'f32 3x1', calls: 1, ms: expect.any(Number), flops: 18, bytes: 60 },
  ]);
  for (const { ms } of entries) expect(ms).toBeGreaterThan(0);
});

test('counts every run of a program that was recorded meanwhile', () => {
  binding().startProfile(device);
  const program = recordProgram('cpu', () => [x.matmul(y)]);
  program.run();
  program.run();
  const entries = binding().endProfile(device);
  expect(entries).toMatchObject([{ op: 'matmul', calls: 2 }]);
  program.run(); // after the end it runs as before
  expect(program.outputs[0]!.dataSync()).toEqual(new Float32Array([14]));
  program.dispose();
});

test('there is one profile at a time', () => {
  expectThrow(
    () => binding().endProfile(device),
    'ERR_ARGUMENT',
    /^\[profile\] expected a profile to be on for cpu /,
  );
  binding().startProfile(device);
  expectThrow(
    () => binding().startProfile(device),
    'ERR_ARGUMENT',
    /^\[profile\] expected one profile at a time /,
  );
  expect(binding().endProfile(device)).toEqual([]);
});
