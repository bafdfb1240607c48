/** What a data set is before it trains: how long its examples are, what is cut, what counts, what is there twice. */
import { ignoredLabel, type DatasetCounts, type Example } from './example';
import type { MemoryDataset } from './memory_dataset';
import { fingerprint } from './reader';

/** Lengths from `from` to `to` tokens, and how many examples have one. */
export interface LengthBin {
  readonly from: number;
  readonly to: number;
  readonly examples: number;
}

/** A data set in numbers; lengths are tokens. */
export interface DataReport {
  /** Of the examples as they are trained on. */
  readonly lengths: {
    readonly shortest: number;
    readonly median: number;
    readonly mean: number;
    /** 95 of 100 examples have at most so many. */
    readonly p95: number;
    readonly longest: number;
    readonly bins: readonly LengthBin[];
  };
  readonly cut: {
    readonly examples: number;
    readonly tokens: number;
    /** Of the tokens that the examples had. */
    readonly share: number;
    /** The longest row before it was cut. */
    readonly longest: number;
  };
  readonly counted: {
    readonly tokens: number;
    /** All tokens of the examples. */
    readonly of: number;
    readonly share: number;
    /** Rows that were left out, because nothing of them counts. */
    readonly dropped: number;
    /** Examples of which a part alone counts: a prompt stands before their answer. */
    readonly withPrompt: number;
  };
  /** Examples of which an earlier one has the same tokens, and rows that were left out for that. */
  readonly repeated: { readonly examples: number; readonly leftOut: number };
}

const bins = 8;

/** At most eight bins of one width: 1, 2 or 5 times a power of ten. */
function lengthBins(lengths: readonly number[], most: number): LengthBin[] {
  const wanted = most / bins;
  const power = 10 ** Math.floor(Math.log10(Math.max(1, wanted)));
  const width = [1, 2, 5, 10].map((times) => times * power).find((size) => size >= wanted)!;
  const counts = new Array<number>(Math.ceil(most / width)).fill(0);
  for (const length of lengths) counts[Math.ceil(length / width) - 1]!++;
  return counts.map((examples, i) => ({ from: i * width + 1, to: (i + 1) * width, examples }));
}

/** The report of a data set in memory. */
export function dataReport(data: DatasetCounts & MemoryDataset<Required<Example>>): DataReport {
  const { lengths } = data;
  const sorted = [...lengths].sort((a, b) => a - b);
  const total = lengths.reduce((sum, length) => sum + length, 0);
  const at = (share: number): number =>
    sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)]!;
  const longest = sorted.at(-1)!;
  const seen = new Set<string>();
  let withPrompt = 0;
  for (const { inputIds, labels } of data) {
    seen.add(fingerprint([inputIds, labels]));
    // The first token of a row is never predicted, whatever its label.
    if (labels.slice(1).includes(ignoredLabel)) withPrompt++;
  }
  return {
    lengths: {
      shortest: sorted[0]!,
      median: at(0.5),
      mean: total / data.length,
      p95: at(0.95),
      longest,
      bins: lengthBins(lengths, longest),
    },
    cut: {
      examples: data.truncated,
      tokens: data.cutTokens,
      share: data.cutTokens / (total + data.cutTokens),
      longest: data.longest,
    },
    counted: {
      tokens: data.tokens,
      of: total,
      share: data.tokens / total,
      dropped: data.dropped,
      withPrompt,
    },
    repeated: { examples: data.length - seen.size, leftOut: data.duplicates },
  };
}
