/** The options of data sets that training and a look at them have, beside how a row is read. */
import type { Options } from './option';

/** Which rows of a data set are read. */
export const dataRowsOptions = {
  split: {
    type: 'string',
    value: 'NAME',
    rare: true,
    help: 'part of a folder, or of a data set of the hub',
    defaultText: 'train',
  },
  maxRows: { type: 'integer', minimum: 1, rare: true, help: 'only the first rows', defaultText: 'all' },
  deduplicate: { type: 'boolean', rare: true, help: 'leave out rows whose tokens an earlier one has' },
} as const satisfies Options;
