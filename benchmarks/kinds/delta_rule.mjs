// The gated delta rule of one sequence, forward and forward + backward, against attention of the same width (heads and numbers of a head), and against PyTorch in
// chunks of 64 tokens.
import inputsOf from '../inputs.cjs';
import { OursProvider } from '../providers/ours.mjs';
import { checkClose, interleave, rivalOf, spread } from '../stats.mjs';

export async function runDeltaRule(testCase, bench) {
  const { torch } = bench;
  const inputs = inputsOf.deltaRuleInputs(testCase);
  const { tokens, heads, d, dtype } = testCase;
  const [ours, attention] = [new OursProvider(), new OursProvider()];
  try {
    ours.loadDeltaRule(testCase, inputs);
    await torch?.loadDeltaRule(testCase, inputs);
    attention.loadAttention({ tokens, heads, kvHeads: heads, d, dtype }, inputs);
    if (torch)
      checkClose(testCase.id, await ours.check(), await torch.check('step'), dtype === 'f32' ? 1e-4 : 3e-2);
    for (const what of ['forward', 'step']) {
      const entrants = [
        { name: 'ours', time: (...plan) => ours.time(what, ...plan) },
        { name: 'attention', time: (...plan) => attention.time(what, ...plan) },
      ];
      if (torch) entrants.push({ name: 'torch', time: (...plan) => torch.time(what, ...plan) });
      const { times } = await interleave(entrants, bench.settings);
      const own = times.get('ours');
      const row = { kind: 'delta_rule', case: testCase.id, what, unit: 's', ours: spread(own), rivals: {} };
      for (const [name, values] of times) if (name !== 'ours') row.rivals[name] = rivalOf(own, values);
      bench.add(row);
    }
  } finally {
    ours.free();
    attention.free();
  }
}
