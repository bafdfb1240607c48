/** The report of a comparison: what it says, that it needs nothing else, and its charts in a browser. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Browser } from 'playwright-core';
import type { Comparison, VariantResult } from '../../lib/compare';
import { comparisonPage, writeComparisonPage } from '../../lib/compare/page';
import { rowOf } from '../../lib/compare/results';
import { describeInChromium, inPage, launchChromium } from '../support/chromium';
import { temporaryFolder } from '../support/temporary';

const scratch = temporaryFolder();
const attack = '</script><img src=x onerror=alert(2)>';

/** The result of one variant, as compare.test.ts has it from a model. */
function resultOf(method: 'lora' | 'dora', rank: number, alpha: number, seed: number): VariantResult {
  const loss = 1 / rank + (method === 'dora' ? 0.01 : 0) + 0.1 * seed + 0.001 * alpha;
  const setting = { method, rank, alpha, targets: 'all-linear', seed, lr: 0.01 };
  return {
    id: `${method}-r${rank}-a${alpha}-all-linear-s${seed}`,
    ...setting,
    ...{ trainableParameters: 100 * rank, peakBytes: 2 ** 20 * rank, steps: 3, tokens: 60, seconds: 2 },
    ...{ tokensPerSecond: 30, fileBytes: 2 ** 19, loss, exactMatch: 0.5, f1: 0.75 },
    curve: [1, 2, 3].map((step): [number, number] => [step, loss + 1 / step]),
    samples: [{ prompt: 'Who? ', expected: 'Mia', text: `${method} ${rank} ${seed}` }],
  };
}

function found(): Omit<Comparison, 'report' | 'file'> {
  const settings = (['lora', 'dora'] as const).flatMap((method) =>
    [2, 4].flatMap((rank) => [1, 2].map((factor) => [method, rank, rank * factor] as const)),
  );
  const results = [0, 1].flatMap((seed) => settings.map((setting) => resultOf(...setting, seed)));
  const rows = settings.map(([method, rank, alpha]) => {
    const own = results.filter((one) => one.method === method && one.rank === rank && one.alpha === alpha);
    return rowOf(`${method}-r${rank}-a${alpha}-all-linear`, own, 9600);
  });
  const { samples: _, ...setting } = { ...resultOf('lora', 2, 2, 0) };
  return {
    question: {
      ...{ base: attack, device: 'cpu', dtype: 'f32', quantize: null, budget: { steps: 3 }, seeds: 2 },
      ...{ batchSize: 4, gradientAccumulationSteps: 1 },
      ...{ data: { file: 'train.jsonl', examples: 1000 }, evalData: { examples: 20 } },
    },
    baseParameters: 9600,
    base: { loss: 2.5, exactMatch: 0, samples: [{ prompt: 'Who? ', expected: 'Mia', text: attack }] },
    rates: [
      {
        ...{ method: 'lora', lr: 0.01, atEdge: true, setting },
        trials: [
          { method: 'lora', lr: 0.01, loss: 1.5 },
          { method: 'lora', lr: 30, loss: null },
        ],
      },
    ],
    ...{ rows, results },
  };
}

test('a row has the most memory that a seed of it took, whichever took it', () => {
  for (const bytes of [
    [5, 3],
    [3, 5],
  ]) {
    const results = bytes.map((peakBytes, seed) => ({ ...resultOf('lora', 2, 2, seed), peakBytes }));
    expect(rowOf('lora-r2-a2-all-linear', results, 9600).peakBytes).toBe(5);
  }
});

const text = (html: string): string =>
  html
    .replace(/<(script|style)(?: [^>]*)?>[\s\S]*?<\/\1>/g, '')
    .replace(/<!--[\s\S]*?-->/g, '')
    .replace(/<[^>]+>/g, '|');

test('has a line for each setting, the trials, and what the best setting of each method writes', () => {
  const html = comparisonPage(found());
  expect(html.match(/<script/g)).toHaveLength(3);
  expect(html).not.toMatch(/\b(src|href|on\w+)="/);
  const said = text(html);
  // lora, rank 2, alpha 2: 200 of 9,800 numbers; 1/2 + 0.002 with seed 0, and 0.1 more with seed 1.
  expect(said).toContain(
    '|lora||2||2||all-linear||0.01||200||2.041||2.0||30||0.5520 (0.5020–0.6020)||50.0||0.50|',
  );
  expect(said).toContain('|lora||0.01||1.5000||chosen, at the edge of those tried|');
  expect(said).toContain('|lora||30||no number||||');
  expect(said).toContain('|lora-r4-a4-all-linear||lora 4 0|'.replaceAll('||', '|\n|'));
  expect(said).toContain('|dora-r4-a4-all-linear||dora 4 0|'.replaceAll('||', '|\n|'));
  expect(said).not.toContain('lora 2 0');
  expect(said).toContain('|train.jsonl, 1,000 examples|');
  expect(said).toContain('held-out loss 2.5000, exact match 0.0 %');
  expect(html).not.toContain('<img');
});

test('a chart is there where an axis has more than one place', () => {
  const whole = found();
  const figures = (content: typeof whole): string[] =>
    [...comparisonPage(content).matchAll(/class="chart" id="(\w+)"/g)].map(([, id]) => id!);
  expect(figures(whole)).toEqual(['curves', 'ranks', 'alphas']);
  const rows = whole.rows.filter(({ rank, alpha }) => alpha === rank);
  expect(figures({ ...whole, rows })).toEqual(['curves', 'ranks']);
  expect(figures({ ...whole, rows: rows.slice(0, 1) })).toEqual(['curves']);
});

test('a chart has its places in order and at most twelve lines, of the training those with the lowest losses', () => {
  const ranks = Array.from({ length: 14 }, (_, i) => i + 2);
  const results = ranks
    .flatMap((rank) => (['lora', 'dora'] as const).map((method) => resultOf(method, rank, rank, 0)))
    .map((result) => {
      const { method, rank } = result;
      const targets = `q_${rank! >> 1}`;
      return { ...result, targets, id: `${method}-r${rank}-a${rank}-${targets}-s0` };
    });
  // The best one has its last step first.
  results.at(-2)!.curve = [
    [3, 0.1],
    [1, 0.3],
  ];
  const rows = results.map((result) => rowOf(result.id.replace(/-s0$/, ''), [result], 9600));
  const html = comparisonPage({ ...found(), rows, results });
  const [, numbers] = /<script type="application\/json" id="numbers">(.*?)<\/script>/s.exec(html)!;
  type Shown = Record<string, { at: number[]; lines: { label: string; values: (number | null)[] }[] }>;
  const { charts } = JSON.parse(numbers!) as { charts: Shown };
  const { curves, ranks: overRanks } = charts;
  const byLoss = [...rows].sort((a, b) => a.loss!.mean - b.loss!.mean).map(({ id }) => id);
  expect(curves!.at).toEqual([1, 2, 3]);
  expect(curves!.lines.map(({ label }) => label)).toEqual(byLoss.slice(0, 12));
  expect(curves!.lines[0]).toMatchObject({ label: 'lora-r15-a15-q_7', values: [0.3, null, 0.1] });
  // Seven pairs of ranks have a line of each of the two methods.
  expect(overRanks!.lines).toHaveLength(12);
  expect(overRanks!.at).toEqual(Array.from({ length: 12 }, (_, i) => i + 2));
});

test('a comparison.html of somebody else stays', async () => {
  writeFileSync(join(scratch, 'comparison.html'), 'mine');
  const other = join(scratch, 'lora-native-comparison.html');
  expect(await writeComparisonPage(scratch, found())).toBe(other);
});

describeInChromium('the comparison in Chromium', () => {
  let browser: Browser;
  beforeAll(async () => {
    browser = await launchChromium();
  }, 240_000);
  afterAll(() => browser?.close());
  jest.setTimeout(120_000); // a browser on a busy machine

  test('the charts are drawn, a line for each setting, with the ranks as marks', async () => {
    const path = join(scratch, 'page.html');
    writeFileSync(path, comparisonPage(found()));
    await inPage(browser, path, {}, async (page) => {
      await page.waitForSelector('#alphas canvas');
      const drawn = await page.evaluate<number[]>(
        `[...document.querySelectorAll('.chart canvas')].map((canvas) => {
          const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
          const hues = new Set();
          for (let i = 0; i < data.length; i += 4) {
            const [r, g, b, a] = data.slice(i, i + 4);
            const [least, most] = [Math.min(r, g, b), Math.max(r, g, b)];
            if (a < 255 || most - least < 120) continue;
            const d = most - least;
            const hue = most === r ? (g - b) / d : most === g ? 2 + (b - r) / d : 4 + (r - g) / d;
            hues.add(Math.round(((60 * hue + 360) % 360) / 10));
          }
          return hues.size;
        })`,
      );
      // Eight settings; a line for each method and α/r, or rank. Where lines cross, colours mix.
      expect(drawn[0]).toBeGreaterThanOrEqual(8);
      for (const hues of drawn.slice(1)) expect(hues).toBeGreaterThanOrEqual(4);
      const legend = await page.textContent('#ranks .u-legend');
      expect(legend).toContain('lora, all-linear, α/r 2');
      const folder = process.env['LORA_SCREENSHOTS'];
      if (folder) await page.screenshot({ path: join(folder, 'comparison.png'), fullPage: true });
      await page.setViewportSize({ width: 390, height: 800 });
      await page.waitForTimeout(300); // the charts follow
      expect(await page.evaluate<number>('document.documentElement.scrollWidth')).toBeLessThanOrEqual(390);
    });
  });
});
