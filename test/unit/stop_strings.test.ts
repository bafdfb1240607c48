import fc from 'fast-check';
import { StopStrings } from '../../lib/text/stop_strings';

/** What comes out of each piece, then of flush(). */
function run(stops: readonly string[], ...pieces: string[]): string[] {
  const filter = new StopStrings(stops);
  return [...pieces.map((piece) => filter.push(piece)), filter.flush()];
}

test.each<[string, string[], string[], string[]]>([
  ['no stop strings', [], ['ab', 'c'], ['ab', 'c', '']],
  ['an empty one counts as none', [''], ['ab'], ['ab', '']],
  ['of two in one piece the earliest wins', ['two', 'one'], ['a one b two'], ['a ', '']],
  ['whatever their order', ['one', 'two'], ['a one b two'], ['a ', '']],
  ['the first occurrence of one counts', ['x'], ['axbxc'], ['a', '']],
  ['nothing comes after a stop', ['x'], ['ax', 'b', 'x'], ['a', '', '', '']],
  ['over three pieces', ['xyz'], ['ax', 'y', 'zb'], ['a', '', '', '']],
  ['the longest beginning is held back', ['ab', 'abcd'], ['xa'], ['x', 'a']],
  ['of several stop strings too', ['bcx', 'abcy'], ['-abc', 'z'], ['-', 'abcz', '']],
  ['and in the other order', ['abcy', 'bcx'], ['-abc', 'y'], ['-', '', '']],
  ['a beginning that goes on otherwise is released', ['aab'], ['aa', 'a', 'c'], ['', 'a', 'aac', '']],
  ['a whole stop string is never shown by flush', ['ab'], ['a', 'b'], ['', '', '']],
])('%s', (_, stops, pieces, want) => {
  expect(run(stops, ...pieces)).toEqual(want);
});

test('found tells that one was met', () => {
  const filter = new StopStrings(['xy']);
  filter.push('ax');
  expect(filter.found).toBe(false);
  filter.push('y');
  expect(filter.found).toBe(true);
});

test('however the text is cut into pieces, it ends before the stop string, and no more than its beginning is held', () => {
  const text = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 12 });
  const stop = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), minLength: 1, maxLength: 4 });
  fc.assert(
    fc.property(fc.array(text, { maxLength: 6 }), stop, (pieces, end) => {
      const filter = new StopStrings([end]);
      let shown = '';
      let given = '';
      for (const piece of pieces) {
        shown += filter.push(piece);
        given += piece;
        const held = filter.found ? 0 : given.length - shown.length;
        expect(held).toBeLessThan(end.length);
      }
      expect(shown + filter.flush()).toBe(given.split(end)[0]);
      expect(filter.found).toBe(given.includes(end));
    }),
  );
});
