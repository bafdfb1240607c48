/** The files that make an embedding model of a folder, wherever a model is written or comes from. */
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join, relative, sep } from 'node:path';
import {
  CausalLM,
  convertModel,
  quantizeModel,
  Trainer,
  type ContrastiveRow,
  type TrainerOptions,
} from '../../lib/index';
import { expectReject } from '../support/errors';
import { fillAdapter } from '../support/fill_adapter';
import { hubHome } from '../support/hub_home';
import { relativeError } from '../support/numbers';
import { sentenceModel } from '../support/sentence_model';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

const at = hubHome();
const scratch = temporaryFolder();
const models: CausalLM[] = [];
afterAll(async () => {
  for (const model of models) await model.dispose();
});

const prompts = { prompts: { query: 'find: ' }, default_prompt_name: 'query' };
const names = [
  '1_Pooling/config.json',
  '2_Dense/config.json',
  '2_Dense/model.safetensors',
  '3_Dense/config.json',
  '3_Dense/model.safetensors',
  'config_sentence_transformers.json',
  'modules.json',
];

/** A model with all of them; the mean is not what a model without them pools by. */
async function source(): Promise<string> {
  const dir = await sentenceModel({ prompts });
  mkdirSync(join(dir, 'notes/1_Pooling'), { recursive: true });
  writeFileSync(join(dir, 'notes/1_Pooling/config.json'), '{}');
  return dir;
}

async function load(dir: string): Promise<CausalLM> {
  const model = await CausalLM.fromPretrained(dir);
  models.push(model);
  return model;
}

const vectors = async (model: CausalLM): Promise<number[]> =>
  (await model.embed(['cat', 'a longer text'])).flatMap((row) => [...row]);

/** They are in the folder as they are in the source, and nothing else of its folders is. */
function expectFiles(dir: string, from: string): void {
  for (const name of names)
    expect({ name, bytes: readFileSync(join(dir, name)) }).toEqual({
      name,
      bytes: readFileSync(join(from, name)),
    });
  expect(existsSync(join(dir, 'notes'))).toBe(false);
  expect(readdirSync(dir).filter((name) => name.startsWith('.'))).toEqual([]);
}

/** As a repository of the hub has them. */
const repositoryFiles = (dir: string): Record<string, Uint8Array> =>
  Object.fromEntries(
    readdirSync(dir, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map(({ parentPath, name }) => join(parentPath, name))
      .map((path) => [relative(dir, path).split(sep).join('/'), readFileSync(path)]),
  );

const rows: ContrastiveRow[] = [...'abcdefgh'].map((letter) => ({
  anchor: letter.repeat(3),
  positive: `${letter}${letter.toUpperCase()}`,
}));
const run = async (model: CausalLM, options: Partial<TrainerOptions>): Promise<void> => {
  const how = { objective: 'contrastive', batchSize: 4, maxSteps: 4, lr: 1e-3 } as const;
  await new Trainer({ model, data: rows, ...how, ...options }).run();
};

test('a model whose weights were all trained embeds from its folder and its checkpoints as in memory', async () => {
  const dir = await source();
  const model = await load(dir);
  model.trainAll();
  const outDir = join(scratch, 'full');
  await run(model, { outDir, saveEvery: 2 });
  for (const folder of [outDir, join(outDir, 'checkpoint-2'), join(outDir, 'checkpoint-4')])
    expectFiles(folder, dir);
  const own = await vectors(model);
  expect(own).toHaveLength(2 * 4); // of the second dense layer
  for (const folder of [outDir, join(outDir, 'checkpoint-4')])
    expect(relativeError(await vectors(await load(folder)), own)).toBeLessThan(1e-5);

  // A run that goes on writes checkpoint-4 once more, and the final files over those that are there.
  const again = await load(dir);
  again.trainAll();
  await run(again, { outDir, saveEvery: 2, resume: join(outDir, 'checkpoint-2') });
  for (const folder of [outDir, join(outDir, 'checkpoint-4')]) expectFiles(folder, dir);
  expect(relativeError(await vectors(await load(outDir)), own)).toBeLessThan(1e-5);
});

test('so does the model of the best evaluation', async () => {
  const dir = await source();
  const model = await load(dir);
  model.trainAll();
  const outDir = join(scratch, 'best');
  await run(model, { outDir, evalData: rows, evalEvery: 2, keepBest: true });
  expectFiles(outDir, dir);
  expect(relativeError(await vectors(await load(outDir)), await vectors(model))).toBeLessThan(1e-5);
});

test('a link in the place of one of their folders is not followed', async () => {
  const dir = await source();
  const model = await load(dir);
  model.trainAll();
  const [outDir, elsewhere] = [join(scratch, 'linked'), join(scratch, 'elsewhere')];
  mkdirSync(outDir);
  mkdirSync(elsewhere);
  symlinkSync(elsewhere, join(outDir, '1_Pooling'));
  await expectReject(run(model, { outDir }), 'ERR_FILE', /1_Pooling is a link/);
  expect(readdirSync(elsewhere)).toEqual([]);
});

test.each(['a new directory', 'an empty one'])('quantizeModel carries them into %s', async (where) => {
  const dir = await source();
  const out = join(scratch, `nf4 ${where}`);
  if (where === 'an empty one') mkdirSync(out);
  await quantizeModel(dir, out, { format: 'nf4' });
  expectFiles(out, dir);
  const [quantized, whole] = [await load(out), await load(dir)];
  expect(await vectors(quantized)).toHaveLength(2 * 4);
  expect(relativeError(await vectors(quantized), await vectors(whole))).toBeLessThan(0.5);
});

test('a name of the hub has them, also from the cache', async () => {
  const dir = await source();
  const wanted = await vectors(await load(dir));
  const files = repositoryFiles(dir);
  at.hub.repositories.set('lora/vectors', { files: { ...files, 'openvino/model.bin': Buffer.from('x') } });
  const model = await load('lora/vectors');
  expectFiles(model.directory, dir);
  expect(existsSync(join(model.directory, 'openvino'))).toBe(false);
  expect(await vectors(model)).toEqual(wanted);
  const offline = await CausalLM.fromPretrained('hf:lora/vectors', { offline: true });
  models.push(offline);
  expect(await vectors(offline)).toEqual(wanted);
  const saved = join(scratch, 'of the hub');
  await model.save(saved);
  expectFiles(saved, dir);
});

test('what a repository lacks of its modules is told, and no other pooling taken', async () => {
  const { '1_Pooling/config.json': _, ...files } = repositoryFiles(await source());
  at.hub.repositories.set('lora/lacking', { files });
  await expectReject(CausalLM.fromPretrained('lora/lacking'), 'ERR_FILE', /1_Pooling.config\.json/);
});

describe('GGUF', () => {
  const modules = [{ path: '1_Pooling', type: 'sentence_transformers.models.Pooling' }];

  test.each([
    ['mean', { pooling_mode_mean_tokens: true }],
    ['last', { pooling_mode: 'lasttoken' }],
  ] as const)('keeps the pooling of %s, and a saved copy does', async (pool, pooling) => {
    const dir = await sentenceModel({ pooling, modules });
    const file = join(scratch, `${pool}.gguf`);
    await convertModel(dir, file, { format: 'f32' });
    const [model, whole] = [await load(file), await load(dir)];
    const wanted = (await whole.embed(['cat'], { pool }))[0]!;
    const own = async (of: CausalLM): Promise<Float32Array> => (await of.embed(['cat']))[0]!;
    expect(relativeError(await own(whole), wanted)).toBeLessThan(1e-6);
    expect(relativeError(await own(model), wanted)).toBeLessThan(1e-5);
    const saved = join(scratch, `${pool} of GGUF`);
    await model.save(saved);
    expect(relativeError(await own(await load(saved)), wanted)).toBeLessThan(1e-5);
    const again = join(scratch, `${pool}-again.gguf`);
    await convertModel(file, again, { format: 'f32' });
    expect(relativeError(await own(await load(again)), wanted)).toBeLessThan(1e-5);
  });

  test('names what it has no place for', async () => {
    const out = join(scratch, 'refused.gguf');
    const refused = async (dir: string, message: RegExp): Promise<void> => {
      await expectReject(convertModel(dir, out, { format: 'f32' }), 'ERR_UNSUPPORTED', message);
      expect(existsSync(out)).toBe(false);
    };
    await refused(await source(), /has dense layers behind its pooling/);
    await refused(
      await tinyModel({
        config: {
          model_type: 'gemma3_text',
          hidden_act: null,
          query_pre_attn_scalar: 6,
          use_bidirectional_attention: true,
        },
      }),
      /see those behind them/,
    );
    const model = await CausalLM.fromPretrained(await tinyModel(), {
      head: { type: 'classify', labels: ['a', 'b'] },
    });
    models.push(model);
    const classifier = join(scratch, 'classifier');
    await model.save(classifier);
    await refused(classifier, /ends in a head of classes/);
  });

  test('a file gets a head of classes, whose saved copy is that of a directory', async () => {
    const file = join(scratch, 'plain.gguf');
    await convertModel(await tinyModel(), file, { format: 'f32' });
    const head = { type: 'classify', labels: ['a', 'b'] } as const;
    const model = await CausalLM.fromPretrained(file, { head });
    models.push(model);
    fillAdapter(model.addAdapter({ r: 2 }), 3, 0.4);
    const wanted = await model.classify(['hello', 'you']);
    const saved = join(scratch, 'classifier of GGUF');
    await model.save(saved, { merge: 'default' });
    const scores = async (of: CausalLM): Promise<number[]> =>
      (await of.classify(['hello', 'you'])).flatMap((text) => [...text.scores]);
    expect(
      relativeError(
        await scores(await load(saved)),
        wanted.flatMap((text) => [...text.scores]),
      ),
    ).toBeLessThan(1e-5);
  });

  test.each([
    [2, /pools by cls; supported are/],
    [4, /pools by rank; supported are/],
    [9, /has llama\.pooling_type = 9/],
  ])('a file of pooling %i is refused by name', async (type, message) => {
    const file = join(scratch, `pooling-${type}.gguf`);
    const modules = [{ path: '1_Pooling', type: 'sentence_transformers.models.Pooling' }];
    await convertModel(await sentenceModel({ modules }), file, { format: 'f32' });
    const bytes = readFileSync(file);
    // The key, the type of its value (4: u32), and the value.
    const at = bytes.indexOf('llama.pooling_type') + 'llama.pooling_type'.length + 4;
    expect(bytes.readUInt32LE(at)).toBe(1);
    bytes.writeUInt32LE(type, at);
    writeFileSync(file, bytes);
    await expectReject(CausalLM.fromPretrained(file), 'ERR_UNSUPPORTED', message);
  });
});
