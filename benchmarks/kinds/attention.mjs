// Causal grouped-query attention, forward and forward + backward, against scaled_dot_product_attention.
import inputsOf from '../inputs.cjs';
import { OursProvider } from '../providers/ours.mjs';
import { checkClose, interleave, rivalOf, shareOfCeiling, spread } from '../stats.mjs';

export async function runAttention(testCase, bench) {
  const { torch } = bench;
  const inputs = inputsOf.attentionInputs(testCase);
  const ours = new OursProvider();
  try {
    ours.loadAttention(testCase, inputs);
    await torch?.loadAttention(testCase, inputs);
    const bound = testCase.dtype === 'f32' ? 1e-5 : 2e-2;
    if (torch) checkClose(testCase.id, await ours.check(), await torch.check('step'), bound);
    else await checkReference(testCase, bound);
    for (const what of ['forward', 'step']) {
      const entrants = [{ name: 'ours', time: (...plan) => ours.time(what, ...plan) }];
      if (torch) entrants.push({ name: 'torch', time: (...plan) => torch.time(what, ...plan) });
      const { times, ceilings } = await interleave(
        entrants,
        bench.settings,
        bench.ceilings.of(testCase.dtype),
      );
      const { tokens, heads, d } = testCase;
      const products = what === 'forward' ? 2 : 7; // 5 of them in the gradient
      const flops = products * heads * d * tokens * (tokens + 1);
      const own = times.get('ours');
      const row = { kind: 'attention', case: testCase.id, what, unit: 's', ours: spread(own) };
      row.rivals = torch ? { torch: rivalOf(own, times.get('torch')) } : {};
      row.gflops = flops / row.ours.median / 1e9;
      const rates = own.map((seconds) => flops / seconds / 1e9);
      row.share = shareOfCeiling(testCase.dtype, rates, ceilings);
      bench.add(row);
    }
  } finally {
    ours.free();
  }
}

async function checkReference(testCase, bound) {
  const few = { ...testCase, tokens: 48 };
  const results = [];
  for (const device of ['cpu', 'reference']) {
    const provider = new OursProvider(device);
    provider.loadAttention(few, inputsOf.attentionInputs(few));
    results.push(await provider.check());
    provider.free();
  }
  checkClose(testCase.id, results[0], results[1], bound);
}
