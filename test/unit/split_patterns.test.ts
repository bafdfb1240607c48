/** Expressions as tokenizer.json has them, in the spelling of Oniguruma, on an engine of linear time. */
import { LinearPattern } from '../../lib/text/split_patterns';

test.each<[pattern: string, text: string, found: string[]]>([
  [String.raw`\P{L}`, 'a1b', ['1']],
  [String.raw`\p{^L}`, 'a1b', ['1']],
  [String.raw`\P{^L}`, 'a1b', ['a', 'b']],
  [String.raw`\p{Script=Greek}|\p{sc=Han}`, 'aλ字', ['λ', '字']],
  [String.raw`[^\p{L}\d]+`, 'a1-+b', ['-+']],
  [String.raw`\x{3bb}|\u5b57|\x61`, 'aλ字b', ['a', 'λ', '字']],
  [String.raw`\x61b`, 'abc', ['ab']],
  [String.raw`\h+`, 'xfFg', ['fF']],
  [String.raw`[\h]+|\H`, 'xfF', ['x', 'fF']],
  [String.raw`\w+`, 'a²-_b', ['a²', '_b']],
  ['^b$', 'a\nb\nc', ['b']],
  ['.', 'a\nb', ['a', 'b']],
  ['(?<x>a)b|(?i:c)', 'abC', ['ab', 'C']],
  ['a{,2}b', 'aaab', ['aab']],
  ['a{2}|a{x|]|}', 'aaa{x]}', ['aa', 'a{x', ']', '}']],
  ['[]a]|[^]a]', ']ab', [']', 'a', 'b']],
])('%s', (pattern, text, found) => {
  expect(text.match(new LinearPattern(pattern) as unknown as RegExp)).toEqual(found);
});

test.each([
  [String.raw`[\W]`, String.raw`\W is not supported`],
  [String.raw`(a)\k<1>`, String.raw`\k is not supported`],
  ['[a[b]]', 'a class within a class is not supported'],
  ['[a&&b]', 'a class within a class is not supported'],
  ['a(?=b)', '(?=b… is not supported'],
  ['a\\', 'bad escape at the end'],
])('%s is refused', (pattern, reason) => {
  expect(() => new LinearPattern(pattern)).toThrow(new SyntaxError(reason));
});
