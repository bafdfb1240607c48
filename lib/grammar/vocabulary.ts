/** What the tokens of a tokenizer add to a text, in the alphabet of grammars. */
import { loraError } from '../errors';
import type { Library } from '../text/library';
import { spell, spellByte } from './alphabet';
import { isRecord } from '../validate';

export interface Vocabulary {
  /** The spelling of each token, by its id, between NULs; empty for one that adds no text and for one that no JSON has. */
  readonly texts: string;
  /** How many logits there are. */
  readonly vocabSize: number;
  /** The tokens that end a text. */
  readonly stop: readonly number[];
}

/** Undefined for what no JSON has. */
type Spelling = (token: string) => string | undefined;

/** The characters by which byte-level tokenizers write bytes (GPT-2): printable ones of Latin-1 as they are, others from U+0100. */
function byteLevel(): Spelling {
  const spelled = new Map<string, string | undefined>();
  let next = 0x100;
  for (let byte = 0; byte < 0x100; byte++) {
    const printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
    spelled.set(String.fromCharCode(printable ? byte : next++), spellByte(byte));
  }
  return (token) => {
    let text = '';
    for (const character of token) {
      const one = spelled.get(character);
      if (one === undefined) return undefined;
      text += one;
    }
    return text;
  };
}

/** Pieces as SentencePiece writes them, and <0x0A> for a single byte. */
function pieces(space: string, byteFallback: boolean): Spelling {
  return (token) => {
    const byte = byteFallback ? /^<0x([0-9A-Fa-f]{2})>$/.exec(token) : null;
    return byte ? spellByte(parseInt(byte[1]!, 16)) : spell(token.replaceAll(space, ' '));
  };
}

/** All decoders that a decoder is made of. */
function decodersOf(decoder: unknown): Record<string, unknown>[] {
  if (!isRecord(decoder)) return [];
  return Array.isArray(decoder['decoders']) ? decoder['decoders'].flatMap(decodersOf) : [decoder];
}

/** How tokens of the model, and added ones, are spelled. */
function spellingsOf(decoder: unknown): [Spelling, added: Spelling] {
  const decoders = decodersOf(decoder);
  const types = decoders.map(({ type }) => type);
  if (types.length === 1 && types[0] === 'ByteLevel') return [byteLevel(), spell];
  const spaces = decoders.map(spaceOf);
  const [space, ...others] = spaces.filter((text) => text !== undefined);
  const fused = types.indexOf('Fuse');
  const known = decoders.every(
    ({ type, content }, i) =>
      spaces[i] !== undefined ||
      type === 'ByteFallback' ||
      type === 'Fuse' ||
      // Spaces around the whole text; before Fuse they would be those around each token.
      (type === 'Strip' && content === ' ' && fused >= 0 && fused < i),
  );
  if (space !== undefined && others.length === 0 && known) {
    const spelling = pieces(space, types.includes('ByteFallback'));
    return [spelling, spelling];
  }
  throw loraError(
    'generate',
    'ERR_UNSUPPORTED',
    `expected a tokenizer for jsonSchema whose decoder is ByteLevel, or has the parts of SentencePiece's, but received ${types.join(', ') || 'none'}`,
  );
}

/** What a decoder makes a space of. */
function spaceOf({ type, replacement, pattern, content }: Record<string, unknown>): string | undefined {
  if (type === 'Metaspace') return typeof replacement === 'string' ? replacement : '\u2581';
  const text = isRecord(pattern) ? pattern['String'] : undefined;
  return type === 'Replace' && content === ' ' && typeof text === 'string' ? text : undefined;
}

/**
 * Spells all tokens, a thousand at a time.
 * @throws ERR_UNSUPPORTED for a tokenizer whose tokens are not pieces of the text.
 */
export function* vocabularyOf(
  library: Library,
  vocabSize: number,
  stop: readonly number[],
): Generator<void, Vocabulary, void> {
  const [spelling, spellAdded] = spellingsOf(library.decoder?.config);
  const specials = new Set(library.special_tokens);
  const texts: string[] = [];
  for (const [id, token] of library.model.vocab.entries()) {
    if (id % 1024 === 1023) yield;
    if (id >= vocabSize) break;
    // What ends a text is known by its id.
    const silent = token === undefined || specials.has(token) || stop.includes(id);
    const added = !silent && library.added_tokens_map.get(token)?.id === id;
    texts.push((silent ? undefined : (added ? spellAdded : spelling)(token)) ?? '');
  }
  return { texts: texts.join('\0'), vocabSize, stop };
}
