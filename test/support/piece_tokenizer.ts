/** A tokenizer as SentencePiece's BPE models are converted: pieces with ▁ for a space, and a token for each byte. */
import { byteTokenizer } from './tiny_model';

const bytes = Array.from(
  { length: 256 },
  (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`,
);
const specials = ['<s>', '</s>', '<unk>'];
const pieces = [
  ...['▁', '▁▁', '▁▁▁', '▁a', '▁"', '▁{', '▁n', '▁,', "▁'", '▁.', 'a', 'b', 'n', 't', 've', 's', 'name'],
  ...['{', '}', '[', ']', '"', ':', ',', '":', '",', '{"', '.', "'", '-', '0', '1', '23', 'true', 'null'],
  ...['é', '字', '�'],
];
const tokens = [...bytes, ...specials, ...pieces];

/** How they write and read spaces and bytes. */
export const pieceParts: object = {
  normalizer: {
    type: 'Sequence',
    normalizers: [
      { type: 'Prepend', prepend: '▁' },
      { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
    ],
  },
  decoder: {
    type: 'Sequence',
    decoders: [
      { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
      { type: 'ByteFallback' },
      { type: 'Fuse' },
      { type: 'Strip', content: ' ', start: 1, stop: 0 },
    ],
  },
};

/** How many tokens it has. */
export const pieceCount = tokens.length;

/** Ids 0 to 255 are the bytes, then <s>, </s> and <unk>, then pieces. */
export function pieceTokenizer(): object {
  const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]));
  return {
    ...byteTokenizer(),
    added_tokens: specials.map((content) => ({ id: vocab[content], content, special: true })),
    ...pieceParts,
    pre_tokenizer: null,
    model: { type: 'BPE', vocab, merges: [], unk_token: '<unk>', fuse_unk: true, byte_fallback: true },
  };
}
