import { help, parse, wantsHelp } from '../../lib/cli/args';
import { defineCommand, helpFlag, UsageError } from '../../lib/cli/command';
import { commands } from '../../lib/cli/commands';
import { version } from '../../package.json';
import { commandLine } from '../support/command_line';

const bake = defineCommand({
  summary: 'Bakes.',
  usage: 'CAKE [flags]',
  flags: {
    oven: { type: 'string', value: 'NAME', required: true, help: 'which oven' },
    heat: { type: 'number', minimum: 0, default: 0.5, help: 'how hot' },
    layerCount: { type: 'integer', minimum: 1, default: 3, help: 'how many layers' },
    offset: { type: 'number', help: 'may be negative' },
    form: { type: 'string', choices: ['round', 'square'], default: 'round', help: 'its form' },
    top: { type: 'string', help: 'what lies on it', defaultText: 'nothing' },
    door: { type: 'integer', minimum: 1, maximum: 8, default: 8, help: 'which one' },
    slow: { type: 'boolean', help: 'slowly' },
    json: { type: 'boolean', help: 'as JSON' },
    help: helpFlag,
  },
  positionals: ['CAKE'],
  json: 'one object: { cake }',
  run: async () => undefined,
});
const read = (...argv: string[]) => parse('bake', bake, argv);

describe('parse', () => {
  test('gives every flag its value, or its default', () => {
    expect(read('nut', '--oven', 'big')).toEqual({
      positionals: ['nut'],
      values: {
        oven: 'big',
        heat: 0.5,
        layerCount: 3,
        offset: undefined,
        form: 'round',
        top: undefined,
        door: 8,
        slow: false,
        json: false,
        help: false,
      },
    });
    const given = [
      '--oven=o',
      '--heat',
      '0',
      '--layer-count=12',
      '--offset=-1e-3',
      '--form',
      'square',
      '--slow',
    ];
    expect(read('nut', ...given, '--top', '')).toEqual({
      positionals: ['nut'],
      values: {
        oven: 'o',
        heat: 0,
        layerCount: 12,
        offset: -0.001,
        form: 'square',
        top: '',
        door: 8,
        slow: true,
        json: false,
        help: false,
      },
    });
  });

  test.each<[string[], string]>([
    [['nut', '--oven', 'o', '--heat', ''], 'expected --heat to be a number of at least 0 but received ""'],
    [['nut', '--oven', 'o', '--heat', ' '], 'expected --heat to be a number of at least 0 but received " "'],
    [
      ['nut', '--oven', 'o', '--heat', 'hot'],
      'expected --heat to be a number of at least 0 but received "hot"',
    ],
    [['nut', '--oven', 'o', '--heat=-1'], 'expected --heat to be a number of at least 0 but received "-1"'],
    [['nut', '--oven', 'o', '--heat', 'Infinity'], 'a number of at least 0 but received "Infinity"'],
    [['nut', '--oven', 'o', '--offset', 'x'], 'expected --offset to be a number but received "x"'],
    [
      ['nut', '--oven', 'o', '--layer-count', '1.5'],
      'expected --layer-count to be a whole number of at least 1 but received "1.5"',
    ],
    [['nut', '--oven', 'o', '--layer-count', '0'], 'a whole number of at least 1 but received "0"'],
    [
      ['nut', '--oven', 'o', '--form', 'oval'],
      'expected --form to be one of round, square but received "oval"',
    ],
    [['nut'], 'bake needs --oven NAME'],
    [['--oven', 'o'], 'bake needs a CAKE'],
    [['nut', 'plum', '--oven', 'o'], 'unexpected argument "plum". See lora-native bake --help'],
    [['nut', '--ovne', 'o'], 'unknown flag --ovne; did you mean --oven? See lora-native bake --help'],
    [['nut', '--layerCount', '2'], 'unknown flag --layerCount; did you mean --layer-count?'],
    [['nut', '--zzzzzz'], 'unknown flag --zzzzzz. See lora-native bake --help'],
    [['nut', '--oven'], 'bake needs NAME after --oven. See lora-native bake --help'],
    [['nut', '--oven', 'o', '--slow=yes'], '--slow takes no value. See lora-native bake --help'],
    [['nut', '--oven', 'o', '-x'], 'unknown flag -x. See lora-native bake --help'],
    [['nut', '--oven', 'o', '-hv'], 'unknown flag -v. See lora-native bake --help'],
    [
      ['nut', '--oven', 'o', '--heat', '-1'],
      'expected --heat to be a number of at least 0 but received "-1"',
    ],
    [['nut', '--oven', 'o', '--heat', '--slow'], 'bake needs N after --heat: one that begins with a dash'],
    [
      ['nut', '--oven', '--slow'],
      'bake needs NAME after --oven: one that begins with a dash is written --oven=--slow.',
    ],
    [['nut', '--oven', '-3'], 'bake needs NAME after --oven'],
    [
      ['nut', '--oven', 'o', '--door', '70000'],
      'a whole number of at least 1 and at most 8 but received "70000"',
    ],
  ])('%j is wrong usage: %s', (argv, sentence) => {
    expect(() => read(...argv)).toThrow(UsageError);
    expect(() => read(...argv)).toThrow(sentence);
  });

  test('takes negative numbers, and other values with a dash after an equals sign', () => {
    const given = ['nut', '--oven=-o', '--offset', '-.5', '--top', '-'];
    expect(read(...given).values).toMatchObject({ oven: '-o', offset: -0.5, top: '-' });
    expect(read('nut', '--oven=o', '--offset', '-2e3', '--door', '8').values).toMatchObject({
      offset: -2000,
      door: 8,
    });
  });

  test('takes the earlier name of a flag', () => {
    const most = (...argv: string[]): unknown =>
      parse('serve', commands['serve']!, ['--model', 'm', ...argv]).values['defaultMaxNewTokens'];
    expect([most(), most('--default-max-tokens', '7'), most('--default-max-new-tokens=8')]).toEqual([
      1024, 7, 8,
    ]);
  });

  test('gives a flag that may be repeated as a list', () => {
    const list = (...argv: string[]): unknown =>
      parse('chat', commands['chat']!, ['--model', 'm', ...argv]).values['adapter'];
    expect(list()).toEqual([]);
    expect(list('--adapter', 'a', '--adapter=b=c')).toEqual(['a', 'b=c']);
  });

  test('takes what follows -- as it is', () => {
    expect(read('--oven', 'o', '--', '--ovne').positionals).toEqual(['--ovne']);
    expect(wantsHelp(['--', '-h'])).toBe(false);
    expect(wantsHelp(['nut', '-h', '--'])).toBe(true);
    expect(wantsHelp(['--help'])).toBe(true);
    expect(wantsHelp(['--oven', 'o'])).toBe(false);
  });
});

test('the help shows every flag with its value, its words and its default', () => {
  expect(help('bake', bake)).toBe(`Bakes.

Usage: lora-native bake CAKE [flags]

  --oven NAME      which oven (required)
  --heat N         how hot (default 0.5)
  --layer-count N  how many layers (default 3)
  --offset N       may be negative
  --form TEXT      its form: round, square (default round)
  --top TEXT       what lies on it (default nothing)
  --door N         which one (default 8)
  --slow           slowly
  --json           as JSON
  -h, --help       this text

--json prints one object: { cake }`);
});

describe.each(Object.entries(commands))('%s', (name, command) => {
  test.each(['--help', '-h'])(
    '%s prints its help, which fits a screen, and does nothing else',
    async (flag) => {
      const { status, out, err } = await commandLine([name, flag, '--model', 'nowhere']);
      expect({ status, err }).toEqual({ status: 0, err: '' });
      expect(out).toBe(`${help(name, command)}\n`);
      const lines = out.trimEnd().split('\n');
      expect(lines.length).toBeLessThanOrEqual(50);
      for (const line of lines) expect(line.length).toBeLessThanOrEqual(100);
    },
  );

  test('takes --json, and says what it prints', () => {
    expect(command.flags['json']).toMatchObject({ type: 'boolean' });
    expect(command.json).not.toBe('');
  });

  test('its defaults are values that its own rules allow', () => {
    const required = Object.entries(command.flags).flatMap(([key, flag]) =>
      flag.required ? [`--${key.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}`, 'x'] : [],
    );
    for (const [key, flag] of Object.entries(command.flags)) {
      if (flag.default === undefined || flag.type === 'boolean') continue;
      const words = [`--${key.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}`, String(flag.default)];
      const { values } = parse(name, command, [...(command.positionals ?? []), ...required, ...words]);
      expect(values[key]).toBe(flag.default);
    }
  });
});

describe('lora-native', () => {
  test.each(['--version', '-v'])('%s prints the version alone', async (flag) => {
    expect(await commandLine([flag])).toEqual({ status: 0, out: `${version}\n`, err: '' });
  });

  test('without a command it lists them, on the way to exit code 2', async () => {
    const bare = await commandLine([]);
    expect(bare).toMatchObject({ status: 2, err: '' });
    for (const argument of ['--help', '-h', 'help'])
      expect(await commandLine([argument])).toEqual({ ...bare, status: 0 });
    for (const [name, { summary }] of Object.entries(commands))
      expect(bare.out).toMatch(new RegExp(`^ {2}${name} +${summary.replaceAll('.', '\\.')}$`, 'm'));
  });

  test('help NAME is NAME --help', async () => {
    const { train, serve } = commands;
    expect(await commandLine(['help', 'train'])).toEqual({
      status: 0,
      out: `${help('train', train!)}\n`,
      err: '',
    });
    expect((await commandLine(['help', 'serve', '--all'])).out).toBe(`${help('serve', serve!, true)}\n`);
    expect(await commandLine(['help', 'trian'])).toMatchObject({
      status: 2,
      err: 'lora-native: unknown command trian; did you mean train? See lora-native --help\n',
    });
  });

  test('an unknown command names the near one', async () => {
    expect(await commandLine(['trian'])).toEqual({
      status: 2,
      out: '',
      err: 'lora-native: unknown command trian; did you mean train? See lora-native --help\n',
    });
    expect((await commandLine(['toString'])).err).toBe(
      'lora-native: unknown command toString. See lora-native --help\n',
    );
  });
});
