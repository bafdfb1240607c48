// Short convolutions between gates or with silu, forward and forward + backward to x, against PyTorch's conv1d of groups.
import inputsOf from '../inputs.cjs';
import { OursProvider } from '../providers/ours.mjs';
import { checkClose, interleave, rivalOf, spread } from '../stats.mjs';

export async function runShortConv(testCase, bench) {
  const { torch } = bench;
  const { tokens, channels, form, dtype } = testCase;
  const inputs = inputsOf.shortConvInputs(testCase);
  const ours = new OursProvider();
  const rivals = torch ? [torch] : [];
  try {
    ours.loadShortConv(testCase, inputs);
    await torch?.loadShortConv(testCase, inputs);
    const other = torch ?? new OursProvider('reference');
    if (!torch) other.loadShortConv(testCase, inputs);
    checkClose(testCase.id, await ours.check(), await other.check('step'), dtype === 'f32' ? 1e-5 : 2e-2);
    if (!torch) other.free();
    for (const what of ['forward', 'step']) {
      const entrants = [{ name: 'ours', time: (...plan) => ours.time(what, ...plan) }];
      for (const rival of rivals)
        entrants.push({ name: 'torch', time: (...plan) => rival.time(what, ...plan) });
      const { times } = await interleave(entrants, bench.settings);
      const own = times.get('ours');
      const row = { kind: 'short_conv', case: testCase.id, what, unit: 's', ours: spread(own) };
      row.rivals = torch ? { torch: rivalOf(own, times.get('torch')) } : {};
      // x and y; then x, g and dx.
      const parts = form === 'gated' ? 3 : 1;
      const rows = what === 'forward' ? parts + 1 : 3 * parts + 2;
      row.gbps = (rows * tokens * channels * (dtype === 'f32' ? 4 : 2)) / row.ours.median / 1e9;
      bench.add(row);
    }
  } finally {
    ours.free();
  }
}
