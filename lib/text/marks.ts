/** Marks in texts: characters of the private use area, which tell where something stands after a template has written it. */
import { loraError } from '../errors';
import { check, describe } from '../validate';

/** A text, and the places of its characters that no special token may hold: they are what somebody said. */
export interface ChatText {
  readonly text: string;
  /** Places of characters in the text, in rising order. */
  readonly ordinary: readonly number[];
}

/** What makes ids of texts in slices: a Tokenizer. */
interface Encoder {
  encodeAsync(
    text: string,
    options: { addSpecialTokens: false; ordinary: readonly number[]; signal?: AbortSignal | undefined },
  ): Promise<number[]>;
}

/** The ids of a conversation. Its template has written the special tokens. */
export const chatIds = (
  tokenizer: Encoder,
  { text, ordinary }: ChatText,
  signal?: AbortSignal,
): Promise<number[]> => tokenizer.encodeAsync(text, { addSpecialTokens: false, ordinary, signal });

/** The private use area. */
const [firstMark, lastMark] = [0xe000, 0xf8ff];

/** Two characters of the private use area that a text does not hold. */
export function unusedMarks(text: string): [open: string, close: string] {
  const used = new Uint8Array(lastMark - firstMark + 1);
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code >= firstMark && code <= lastMark) used[code - firstMark] = 1;
  }
  const free: string[] = [];
  for (let i = 0; i < used.length && free.length < 2; i++)
    if (used[i] === 0) free.push(String.fromCharCode(firstMark + i));
  const [open, close] = free;
  if (open === undefined || close === undefined)
    throw loraError(
      'chat_template',
      'ERR_DATA',
      'expected a conversation that leaves two private use characters free',
    );
  return [open, close];
}

/** A text with a mark before each of these characters. */
export function withMarks(text: string, places: readonly number[], mark: string): string {
  if (places.length === 0) return text;
  let from = 0;
  const pieces = places.map((at) => text.slice(from, (from = at)));
  return [...pieces, text.slice(from)].join(mark);
}

/** A text without its marks, and where they were. */
export function withoutMarks(marked: string, mark: string | undefined): ChatText {
  if (mark === undefined || !marked.includes(mark)) return { text: marked, ordinary: [] };
  const pieces = marked.split(mark);
  let at = 0;
  const ordinary = pieces.slice(0, -1).map((piece) => (at += piece.length));
  return { text: pieces.join(''), ordinary: [...new Set(ordinary)] };
}

/** Where the characters of a text are that were at these places of it with marks. */
export function unmarkedPlaces(
  marked: string,
  mark: string,
  places: readonly (readonly [begin: number, end: number])[],
): [begin: number, end: number][] {
  const marks: number[] = [];
  for (let at = marked.indexOf(mark); at >= 0; at = marked.indexOf(mark, at + 1)) marks.push(at);
  let before = 0;
  const moved = (place: number): number => {
    while (before > 0 && marks[before - 1]! >= place) before--;
    while (before < marks.length && marks[before]! < place) before++;
    return place - before;
  };
  return places.map(([begin, end]) => [moved(begin), moved(end)]);
}

/** Those of rising places in a text that are within a part of it, as places of the part. */
export function placesWithin(places: readonly number[], from: number, to: number): number[] {
  let [low, high] = [0, places.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (places[middle]! < from) low = middle + 1;
    else high = middle;
  }
  const within: number[] = [];
  for (let i = low; i < places.length && places[i]! < to; i++) within.push(places[i]! - from);
  return within;
}

/** @throws ERR_ARGUMENT for what are no places in a text of so many characters. */
export function checkPlaces(op: string, places: readonly number[], length: number): void {
  const what = 'expected ordinary to be places of characters in the text, in rising order, but received';
  check(Array.isArray(places), op, `${what} ${describe(places)}`);
  const wrong = places.findIndex(
    (place, i) => !(Number.isInteger(place) && place > (places[i - 1] ?? -1) && place < length),
  );
  check(wrong < 0, op, `${what} ${describe(places[wrong])}`);
}
