/** What the bytes of a body tell before it is parsed, however they are cut. */
import { BodyScan } from '../../lib/serve/body_scan';

const megabytes = 2 ** 20;

/** Why a body is refused that comes in pieces of so many bytes; undefined where it is not. */
function refusalOf(text: string, pieceBytes = 65_536, maxBodyBytes = 4 * megabytes) {
  const scan = new BodyScan(maxBodyBytes);
  const bytes = Buffer.from(text);
  for (let at = 0; at < bytes.length; at += pieceBytes) scan.take(bytes.subarray(at, at + pieceBytes));
  const { refusal } = scan;
  return refusal && [refusal.status, refusal.code, refusal.message];
}

const list = (item: string, count: number): string => `[${Array<string>(count).fill(item).join(',')}]`;
const keys = (count: number): string => `{${Array.from({ length: count }, (_, i) => `"k${i}":1`).join(',')}}`;
const tooMany = (most: number, what: string) => [
  413,
  'request_too_large',
  `expected a body of at most ${most} ${what}`,
];
const parts = 'keys, lists and objects';

test('keys, lists and objects are counted together, and items apart', () => {
  expect(refusalOf(keys(2 ** 15 - 1))).toBeUndefined();
  expect(refusalOf(keys(2 ** 15))).toEqual(tooMany(2 ** 15, parts));
  expect(refusalOf(list('[]', 2 ** 15 - 1))).toBeUndefined();
  expect(refusalOf(list('[]', 2 ** 15))).toEqual(tooMany(2 ** 15, parts));
  expect(refusalOf(list('{"a":1}', 2 ** 14))).toEqual(tooMany(2 ** 15, parts));
  expect(refusalOf(list('1', 2 ** 19 + 1))).toBeUndefined();
  expect(refusalOf(list('1', 2 ** 19 + 2))).toEqual(tooMany(2 ** 19, 'items in lists and objects'));
});

test('a server that takes larger bodies takes more of them, and one of smaller bodies no fewer', () => {
  expect(refusalOf(keys(2 ** 16), 65_536, 8 * megabytes)).toEqual(tooMany(2 ** 16, parts));
  expect(refusalOf(keys(2 ** 16 - 1), 65_536, 8 * megabytes)).toBeUndefined();
  expect(refusalOf(keys(2 ** 15 - 1), 65_536, 1000)).toBeUndefined();
});

test.each([1, 2, 3, 7, 1000])('strings count for nothing, in pieces of %i bytes', (pieceBytes) => {
  const inner = '\\\\\\"[{:,'.repeat(20_000);
  expect(refusalOf(`{"a":"${inner}","b\\\\":1}`, pieceBytes)).toBeUndefined();
  // A quote behind an escaped backslash ends the string, also where a piece ends between them.
  expect(refusalOf(`"\\\\"${'['.repeat(128)}`, pieceBytes)).toEqual([
    400,
    null,
    'expected a body that is nested at most 127 levels deep',
  ]);
  expect(refusalOf(`"\\"${'['.repeat(128)}`, pieceBytes)).toBeUndefined();
});
