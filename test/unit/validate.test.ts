import { LoRAError } from '../../lib/errors';
import { check, checkOptions, checkOneOf, checkShape, describe as words, suggest } from '../../lib/validate';
import { expectThrow } from '../support/errors';

describe('LoRAError', () => {
  test('carries code, op and cause, and is an Error by name', () => {
    const cause = new Error('why');
    const error = new LoRAError('ERR_FILE', 'no such file', { op: 'open', cause });
    expect(error).toBeInstanceOf(Error);
    expect({ ...error }).toEqual({ code: 'ERR_FILE', op: 'open' });
    expect(error.cause).toBe(cause);
    expect(String(error)).toBe('LoRAError: no such file');
    expect(new LoRAError('ERR_DATA', 'x').op).toBeUndefined();
  });
});

describe('suggest', () => {
  const options = ['lr', 'r', 'loraAlpha', 'maxSteps', 'weightDecay', 'targetModules'];
  test.each([
    ['learningRate', 'lr'],
    ['learning_rate', 'lr'],
    ['rank', 'r'],
    ['alpha', 'loraAlpha'],
    ['steps', 'maxSteps'],
    ['weight_decay', 'weightDecay'],
    ['wieghtDecay', 'weightDecay'],
    ['target-modules', 'targetModules'],
    ['loraAlpa', 'loraAlpha'],
  ])('%s → %s', (word, wanted) => expect(suggest(word, options)).toBe(wanted));
  test('says nothing when nothing is near', () => {
    expect(suggest('somethingElse', options)).toBeUndefined();
    expect(suggest('constructor', options)).toBeUndefined();
  });
});

describe('checks', () => {
  test('an unknown option names the near one, or all', () => {
    expectThrow(
      () => checkOptions('AdamW', { learningRate: 1 }, ['lr', 'eps']),
      'ERR_ARGUMENT',
      "[AdamW] unknown option 'learningRate'; did you mean 'lr'?",
    );
    expectThrow(
      () => checkOptions('AdamW', { colour: 1 }, ['lr', 'eps']),
      'ERR_ARGUMENT',
      "[AdamW] unknown option 'colour'; the options are lr, eps",
    );
    expectThrow(
      () => checkOptions('AdamW', 3 as never, ['lr']),
      'ERR_ARGUMENT',
      '[AdamW] expected an object of options but received 3',
    );
  });
  test('the sentence opens with the op', () => {
    const error = expectThrow(() => check(false, 'add', 'expected x'), 'ERR_ARGUMENT', '[add] expected x');
    expect(error.op).toBe('add');
  });
  test("PyTorch's names of dtypes bring ours to mind", () => {
    for (const [given, ours] of [
      ['bfloat16', 'bf16'],
      ['float16', 'f16'],
      ['float32', 'f32'],
    ] as const)
      expectThrow(
        () => checkOneOf('from_pretrained', 'dtype', given, ['auto', 'f32', 'bf16', 'f16']),
        'ERR_ARGUMENT',
        `[from_pretrained] expected dtype to be 'auto', 'f32', 'bf16', 'f16' but received '${given}'; did you mean '${ours}'?`,
      );
  });
  test('options of the library itself are allowed, and nobody learns of them', () => {
    checkOptions('forward', { watch: 1 }, ['labels'], ['watch']);
    expectThrow(
      () => checkOptions('forward', { zzz: 1 }, ['labels'], ['watch']),
      'ERR_ARGUMENT',
      "[forward] unknown option 'zzz'; the options are labels",
    );
  });
  test('words and shapes', () => {
    expectThrow(
      () => checkOneOf('tensor', 'dtype', 'fp32', ['f32', 'bf16']),
      'ERR_ARGUMENT',
      "[tensor] expected dtype to be 'f32', 'bf16' but received 'fp32'; did you mean 'f32'?",
    );
    expectThrow(() => checkShape('x', [1, -2]), 'ERR_ARGUMENT', /integers of at least 0/);
  });
  test.each([
    [null, 'null'],
    ['a', "'a'"],
    [-0, '-0'],
    [[1, 2], '[1, 2]'],
    [new Float32Array(3), 'a Float32Array of 3'],
    [new Map(), 'an instance of Map'],
    [{}, 'an object'],
    [(): void => undefined, 'a function'],
  ])('describes %p', (value, text) => expect(words(value)).toBe(text));
});
