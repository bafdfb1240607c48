/** Modelfiles beside GGUF files, read as Ollama reads them: the same prompts as the model's own chat template gives. */
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CausalLM, convertAdapter, convertModel } from '../../lib';
import { Tokenizer } from '../../lib/text/tokenizer';
import { goTemplate } from '../../lib/convert/go_template';
import { writeModelfile } from '../../lib/convert/modelfile';
import { commandLine } from '../support/command_line';
import { expectReject } from '../support/errors';
import { goPrompt, modelfileCommands } from '../support/ollama';
import { describeWithData } from '../support/shared_data';
import { temporaryFolder } from '../support/temporary';
import { tinyModel, type TinyModelOptions } from '../support/tiny_model';

const root = temporaryFolder();
let count = 0;
/** A new folder. */
const fresh = (): string => {
  const dir = join(root, String(count++));
  mkdirSync(dir);
  return dir;
};

const chatml = `{% for m in messages %}{% if loop.first and m.role != 'system' %}{{ '<|user|>system\\nBe kind {{ now }}</s>\\n' }}{% endif %}{{ '<|user|>' + m.role + '\\n' + m.content + '</s>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}`;
const templates: Readonly<Record<string, string>> = {
  chatml,
  'with a first token, and without white space around contents': `{{ bos_token }}{% for m in messages %}<|user|>{{ m.role }}

{{ m.content | trim }}</s>{% endfor %}{% if add_generation_prompt %}<|user|>assistant

{% endif %}`,
  'with the system in the turn of the user': `{{ bos_token }}{% if messages[0].role == 'system' %}{% set told = '[' + messages[0].content + ']\\n\\n' %}{% set rest = messages[1:] %}{% else %}{% set told = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns alternate') }}{% endif %}{{ '<|user|>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + (told if loop.first else '') + m.content + '</s>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|user|>model\\n' }}{% endif %}`,
  'that passes over the system': `{% for m in messages %}{% if m.role != 'system' %}<|user|>{{ m.role + m.content }}</s>{% endif %}{% endfor %}`,
  'without a system': `{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% elif m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}</s>{% endif %}{% endfor %}`,
};
const addsBos = (name: string): boolean => templates[name]!.startsWith('{{ bos_token }}');

const say = (role: string, content: string) => ({ role, content });
const conversations = [
  [say('user', 'One')],
  [say('user', 'One "1"'), say('assistant', 'Two\n2'), say('user', 'Three {{ 3 }}')],
  [say('system', 'Be'), say('user', 'One')],
  [say('system', 'Be'), say('user', 'One'), say('assistant', 'Two'), say('user', 'Three')],
];

/** The Modelfile of a model in a new folder. */
async function converted(options: TinyModelOptions = {}): Promise<Map<string, string[]> & { text: string }> {
  const dir = await tinyModel(options);
  const file = join(fresh(), 'model.gguf');
  const written = await convertModel(dir, file, { format: 'f32', modelfile: true });
  expect(written!.path).toBe(join(file, '../Modelfile'));
  const text = readFileSync(written!.path, 'utf8');
  for (const note of written!.notes) expect(text).toContain(`# ${note}\n`);
  const commands = new Map<string, string[]>();
  for (const [name, value] of modelfileCommands(text))
    commands.set(name, [...(commands.get(name) ?? []), value]);
  return Object.assign(commands, { text });
}

/** The tokenizer of a model with this template, which begins texts with <s> or does not. */
async function tokenizerWith(chatTemplate: string): Promise<Tokenizer> {
  return (await Tokenizer.fromDirectory(await tinyModel({ chatTemplate })))!;
}

test.each(Object.keys(templates))('a template %s: the same prompts', async (name) => {
  const tokenizer = await tokenizerWith(templates[name]!);
  const bos = addsBos(name) ? '<s>' : '';
  const made = goTemplate(tokenizer, bos);
  if (made.text === undefined) throw new Error(made.notes[0]);
  let compared = 0;
  for (const messages of conversations) {
    let own: string;
    try {
      own = tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true, tokenize: false });
    } catch {
      continue;
    }
    expect(bos + goPrompt(made.text, messages)).toBe(own);
    compared++;
  }
  expect(compared).toBe(name === 'without a system' ? 2 : 4);
  expect(made.notes).toEqual([
    ...(name.endsWith(' system') ? [expect.stringContaining('no place for a system message')] : []),
    ...(name.includes('white space') ? [expect.stringContaining('white space around a message stays')] : []),
  ]);
});

test('an answer that has begun goes on', async () => {
  const tokenizer = await tokenizerWith(chatml);
  const messages = [say('user', 'One'), say('assistant', 'Two and')];
  const own = tokenizer.applyChatTemplate(messages, { continueAssistant: true, tokenize: false });
  expect(goPrompt(goTemplate(tokenizer, '').text!, messages)).toBe(own);
});

describeWithData('published templates', 'chat_templates', (dir) => {
  test.each(readdirSync(dir))('%s: the same prompts', async (file) => {
    const tokenizer = await tokenizerWith(readFileSync(join(dir, file), 'utf8'));
    const bos = /gemma|llama3/.test(file) ? '<s>' : '';
    const made = goTemplate(tokenizer, bos);
    expect(made.notes.join()).toBe(
      /gemma|llama3/.test(file)
        ? 'white space around a message stays, which the chat template takes off'
        : file.includes('qwen3')
          ? 'thoughts stay in the text of an answer: nothing takes them out of earlier ones'
          : '',
    );
    for (const messages of conversations)
      expect(bos + goPrompt(made.text!, messages)).toBe(
        tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true, tokenize: false }),
      );
  });
});

const turn = `{{ '<|user|>' + m.content + '</s>' }}`;
test.each<[template: string, bos: string, why: string]>([
  [
    '{% for m in messages %}<|user|>{{ m.content | upper }}{% endfor %}',
    '',
    'does not write each message once',
  ],
  ['{% for m in messages %}{{ m.content + m.content }}{% endfor %}', '', 'does not write each message once'],
  [
    `{% for m in messages %}{% if loop.index0 > 3 %}!{% endif %}${turn}{% endfor %}`,
    '',
    'writes turns differently in longer conversations',
  ],
  [`{% for m in messages %}${turn}{% endfor %}`, '<s>', 'begins without <s>, which Ollama puts before'],
  [`{{ strftime_now('%Y') }}{% for m in messages %}${turn}{% endfor %}`, '', 'writes the date of the day'],
  [
    `{% for m in messages %}{% if m.role == 'system' and not loop.first %}!{% endif %}{{ '<|user|>' + m.role + m.content + '</s>' }}{% endfor %}`,
    '',
    'writes a later system message differently',
  ],
  [`{% for m in messages %}{{ loop.index }}${turn}{% endfor %}`, '', 'depend on what stands around them'],
  [`{{ raise_exception('no') }}`, '', 'cannot be run: '],
])('no TEMPLATE of %s', async (template, bos, why) => {
  const made = goTemplate(await tokenizerWith(template), bos);
  expect(made).toEqual({ text: undefined, notes: [expect.stringContaining(why)] });
});

test.each(['"""', '\u00a0'])(
  'a template that a Modelfile cannot hold (%j) is left out, with the reason',
  async (mark) => {
    const commands = await converted({
      chatTemplate: `{{ bos_token }}{% for m in messages %}{{ '${mark}' + m.role + m.content }}{% endfor %}`,
    });
    expect(commands.has('TEMPLATE')).toBe(false);
    expect(commands.text).toContain('# no TEMPLATE, since it has characters that a Modelfile cannot hold');
  },
);

test('what files may ask for is bounded, before anything is written', async () => {
  const [model, dir] = [await tinyModel({ generation: { stop_strings: ['a', 'b'] } }), fresh()];
  const options = { format: 'f32', modelfile: true, limits: { stopStrings: 1 } } as const;
  await expectReject(convertModel(model, join(dir, 'model.gguf'), options), 'ERR_FILE', /2 stop_strings/);
  expect(readdirSync(dir)).toEqual([]);
});

test('what generation_config.json says', async () => {
  const commands = await converted({
    chatTemplate: `{{ bos_token }}${chatml}`,
    config: { max_position_embeddings: 100_000 },
    generation: {
      ...{ do_sample: true, temperature: 0.6, top_p: 0.9, min_p: 0.1, repetition_penalty: 1.2 },
      ...{ eos_token_id: [257, 258], stop_strings: ['User:', 'a "b"', 'c\n"""'] },
    },
  });
  expect(goPrompt(commands.get('TEMPLATE')![0]!, conversations[2]!)).toContain('<|user|>system\nBe</s>\n');
  commands.delete('TEMPLATE');
  expect([...commands]).toEqual([
    ['FROM', ['./model.gguf']],
    ['stop', ['</s>', '<|user|>', 'User:', 'a "b"']],
    ['num_ctx', ['8192']],
    ['temperature', ['0.6']],
    ['top_k', ['50']],
    ['top_p', ['0.9']],
    ['min_p', ['0.1']],
    ['repeat_penalty', ['1.2']],
    ['repeat_last_n', ['-1']],
  ]);
  expect(commands.text).toContain('# num_ctx may be up to 100000');
  expect(commands.text).toContain('# a stop string is left out: "c\\n');
});

test.each([
  [undefined, []],
  [{}, ['repeat_penalty 1']],
  [{ do_sample: false, temperature: 0.6 }, ['temperature 0', 'repeat_penalty 1']],
  [{ temperature: 0.6 }, ['repeat_penalty 1']],
])('sampling that the files leave open is left to Ollama: %j', async (generation, said) => {
  const tokenizerConfig = { chat_template: null };
  const commands = await converted({ tokenizerConfig, ...(generation && { generation }) });
  expect(commands.has('TEMPLATE')).toBe(false);
  expect(commands.text).toContain('# no TEMPLATE, since the model has no chat template');
  const lines = [...commands].flatMap(([name, values]) => values.map((value) => `${name} ${value}`));
  expect(lines).toEqual(['FROM ./model.gguf', 'stop </s>', 'num_ctx 128', ...said]);
});

test('a model without a tokenizer has no template and no stop', async () => {
  const commands = await converted({ tokenizer: false });
  expect([...commands.keys()]).toEqual(['FROM', 'num_ctx']);
  expect(commands.text).toContain('# no TEMPLATE and no stop');
});

test('a Modelfile that is there stays, and nothing is written', async () => {
  const [model, dir] = [await tinyModel(), fresh()];
  const own = join(dir, 'Modelfile');
  writeFileSync(own, 'FROM llama3.2\n');
  await expectReject(
    convertModel(model, join(dir, 'model.gguf'), { format: 'f32', modelfile: true }),
    'ERR_FILE',
    /^\[convertModel\] .*Modelfile exists already: move it away/,
  );
  expect([readFileSync(own, 'utf8'), readdirSync(dir)]).toEqual(['FROM llama3.2\n', ['Modelfile']]);
  expect(await convertModel(model, join(dir, 'model.gguf'), { format: 'f32' })).toBe(undefined);
  expect(readFileSync(own, 'utf8')).toBe('FROM llama3.2\n');
  const meanwhile = writeModelfile('convertModel', join(dir, 'model.gguf'), { text: 'FROM x\n', notes: [] });
  await expectReject(meanwhile, 'ERR_FILE', /exists already/);
  expect(readFileSync(own, 'utf8')).toBe('FROM llama3.2\n');
  for (const [name, says] of [
    ['Modelfile', /another name than Modelfile/],
    ['a\nb.gguf', /printable characters/],
  ] as const)
    await expectReject(
      convertModel(model, join(fresh(), name), { format: 'f32', modelfile: true }),
      'ERR_ARGUMENT',
      says,
    );
});

test('an adapter is of its base, by ways that start at the Modelfile', async () => {
  const dir = fresh();
  const base = await tinyModel({ chatTemplate: `{{ bos_token }}${chatml}` });
  const model = await CausalLM.fromPretrained(base);
  const adapter = model.addAdapter({ r: 2, targetModules: ['q_proj'] });
  await adapter.save(join(dir, 'peft'));
  await model.dispose();
  await convertModel(base, join(dir, 'base.gguf'), { format: 'f32' });
  mkdirSync(join(dir, 'out'));
  const out = join(dir, 'out/adapter.gguf');
  const argv = ['convert', join(dir, 'peft'), out, '--base', join(dir, 'base.gguf'), '--modelfile', '--json'];
  const { status, out: printed, err } = await commandLine([...argv, '--format', 'gguf']);
  expect([status, err]).toEqual([0, expect.stringContaining(`wrote ${join(dir, 'out/Modelfile')}`)]);
  expect(JSON.parse(printed)).toMatchObject({ modelfile: { path: join(dir, 'out/Modelfile'), notes: [] } });
  const commands = modelfileCommands(readFileSync(join(dir, 'out/Modelfile'), 'utf8'));
  expect(commands.slice(0, 2)).toEqual([
    ['FROM', '../base.gguf'],
    ['ADAPTER', './adapter.gguf'],
  ]);
  expect(goPrompt(commands[2]![1], conversations[0]!)).toMatch(
    /<\|user\|>user\nOne<\/s>\n<\|assistant\|>\n$/,
  );
  const refused = await commandLine([...argv.slice(0, -1), '--format', 'mlx']);
  expect([refused.status, refused.err]).toEqual([
    2,
    expect.stringContaining('--modelfile is for GGUF files'),
  ]);
  await expectReject(
    convertAdapter(join(dir, 'peft'), join(dir, 'mlx'), { format: 'mlx', base, modelfile: true }),
    'ERR_ARGUMENT',
    /expected format 'gguf' with modelfile but received 'mlx'/,
  );
  expect(existsSync(join(dir, 'mlx'))).toBe(false);
  const cached = join(dir, 'models--org--base/snapshots', 'a'.repeat(40));
  cpSync(base, cached, { recursive: true });
  const again = join(fresh(), 'adapter.gguf');
  await expectReject(
    convertAdapter(join(dir, 'peft'), again, { format: 'gguf', base: cached, modelfile: true }),
    'ERR_ARGUMENT',
    /Ollama does not read the cache of the hub/,
  );
  expect(existsSync(again)).toBe(false);
});
