/** The operands by which rows are sampled, as tensors. */
import { tensor, type Device, type Tensor } from '../../lib/index';
import { sampleRows, writeSampleRow, type SampleRow } from '../../lib/ops';

export function rowsOf(
  rules: (SampleRow & { step: number })[],
  device: Device,
): [reals: Tensor, wholes: Tensor] {
  const rows = sampleRows(rules.length);
  for (const [i, rule] of rules.entries()) writeSampleRow(rows, i, rule, rule.step);
  return [
    tensor(rows.reals, { shape: [rules.length, 3], device }),
    tensor(rows.wholes, { shape: [rules.length, 4], device }),
  ];
}
