/** Queries that grow with their positions: the same in a batch, in a packed row, in steps of the engine and in chunks of a prompt. */
import { CausalLM, noGrad } from '../../lib/index';
import { loadedModels, run, text } from '../support/engine_requests';
import { list, relativeError } from '../support/numbers';
import { rewrapped, wrappings } from '../support/rewrapped';

const load = loadedModels();

const loadMinistral = (device?: string): Promise<CausalLM> =>
  load(
    {
      tokenizer: false,
      config: {
        ...{ model_type: 'ministral3', max_position_embeddings: 512, rope_scaling: undefined },
        rope_parameters: {
          ...{ rope_type: 'yarn', rope_theta: 10000, factor: 32, original_max_position_embeddings: 16 },
          ...{ mscale: 1, mscale_all_dim: 1, llama_4_scaling_beta: 0.8 },
        },
      },
    },
    device,
  );

async function logitsOf(model: CausalLM, ids: number[], segmentIds?: number[]): Promise<number[]> {
  return list(noGrad(() => model.forward([ids], { segmentIds: segmentIds && [segmentIds] })).logits);
}

test('packed texts count from their own begin', async () => {
  const model = await loadMinistral();
  const [one, two] = [text(20, 1), text(40, 2)];
  const alone = [...(await logitsOf(model, one)), ...(await logitsOf(model, two))];
  const segments = [...one.map(() => 1), ...two.map(() => 2)];
  expect(relativeError(await logitsOf(model, [...one, ...two], segments), alone)).toBeLessThan(1e-5);
});

test('a prompt in chunks and the steps behind it go by absolute positions, beyond the first table too', async () => {
  const model = await loadMinistral();
  model.configureEngine({ prefillChunk: 17 });
  const prompt = text(250, 1);
  const { ids } = await run(model, { prompt, maxNewTokens: 20, temperature: 0, ignoreEos: true });
  const { vocabSize } = model.config;
  const logits = await logitsOf(model, [...prompt, ...ids]);
  const best = ids.map((_, i) => {
    const row = logits.slice((249 + i) * vocabSize, (250 + i) * vocabSize);
    return row.indexOf(Math.max(...row));
  });
  expect(ids).toEqual(best);
});

test('the reference computes the same', async () => {
  const ids = text(60, 1);
  const [own, wanted] = [await loadMinistral(), await loadMinistral('reference')];
  expect(relativeError(await logitsOf(own, ids), await logitsOf(wanted, ids))).toBeLessThan(1e-5);
});

const kinds = Object.keys(wrappings) as (keyof typeof wrappings)[];
test.each(kinds)('as the text model of a mistral3 with names of %s: the same logits', async (wrapping) => {
  const plain = await loadMinistral();
  const dir = await rewrapped(plain.directory, 'mistral3', wrapping, { tie_word_embeddings: true });
  const wrapped = await CausalLM.fromPretrained(dir);
  expect(wrapped.config).toMatchObject({ modelType: 'ministral3', textOf: 'mistral3' });
  expect(await logitsOf(wrapped, text(40, 1))).toEqual(await logitsOf(plain, text(40, 1)));
  await wrapped.dispose();
});
