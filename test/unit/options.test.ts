/** The table of options: what it says holds for programs and for command lines alike. */
import { flagName, parse } from '../../lib/cli/args';
import { commands } from '../../lib/cli/commands';
import { defaultLimits } from '../../lib/engine/engine';
import { checkedOptions, expectation, flagsOf, type Option } from '../../lib/options/option';
import { defaultsOf, handlerNumbers } from '../../lib/options/serving';
import { earlyStoppingOptions } from '../../lib/options/early_stopping';
import { adapterOptions, trainerOptions } from '../../lib/options/table';
import { normalizeLoRAConfig } from '../../lib/peft/config';

const fromFlags = (...argv: string[]) =>
  parse('train', commands['train']!, ['--model', 'm', '--data', 'd', ...argv]).values;

/** A value that the row does not allow. */
function wrong({ minimum, above, choices }: Option): number | string | undefined {
  if (minimum !== undefined) return minimum - 1;
  if (above !== undefined) return above - 1;
  return choices && 'none of them';
}
const bounded = Object.entries<Option>(trainerOptions).flatMap(([name, row]) => {
  const value = wrong(row);
  return value === undefined || row.own ? [] : [{ name, row, value }];
});

test.each(bounded)('$name: $value is refused with the same words', ({ name, row, value }) => {
  expect(() => checkedOptions('Trainer', trainerOptions, { [name]: value })).toThrow(
    `[Trainer] expected ${name} to be ${expectation(row)} but received`,
  );
  if (row.help === undefined) return;
  expect(() => fromFlags(`--${flagName(name)}=${value}`)).toThrow(
    row.above === undefined
      ? `expected --${flagName(name)} to be ${expectation(row)} but received "${value}"`
      : `train needs --${flagName(name)} above ${row.above}`,
  );
});

test('every option with a sentence of help is a flag of train, with the same default', () => {
  const flags = fromFlags();
  const defaults: Record<string, unknown> = checkedOptions('Trainer', trainerOptions, {});
  const otherwise = ['outDir', 'report']; // a command leaves files behind
  for (const name of Object.keys(flagsOf(trainerOptions)).filter((one) => !otherwise.includes(one))) {
    expect(Object.keys(flags)).toContain(name);
    if (name in defaults) expect([name, flags[name]]).toEqual([name, defaults[name]]);
  }
  const config: Record<string, unknown> = { ...normalizeLoRAConfig() };
  for (const name of ['r', 'loraDropout', 'useDora'])
    expect([name, flags[name]]).toEqual([name, config[name]]);
  const { word, defaultText } = adapterOptions.targetModules;
  expect([word, defaultText]).toEqual([config['targetModules'], word]);
  expect(Object.keys(flags)).toEqual(expect.arrayContaining(Object.keys(adapterOptions)));
  expect(Object.keys(flags)).toContain(Object.keys(flagsOf(earlyStoppingOptions))[0]);
});

test('penalties that favor what was said are taken', () => {
  const flags = ['repetition-penalty=0.9', 'presence-penalty=-1', 'frequency-penalty=-0.5'];
  const { values } = parse('chat', commands['chat']!, ['--model', 'm', ...flags.map((flag) => `--${flag}`)]);
  expect(values).toMatchObject({ repetitionPenalty: 0.9, presencePenalty: -1, frequencyPenalty: -0.5 });
});

test('an engine and a server have the defaults that their documents name', () => {
  expect(defaultLimits).toEqual({
    maxBatchSize: 16,
    maxQueued: 256,
    kvCacheBytes: 2 ** 30,
    prefillChunk: 256,
  });
  expect(defaultsOf(handlerNumbers)).toEqual({
    maxAdapters: 16,
    maxRunning: 16,
    maxQueued: 256,
    defaultMaxNewTokens: 1024,
    maxMessages: 1024,
    maxBodyBytes: 4 * 2 ** 20,
    maxWaitingBytes: 64 * 2 ** 20,
    bodyTimeoutMs: 30_000,
    stallTimeoutMs: 60_000,
  });
});
