// Layers that read one x, with LoRA: forward, and forward + backward ("step"). Ours, our own frozen layers, PyTorch in
// its best form, OpenBLAS in three calls, and the reference where the case is small.
import inputsOf from '../inputs.cjs';
import { OursProvider } from '../providers/ours.mjs';
import { checkClose, interleave, median, ratio, rivalOf, shareOfCeiling, spread } from '../stats.mjs';

/** Work by the formula: operations of the products, and bytes of the operands of a forward pass. */
function workOf({ m, in: k, out, r, dtype }) {
  const size = dtype === 'f32' ? 4 : 2;
  let [forward, backward, bytes] = [0, 0, size * m * k];
  for (const n of out) {
    const [frozen, small] = [2 * m * k * n, 2 * m * r * (k + n)];
    forward += frozen + small;
    backward += frozen + 2 * small; // dx and u; the gradients of up and down
    bytes += size * n * k + 4 * r * (n + k) + size * m * n;
  }
  return { forward: { flops: forward, bytes }, step: { flops: forward + backward } };
}

/** What the LoRA path should cost at least: its share of the operations. */
const leastCost = ({ in: k, out, r }) =>
  1 + (r * out.reduce((sum, n) => sum + k + n, 0)) / out.reduce((sum, n) => sum + k * n, 0);

/** Ours against the rivals on all rows; without PyTorch against the definition in double, on a few. */
async function check(testCase, inputs, { ours, torch, openblas }) {
  const bound = testCase.dtype === 'f32' ? 1e-5 : 1.5e-2;
  if (torch) checkClose(testCase.id, await ours.check(), await torch.check('step'), bound);
  if (openblas) checkClose(testCase.id, await ours.check('forward'), await openblas.check('forward'), bound);
  if (torch) return;
  const few = { ...testCase, m: Math.min(testCase.m, 4) };
  const cut = inputsOf.loraLinearInputs(few);
  const results = [];
  for (const device of ['cpu', 'reference']) {
    const provider = new OursProvider(device);
    provider.loadLayers(few, cut);
    results.push(await provider.check());
    provider.free();
  }
  checkClose(testCase.id, results[0], results[1], testCase.dtype === 'f32' ? 6e-6 : 4e-3);
}

const forms = {
  forward: { torch: ['forward', 'forward_addmm'], frozen: 'frozen_forward', openblas: true },
  step: { torch: ['step', 'step_addmm'], frozen: 'frozen_step', openblas: false },
};

async function timeCase(what, testCase, bench, { ours, torch, openblas, reference, next }) {
  const { torch: torchForms, frozen, openblas: hasOpenblas } = forms[what];
  const entrant = (name, provider, form) => ({ name, time: (...plan) => provider.time(form, ...plan) });
  const entrants = [entrant('ours', ours, what), entrant('frozen', ours, frozen)];
  if (next) entrants.push(entrant('next', next, what));
  if (torch) {
    for (const form of torchForms) entrants.push(entrant(`torch ${form}`, torch, form));
    entrants.push(entrant('torch frozen', torch, frozen));
  }
  if (openblas && hasOpenblas) entrants.push(entrant('openblas', openblas, 'forward'));
  if (reference) entrants.push(entrant('reference', reference, what));
  const cold = testCase.kind === 'lora_linear_cold';
  const ceiling = cold ? 'read' : testCase.m >= 32 ? testCase.dtype : undefined;
  const measure = ceiling && bench.ceilings.of(ceiling);
  const { times, ceilings } = await interleave(entrants, bench.settings, measure);

  const own = times.get('ours');
  const of = (name) => times.get(name) && rivalOf(own, times.get(name));
  const best = torchForms
    .map((form) => `torch ${form}`)
    .filter((name) => times.has(name))
    .sort((a, b) => median(times.get(a)) - median(times.get(b)))[0];
  const row = { kind: testCase.kind, case: testCase.id, what, unit: 's', ours: spread(own), rivals: {} };
  if (best) row.rivals.torch = { ...of(best), form: best.slice('torch '.length) };
  if (torch) row.rivals['torch, frozen layer'] = of('torch frozen');
  for (const name of ['openblas', 'reference']) if (of(name)) row.rivals[name] = of(name);
  const { flops, bytes } = workOf(testCase)[what];
  const seconds = row.ours.median;
  row.gflops = flops / seconds / 1e9;
  if (bytes) row.gbps = bytes / seconds / 1e9;
  const rates = own.map((time) => (cold ? bytes : flops) / time / 1e9);
  row.share = shareOfCeiling(ceiling, rates, ceilings);
  row.frozen = spread(times.get('frozen'));
  row.cost = { fused: ratio(own, times.get('frozen')).median, least: leastCost(testCase) };
  if (next) row.ragged = ratio(own, times.get('next')).median;
  bench.add(row);
}

/** Runs one case; `cold` goes round so many copies of the weights that no cache holds them. */
export async function runLayers(testCase, bench) {
  const cold = testCase.kind === 'lora_linear_cold';
  const { torch } = bench;
  const openblas = testCase.dtype === 'f32' && !cold ? bench.openblas : undefined;
  const inputs = inputsOf.loraLinearInputs(testCase);
  const weights =
    testCase.out.reduce((sum, n) => sum + n * testCase.in, 0) * (testCase.dtype === 'f32' ? 4 : 2);
  const copies = cold ? Math.max(2, Math.ceil(2 ** 28 / weights)) : 1;
  const ours = new OursProvider();
  const small = workOf(testCase).step.flops < 5e7 && !cold;
  const reference = small ? new OursProvider('reference') : undefined;
  const next = testCase.next && new OursProvider();
  try {
    ours.loadLayers(testCase, inputs, copies);
    reference?.loadLayers(testCase, inputs);
    next?.loadLayers(testCase.next, inputsOf.loraLinearInputs(testCase.next));
    await torch?.loadLayers(testCase, inputs, copies);
    await openblas?.loadLayers(testCase, inputs);
    await check(testCase, inputs, { ours, torch, openblas });
    for (const what of cold ? ['forward'] : ['forward', 'step'])
      await timeCase(what, testCase, bench, { ours, torch, openblas, reference, next });
  } finally {
    for (const provider of [ours, reference, next]) provider?.free();
  }
}
