import { JsonScanner, jsonFault } from '../../lib/formats/json_scanner';

const read = (text: string) => new JsonScanner(Buffer.from(text)).string();

test.each(['', 'é"\\/\b\n', '\\', 'ends in \\\\"', '😀'])(
  'a string has the value that JSON.parse gives: %j',
  (value) => {
    expect(read(`${JSON.stringify(value)}, "more"`)).toBe(value);
  },
);

test.each([
  ['["a', 'unterminated string at character 3'],
  ['["a\\', 'unterminated string at character 4'],
  ['["\\""', 'expected "," or "]" at character 5'],
  ['["a\u001f"]', 'control character in a string at character 3'],
  ['["\\\u001f"]', 'control character in a string at character 3'],
  ['["\\x"]', 'bad escape in the string that ends at character 5'],
  ['["\\ud83d"]', 'half of a surrogate pair in the string that ends at character 9'],
])('of %j the fault and its place are said', (text, fault) => {
  expect(jsonFault(text)).toBe(fault);
});
