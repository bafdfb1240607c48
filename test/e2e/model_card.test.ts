/** README.md beside the adapters that a Trainer writes. */
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Trainer, type TrainerOptions } from '../../lib/index';
import { baseModelId } from '../../lib/hub/cache';
import { code, isOurs } from '../../lib/formats/card';
import { temporaryFolder } from '../support/temporary';
import { makeRows, trainingFixture } from '../support/training';

const fixture = trainingFixture();
const scratch = temporaryFolder();

/** Makes a run in `outDir`, and gives its card. */
async function run(outDir: string, options: Partial<TrainerOptions> = {}): Promise<string> {
  const { model } = fixture;
  if (!model.adapters.has('mine')) fixture.addAdapter('mine');
  const data = makeRows(4);
  await new Trainer({ model, data, batchSize: 1, maxSteps: 3, outDir, ...options }).run();
  return readFileSync(join(outDir, 'README.md'), 'utf8');
}

/** The lines between the first two lines of dashes. */
const frontMatter = (card: string): string[] => /^---\n([\s\S]*?)\n---\n/.exec(card)![1]!.split('\n');

test('says from what, on what and how the adapter was trained, and how it ended', async () => {
  const outDir = join(scratch, 'whole');
  const card = await run(outDir, {
    weightDecay: 0.1,
    neftuneNoiseAlpha: 5,
    gradientCheckpointing: true,
    evalData: makeRows(2, { seed: 9 }),
    evalEvery: 3,
    lr: 0.02,
    warmupSteps: 1,
  });
  const base = fixture.model.directory.split('/').at(-1)!;
  expect(frontMatter(card)).toEqual([
    `base_model: ${base}`,
    'library_name: peft',
    'pipeline_tag: text-generation',
    'tags:',
    `- base_model:adapter:${base}`,
    '- lora',
    '- lora-native',
    '- transformers',
  ]);
  for (const line of [
    '- Data: `4 examples`',
    '- Rank: `3`',
    '- Alpha: `6`',
    '- Dropout: `0.3`',
    '- Layers: `down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj`',
    '- Learning rate: `0.02, cosine after 1 steps of warm-up`',
    '- Weight decay: `0.1`',
    '- NEFTune noise: `5`',
    '- Gradient checkpointing: `every block`',
    '- Steps: `3 of 3`',
  ])
    expect(card.split('\n')).toContain(line);
  expect(card).toMatch(/- Training loss: `\d+\.\d{4} in step 3`/);
  expect(card).toMatch(/- Evaluation loss: `\d+\.\d{4} after step 3 \(perplexity \d+\.\d\d, \d+ tokens\)`/);
  expect(card).toContain(`await CausalLM.fromPretrained('${base}')`);
  expect(card).toContain('PeftModel.from_pretrained(base, "ADAPTER")');
  expect(card).not.toContain(fixture.model.directory); // it names its owner
  expect(isOurs(card)).toBe(true);
});

test('lies beside every checkpoint, with what was known then; a resumed run replaces that of the adapter', async () => {
  const outDir = join(scratch, 'resumed');
  const first = await run(outDir, { saveEvery: 2, schedule: 'constant' });
  const checkpoint = readFileSync(join(outDir, 'checkpoint-2', 'README.md'), 'utf8');
  expect(checkpoint).toMatch(/- Training loss: `\S+ in step 2`/);
  const second = await run(outDir, { maxSteps: 4, schedule: 'constant', resume: true });
  expect(second).not.toBe(first);
  expect(second).toContain('- Steps: `4 of 4 (this run continued one of 2 steps)`');
});

test('takes an evaluation that the program makes after the run, unless somebody has edited it', async () => {
  const outDir = join(scratch, 'later');
  const path = join(outDir, 'README.md');
  fixture.addAdapter('mine');
  const trainer = new Trainer({ model: fixture.model, data: makeRows(2), maxSteps: 1, outDir });
  await trainer.run();
  const figures = { loss: 0.5, perplexity: 1.65, tokens: 9 };
  const evaluate = jest.spyOn(fixture.model, 'evaluate').mockResolvedValue(figures);
  expect(await trainer.evaluate(1, makeRows(1), undefined)).toEqual({ type: 'eval', step: 1, ...figures });
  const line = '- Evaluation loss: `0.5000 after step 1 (perplexity 1.65, 9 tokens)`';
  expect(readFileSync(path, 'utf8').split('\n')).toContain(line);
  writeFileSync(path, 'mine');
  evaluate.mockResolvedValue({ ...figures, loss: 0.25 });
  await trainer.evaluate(1, makeRows(1), undefined);
  expect(readFileSync(path, 'utf8')).toBe('mine');
});

describe('is not written over one of somebody else', () => {
  const own = '---\nlicense: mit\n---\n\nMy notes.\n';

  test('that was there before', async () => {
    const outDir = join(scratch, 'notes');
    mkdirSync(outDir);
    writeFileSync(join(outDir, 'README.md'), own);
    expect(await run(outDir)).toBe(own);
  });

  test('that is ours, edited', async () => {
    const outDir = join(scratch, 'edited');
    const edited = (await run(outDir, { saveEvery: 2, schedule: 'constant' })).replace(
      '---',
      '---\nlicense: mit',
    );
    writeFileSync(join(outDir, 'README.md'), edited);
    expect(await run(outDir, { maxSteps: 4, schedule: 'constant', resume: true })).toBe(edited);
  });

  test('to which a link leads', async () => {
    const outDir = join(scratch, 'link');
    mkdirSync(outDir);
    writeFileSync(join(scratch, 'elsewhere.md'), own);
    symlinkSync(join(scratch, 'elsewhere.md'), join(outDir, 'README.md'));
    expect(await run(outDir)).toBe(own);
  });
});

test('text of strangers is shown as it is, in its line', async () => {
  const name = '`]<script>alert(1)</script> [a](http://b) @you\n# no heading\u202e.jsonl';
  const data = Object.assign([...makeRows(2)], { path: `/secret/${name.replaceAll('/', '')}`, tokens: 7 });
  const card = await run(join(scratch, 'hostile'), { data });
  expect(card.split('\n')).toContain(
    '- Data: `` `]<script>alert(1)<script> [a](http:b) @you # no heading .jsonl, 2 examples, 7 tokens that count ``',
  );
  expect(card).not.toContain('secret');
});

test('what a code span holds cannot end it', () => {
  expect(code('a')).toBe('`a`');
  expect(code('')).toBe('`  `');
  expect(code('a``b`')).toBe('``` a``b` ```');
  expect(code('a\r\nb')).toBe('`a  b`');
});

test.each([
  ['/home/me/.cache/huggingface/hub/models--org--name/snapshots/0f3a', 'org/name'],
  ['C:\\hub\\models--org--name\\snapshots\\0f3a\\', 'org/name'],
  ['models/SmolLM2-135M/', 'SmolLM2-135M'],
  ['models/my model: "x"\n', undefined],
  ['/', undefined],
])('the base in %j has the id %j', (directory, id) => {
  expect(baseModelId(directory)).toBe(id);
});

test('a base whose folder cannot be an id is left out of the front matter', async () => {
  const { model } = fixture;
  const strange = jest.replaceProperty(model, 'directory', '/models/a: b');
  try {
    const card = await run(join(scratch, 'strange'));
    expect(frontMatter(card)).toEqual([
      'library_name: peft',
      'pipeline_tag: text-generation',
      'tags:',
      '- lora',
      '- lora-native',
      '- transformers',
    ]);
    expect(card).toContain("CausalLM.fromPretrained('BASE_MODEL')");
  } finally {
    strange.restore();
  }
});

test('a plain save writes none, and a reader passes over it', async () => {
  const { model } = fixture;
  const outDir = join(scratch, 'read');
  await run(outDir);
  const loaded = await model.loadAdapter(outDir, { name: 'loaded' });
  expect(loaded.parameters()).toHaveLength(model.adapters.get('mine')!.parameters().length);
  await loaded.save(join(scratch, 'plain'));
  expect(() => readFileSync(join(scratch, 'plain', 'README.md'))).toThrow('ENOENT');
});
