// Which device 'auto' stands for.
import { binding } from '../../lib/native/calls';
import { bestDevice } from '../../lib/native/device';

test.each([
  ['a GPU where there is one', null, 'cuda'],
  ['the CPU where there is none', 'no driver', 'cpu'],
])('%s', (_, why, device) => {
  jest.spyOn(binding(), 'cudaUnavailableReason').mockReturnValue(why);
  expect(bestDevice()).toBe(device);
  jest.restoreAllMocks();
});
