/** Generation that multiplies whole numbers (`activations: 'int8'`); native/test/cpu/whole_numbers_test.cc has its products. */
import { CausalLM, type FromPretrainedOptions } from '../../lib';
import { blockBytes, blockFormats, isBlockFormat, type BlockFormat } from '../../lib/native/block_formats';
import { loraLinearGroup } from '../../lib/ops/lora_linear';
import { FrozenWeight, hasWholeCodes, type PackedFormat } from '../../lib/tensor/frozen_weight';
import { commandLine } from '../support/command_line';
import { expectReject } from '../support/errors';
import { list, seeded } from '../support/numbers';
import { tinyModel } from '../support/tiny_model';

const ids = [256, 72, 101, 108, 108, 111, 44, 32, 119];

/** A matrix [3, 256]: of blocks whose bytes are alike, 0x2121 being an f16 of about 0.01. */
function matrix(format: PackedFormat, device: 'cpu' | 'reference'): FrozenWeight {
  const shape = [3, 256] as const;
  const count = isBlockFormat(format) ? blockBytes(format, ...shape) : format === 'int8' ? 768 : 384;
  const scales = format === 'int8' ? 3 : isBlockFormat(format) ? 0 : 12;
  const values = new Uint8Array(count).fill(0x21);
  return FrozenWeight.packQuantized(
    format,
    values,
    scales === 0 ? null : new Float32Array(scales).fill(0.01),
    shape,
    'f32',
    device,
  );
}

async function decoded(weight: FrozenWeight, phase: 'auto' | 'decode'): Promise<number[]> {
  using x = seeded([2, 256], 1).to({ device: weight.device });
  const [y] = loraLinearGroup(x, [{ weight }], { phase });
  return list(y!);
}

describe.each(['cpu', 'reference'] as const)('products on %s', (device) => {
  const formats: PackedFormat[] = ['int8', 'nf4', 'fp4', ...(Object.keys(blockFormats) as BlockFormat[])];
  test.each(formats)(
    '%s takes int8 activations where it has whole codes, in generation alone',
    async (format) => {
      using weight = matrix(format, device);
      const [exact, training] = [await decoded(weight, 'decode'), await decoded(weight, 'auto')];
      weight.activations = 'int8';
      const rounded = await decoded(weight, 'decode');
      expect(rounded.some((y, at) => y !== exact[at])).toBe(hasWholeCodes(format));
      const largest = Math.max(...exact.map(Math.abs));
      rounded.forEach((y, at) => expect(Math.abs(y - exact[at]!)).toBeLessThan(0.02 * largest));
      expect(await decoded(weight, 'auto')).toEqual(training);
    },
  );
});

describe('a model', () => {
  let dir: string;
  beforeAll(async () => {
    dir = await tinyModel();
  });

  async function using<T>(options: FromPretrainedOptions, use: (model: CausalLM) => Promise<T>): Promise<T> {
    const model = await CausalLM.fromPretrained(dir, options);
    try {
      return await use(model);
    } finally {
      await model.dispose();
    }
  }

  /** The log-probabilities of the tokens that it writes. */
  const written = async (options: FromPretrainedOptions): Promise<number[]> =>
    using(options, async (model) => {
      const { logprobs } = await model.generate(ids, { maxNewTokens: 6, logprobs: 0, temperature: 0 });
      return logprobs!.map(({ logprob }) => logprob);
    });

  test('writes with products near the exact ones', async () => {
    const exact = await written({ quantize: 'int8' });
    expect(await written({ quantize: 'int8', activations: 'exact' })).toEqual(exact);
    for (const device of ['cpu', 'reference'] as const) {
      const rounded = await written({ quantize: 'int8', activations: 'int8', device });
      expect(rounded).not.toEqual(exact);
      rounded.forEach((p, at) => expect(Math.abs(p - exact[at]!)).toBeLessThan(0.1));
    }
  });

  test('computes logits, losses and gradients exactly', async () => {
    const trained = (options: FromPretrainedOptions): Promise<unknown> =>
      using({ quantize: 'int8', ...options }, async (model) => {
        const adapter = model.addAdapter({ r: 2 }, { seed: 1 });
        const { loss, logits } = model.forward([ids], { labels: [ids], logits: true });
        loss.backward();
        const gradients = await Promise.all(adapter.parameters().map(({ grad }) => list(grad)));
        return [await list(logits), await list(loss), gradients];
      });
    expect(await trained({ activations: 'int8' })).toEqual(await trained({}));
  });

  test('without whole codes refuses the option by name', async () => {
    const refused = (options: FromPretrainedOptions, message: string): Promise<unknown> =>
      expectReject(
        CausalLM.fromPretrained(dir, { activations: 'int8', ...options }),
        'ERR_UNSUPPORTED',
        `[from_pretrained] expected matrices with whole codes for int8 activations (int8, or Q8_0, Q4_K and others of GGUF), but of ${dir} ${message}`,
      );
    await refused({}, 'no matrix is quantized');
    await refused({ quantize: 'nf4' }, 'they are in nf4');
    await expectReject(
      CausalLM.fromPretrained(dir, { activations: 'int4' as 'int8' }),
      'ERR_ARGUMENT',
      "[from_pretrained] expected activations to be 'exact', 'int8' but received 'int4'; did you mean 'int8'?",
    );
  });

  test('takes the option from the command line', async () => {
    const { status, err } = await commandLine([
      'generate',
      '--model',
      dir,
      '--prompt',
      'a',
      '--activations',
      'int8',
    ]);
    expect(status).not.toBe(0);
    expect(err).toContain('no matrix is quantized');
    const flags = ['--quantize', 'int8', '--activations', 'int8', '--max-new-tokens', '2'];
    expect((await commandLine(['generate', '--model', dir, '--prompt', 'a', ...flags])).status).toBe(0);
  });
});
