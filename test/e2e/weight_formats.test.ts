/** Weights that are kept in another format than the activations, on the devices of the CPU; cuda_emulated.test.ts has them on a GPU. */
import { CausalLM, setThreads, type SafetensorsTensor } from '../../lib/index';
import { expectReject } from '../support/errors';
import { tinyModel, type TinyModelOptions } from '../support/tiny_model';
import { bytesOf, floatsOf, quantise, quantised, weightFormatCases } from '../support/weight_format_cases';

beforeAll(() => setThreads(1)); // tiny matrices

for (const device of ['cpu', 'reference'] as const)
  weightFormatCases(device, (title, body) => void test(title, body), [
    'int8 rows for f32',
    'int8 rows for bf16',
    'bf16 for f32',
    'f16 for f32',
  ]);

test('an int8 matrix without scales, and scales that are no numbers, are refused', async () => {
  const load = async (options: TinyModelOptions): Promise<unknown> =>
    CausalLM.fromPretrained(await tinyModel(options));
  const name = 'model.layers.1.mlp.up_proj.weight_scale';
  const edited = (edit: (tensors: Map<string, SafetensorsTensor>) => void): TinyModelOptions => ({
    config: quantised(),
    edit: (tensors) => {
      quantise(tensors, true);
      edit(tensors);
    },
  });
  await expectReject(
    load(edited((tensors) => tensors.delete(name))),
    'ERR_FILE',
    /the weights lack model\.layers\.1\.mlp\.up_proj\.weight_scale$/,
  );
  await expectReject(
    load(
      edited((tensors) => {
        const scales = floatsOf(tensors.get(name)!);
        scales[3] = NaN;
        tensors.set(name, { dtype: 'F32', shape: [40, 1], bytes: bytesOf(scales) });
      }),
    ),
    'ERR_FILE',
    /expected finite scales in model\.layers\.1\.mlp\.up_proj\.weight_scale but received NaN at row 3$/,
  );
});
