/** The HTML report of a run: what it says, that it needs nothing else, and how it looks in a browser. */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { totalmem } from 'node:os';
import { join } from 'node:path';
import type { Browser, Page } from 'playwright-core';
import { CausalLM, Trainer, type TrainerOptions } from '../../lib/index';
import type { TrainerResult } from '../../lib/train';
import { escapeHtml, scriptJson } from '../../lib/train/report/html';
import { promptLength } from '../../lib/train/report/samples';
import { RunRecord } from '../../lib/train/record';
import { describeInChromium, inPage, launchChromium } from '../support/chromium';
import { commandLine } from '../support/command_line';
import { expectThrow } from '../support/errors';
import { fillAdapter } from '../support/fill_adapter';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

const scratch = temporaryFolder();
let model: CausalLM;
beforeAll(async () => {
  model = await CausalLM.fromPretrained(await tinyModel());
});
afterAll(async () => {
  await model.dispose();
  rmSync(model.directory, { recursive: true });
});
afterEach(async () => {
  jest.restoreAllMocks();
  for (const name of [...model.adapters.keys()]) await model.removeAdapter(name);
});

/** Rows of a prompt that does not count and an answer that does. */
const rowsOf = (...texts: readonly (readonly [prompt: string, answer: string])[]) =>
  texts.map(([prompt, answer]) => {
    const before = [...Buffer.from(prompt)];
    const after = [...Buffer.from(answer)];
    return { inputIds: [...before, ...after], labels: [...before.map(() => -100), ...after] };
  });
const rows = rowsOf(['On Monday ', 'Mia sells.'], ['Where? ', 'At the park.'], ['Who? ', 'Leo.']);

async function run(
  outDir: string,
  options: Partial<TrainerOptions> = {},
): Promise<TrainerResult & { html: string }> {
  const adapter = model.addAdapter({ r: 2 }, { activate: true });
  fillAdapter(adapter, 3, 0.1);
  const trainer = new Trainer({
    model,
    data: rows,
    batchSize: 1,
    outDir,
    report: true,
    lr: 0.02,
    ...options,
  });
  const result = await trainer.run();
  return { ...result, html: readFileSync(result.report!, 'utf8') };
}

const scripts = /<script(?: [^>]*)?>([\s\S]*?)<\/script>/g;
/** The page without what is no markup. */
const markup = (html: string): string =>
  html
    .replace(scripts, '<script></script>')
    .replace(/<!--[\s\S]*?-->/g, '')
    .replace(/<style>[\s\S]*?<\/style>/g, '');

/** Names of elements that are not closed where they should be. */
function unbalanced(html: string): string[] {
  const open: string[] = [];
  const wrong: string[] = [];
  for (const [, slash, name] of markup(html).matchAll(/<(\/?)([a-z][a-z0-9]*)(?:\s[^<>]*)?>/g)) {
    if (name === 'meta') continue;
    if (!slash) open.push(name!);
    else if (open.pop() !== name) wrong.push(name!);
  }
  return [...wrong, ...open];
}
/** What a page has for a name in one of its lists. */
const fact = (html: string, name: string): string | undefined =>
  new RegExp(`<dt>${name}</dt><dd>(.*?)</dd>`).exec(html)?.[1];

test('says how the run went, in one well-formed file that needs nothing else', async () => {
  const outDir = join(scratch, 'whole');
  const evalData = rowsOf(['Held ', 'out'], ['Kept ', 'back']);
  const { html, report, loss, evalLoss } = await run(outDir, { maxSteps: 6, evalData, evalEvery: 3 });
  expect(report).toBe(join(outDir, 'report.html'));
  expect(readdirSync(outDir)).toContain('report.html');
  expect(unbalanced(html)).toEqual([]);
  expect(markup(html).replace(/<(\/?[a-z!][^<>]*)>/gi, '')).not.toMatch(/[<>]/);
  expect(markup(html)).not.toMatch(/\b(src|href|style|on\w+)=/);
  expect(fact(html, 'Steps')).toBe('6 of 6');
  expect(fact(html, 'Training loss')).toBe(loss.toFixed(4));
  expect(fact(html, 'Evaluation loss')).toBe(evalLoss!.toFixed(4));
  expect(fact(html, 'Rank')).toBe('2');
  expect(fact(html, 'Trained')).toMatch(/^[\d,]+ parameters \(\d+\.\d\d%\)$/);
  expect(fact(html, 'Throughput')).toMatch(/^[\d,]+ tokens\/s$/);
  expect(fact(html, 'Peak memory')).toMatch(/^[\d,]+ MiB$/);
  expect(markup(html)).toContain(
    'The first held-out examples, which were not trained on, with different prompts; greedy.',
  );
  for (const text of ['Held ', 'out', 'Kept ', 'back']) expect(markup(html)).toContain(`<pre>${text}</pre>`);
  expect(html.match(/<h3>With the adapter<\/h3>/g)).toHaveLength(2);
  // Without scripts the last values can be read.
  const [steps, evaluations] = [...html.matchAll(/<tbody>([\s\S]*?)<\/tbody>/g)].map(([, body]) => body!);
  expect(steps!.match(/<tr>/g)).toHaveLength(6);
  expect(steps).toContain(`<tr><td>6</td><td>${loss.toFixed(4)}</td>`);
  expect(evaluations!.match(/<tr>/g)).toHaveLength(2);
  expect(html.includes('Copyright (c) 2022 Leon Sorokin')).toBe(true);
  expect(html.length).toBeLessThan(100_000);
});

test('samples tell the base from the adapter, and training is the same with a report and without', async () => {
  const generate = jest.spyOn(model, 'generate');
  const withReport = await run(join(scratch, 'with'));
  expect(generate.mock.calls.map(([, options]) => String(options?.adapter))).toEqual(
    [1, 2, 3].flatMap(() => ['null', String(model.activeAdapter)]),
  );
  await model.removeAdapter('default');
  fillAdapter(model.addAdapter({ r: 2 }, { activate: true }), 3, 0.1);
  const trainer = new Trainer({
    model,
    data: rows,
    batchSize: 1,
    outDir: join(scratch, 'without'),
    lr: 0.02,
  });
  const { loss, report } = await trainer.run();
  expect({ loss, report }).toEqual({ loss: withReport.loss, report: undefined });
  expect(readdirSync(join(scratch, 'without'))).not.toContain('report.html');
});

test('each sample has a prompt of its own', async () => {
  const again = (prompt: string, n: number) =>
    rowsOf(...Array.from({ length: n }, (_, i) => [prompt, `answer ${i}`] as const));
  const { html } = await run(join(scratch, 'prompts'), {
    maxSteps: 1,
    evalData: [...again('Who? ', 3), ...again('Where? ', 2), ...again('When? ', 1)],
  });
  const prompts = [...html.matchAll(/<h3>Prompt<\/h3>\n<pre>(.*?)<\/pre>/g)].map(([, prompt]) => prompt);
  expect(prompts).toEqual(['Who? ', 'Where? ', 'When? ']);
  await model.removeAdapter('default');
  // Where there is no other, one is enough; endless data is not looked through.
  const endless = function* (): Generator<(typeof rows)[number]> {
    for (;;) yield* again('Who? ', 1);
  };
  const one = await run(join(scratch, 'one-prompt'), { maxSteps: 1, data: endless, schedule: 'constant' });
  expect(one.html.match(/<h3>Prompt<\/h3>/g)).toHaveLength(1);
});

const attack = '</script><script>alert(1)</script><img src=x onerror=alert(2)>"\'&amp;<!--\u202e\u0000';

test('text of strangers is text', async () => {
  const data = Object.assign(rowsOf([attack, '<b>bold</b>']), {
    path: `/secret/${attack.replaceAll('/', '')}`,
  });
  jest.replaceProperty(model, 'directory', `/models/${attack.replaceAll('/', '')}`);
  const { html } = await run(join(scratch, 'hostile'), { data, maxSteps: 1 });
  expect(unbalanced(html)).toEqual([]);
  expect(html.match(/<script/g)).toHaveLength(3);
  expect(markup(html)).not.toMatch(/<(img|b)\b/);
  expect(html.includes('secret')).toBe(false);
  expect(markup(html)).toContain(`<pre>${escapeHtml(attack)}</pre>`);
  expect(escapeHtml(attack)).toMatch(/^&lt;\/script&gt;.*&quot;&#39;&amp;amp;&lt;!--\\u202e\\u0000$/);
});

test('numbers that JSON does not have, and text in it, leave the script whole', () => {
  expect(scriptJson([NaN, Infinity, '</script>\u2028'])).toBe('[null,null,"\\u003c/script\\u003e\\u2028"]');
});

test('a resumed run says that it shows only its own steps', async () => {
  const outDir = join(scratch, 'resumed');
  const options = { schedule: 'constant', saveEvery: 2, maxSteps: 3 } as const;
  await run(outDir, options);
  await model.removeAdapter('default');
  const { html } = await run(outDir, { ...options, maxSteps: 5, resume: true });
  expect(markup(html)).toContain('This run continued one of 2 steps; what follows are the steps since then.');
  expect(html.match(/<tbody>[\s\S]*?<\/tbody>/)![0].match(/<tr>/g)).toHaveLength(3);
});

test('a report.html of somebody else stays', async () => {
  const outDir = join(scratch, 'foreign');
  mkdirSync(outDir);
  writeFileSync(join(outDir, 'report.html'), 'mine');
  const { report } = await run(outDir, { maxSteps: 1 });
  expect(report).toBe(join(outDir, 'lora-native-report.html'));
  expect(readFileSync(join(outDir, 'report.html'), 'utf8')).toBe('mine');
});

test.each([
  [[-100, -100, 3, 4], 2],
  [[1, 2, 3], 2],
  [undefined, 2],
])('a prompt of an example with the labels %j has %d tokens', (labels, length) => {
  const inputIds = [1, 2, 3, 4].slice(0, labels?.length ?? 4);
  expect(promptLength({ inputIds, labels })).toBe(length);
});

describe('samples that cannot be written are told, and nothing else is lost', () => {
  test.each([
    ['of data that is read once', rows[Symbol.iterator](), 'the data can be read only once'],
    ['of data that fails', failing(), 'no more'],
  ])('%s', async (name, data, why) => {
    const { html, step } = await run(join(scratch, name), { data, maxSteps: 1 });
    expect(step).toBe(1);
    expect(markup(html)).toContain(`Some samples are missing: ${why}.`);
  });
  function failing() {
    let passes = 0;
    return () => {
      if (passes++ > 0) throw new Error('no more');
      return rows;
    };
  }
});

test('report without an outDir is an error', () => {
  model.addAdapter({ r: 2 });
  expectThrow(
    () => new Trainer({ model, data: rows, report: true }),
    'ERR_ARGUMENT',
    '[Trainer] expected outDir, since report is given',
  );
});

// On Linux maxRSS begins with what the parent process had; elsewhere it is of the process alone.
(process.platform === 'linux' ? test : test.skip)(
  'the peak memory is that of the process, not of the one that started it',
  async () => {
    const usage = process.resourceUsage();
    jest.spyOn(process, 'resourceUsage').mockReturnValue({ ...usage, maxRSS: 2 ** 40 });
    const { html } = await run(join(scratch, 'peak'), { maxSteps: 1 });
    const mebibytes = Number(fact(html, 'Peak memory')!.replace(/ MiB$/, '').replaceAll(',', ''));
    expect(mebibytes).toBeGreaterThan(20);
    expect(mebibytes).toBeLessThan(totalmem() / 2 ** 20);
  },
);

test('a long run is told in a bounded number of points, each a mean', () => {
  const record = new RunRecord();
  const rest = { type: 'step', epoch: 0, lr: 1, gradNorm: 2, tokens: 3, tokensPerSecond: 1 } as const;
  for (let step = 1; step <= 20_001; step++) record.add({ ...rest, step, loss: step, etaSeconds: undefined });
  const { points, stride, tokens } = record;
  expect({ stride, tokens, length: points.length }).toEqual({ stride: 8, tokens: 60_003, length: 2501 });
  expect(points[0]).toEqual({ step: 8, loss: 4.5, lr: 1, gradNorm: 2 });
  expect(points[2499]).toEqual({ step: 20_000, loss: 19_996.5, lr: 1, gradNorm: 2 });
  expect(points.at(-1)).toEqual({ step: 20_001, loss: 20_001, lr: 1, gradNorm: 2 });
});

describe('lora-native train', () => {
  const train = (outDir: string, ...flags: string[]) => {
    const data = join(scratch, 'data.jsonl');
    writeFileSync(data, '{"text":"Mia finds three red apples."}\n{"text":"Leo hides two hats."}\n');
    const options = ['--model', model.directory, '--device', 'cpu', '--max-steps', '2', '--eval-data', data];
    return commandLine(['train', ...options, '--data', data, '--out-dir', outDir, ...flags]);
  };

  test('writes it, and the evaluation after the last step is in it', async () => {
    const outDir = join(scratch, 'cli');
    const { err } = await train(outDir);
    expect(err).toContain(`report: ${join(outDir, 'report.html')}\n`);
    const html = readFileSync(join(outDir, 'report.html'), 'utf8');
    const shown = /evaluation loss (\S+),/.exec(err)![1];
    expect(fact(html, 'Evaluation loss')).toBe(shown);
    expect(readFileSync(join(outDir, 'README.md'), 'utf8')).toContain(
      `- Evaluation loss: \`${shown} after step 2`,
    );
  });
  test('--no-report does not, and with --report it is wrong usage', async () => {
    const outDir = join(scratch, 'cli-without');
    const { err } = await train(outDir, '--no-report');
    expect(err).not.toContain('report');
    expect(readdirSync(outDir)).not.toContain('report.html');
    const both = await train(join(scratch, 'both'), '--no-report', '--report');
    expect(both).toMatchObject({
      status: 2,
      err: expect.stringContaining('--report or --no-report, not both'),
    });
  });
});

describeInChromium('the report in Chromium', () => {
  let browser: Browser;
  beforeAll(async () => {
    browser = await launchChromium();
  }, 240_000);
  afterAll(() => browser?.close());
  jest.setTimeout(120_000); // a browser on a busy machine

  /** How many pixels of each chart are painted in the colours of the first series and of the second. */
  const painted = (page: Page): Promise<{ first: number; second: number }[]> =>
    page.evaluate<{ first: number; second: number }[]>(`(() => {
      const probe = document.createElement('canvas').getContext('2d');
      const colour = (name) => {
        probe.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
        return parseInt(probe.fillStyle.slice(1), 16);
      };
      const [first, second] = [colour('--first'), colour('--second')];
      return [...document.querySelectorAll('.chart canvas')].map((canvas) => {
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        const near = (i, c) =>
          data[i + 3] > 200 &&
          Math.abs(data[i] - (c >> 16)) + Math.abs(data[i + 1] - ((c >> 8) & 255)) + Math.abs(data[i + 2] - (c & 255)) < 30;
        const count = { first: 0, second: 0 };
        for (let i = 0; i < data.length; i += 4) {
          if (near(i, first)) count.first++;
          if (near(i, second)) count.second++;
        }
        return count;
      });
    })()`);

  // Under some locales navigator.language is no language tag.
  test.each([
    ['light', 'en-US'],
    ['dark', 'en-US@posix'],
  ] as const)(
    'the curves are drawn in the %s theme, where the language is %s',
    async (colorScheme, language) => {
      const outDir = join(scratch, `browser-${colorScheme}`);
      const { report } = await run(outDir, { maxSteps: 30, evalData: rows, evalEvery: 10, warmupSteps: 5 });
      await inPage(browser, report!, { colorScheme, language }, async (page) => {
        await page.waitForSelector('#norm canvas');
        const charts = await painted(page);
        for (const { first } of charts) expect(first).toBeGreaterThan(100);
        expect(charts.map(({ second }) => second > 20)).toEqual([true, false, false]);
        const ground = await page.evaluate<string>('getComputedStyle(document.body).backgroundColor');
        expect(ground).toBe(colorScheme === 'light' ? 'rgb(255, 255, 255)' : 'rgb(22, 24, 27)');
        const folder = process.env['LORA_SCREENSHOTS'];
        if (folder)
          await page.screenshot({ path: join(folder, `report-${colorScheme}.png`), fullPage: true });
        await page.setViewportSize({ width: 390, height: 800 });
        await page.waitForTimeout(300); // the charts follow
        expect(await page.evaluate<number>('document.documentElement.scrollWidth')).toBeLessThanOrEqual(390);
      });
    },
  );

  test('hostile text does nothing', async () => {
    jest.replaceProperty(model, 'directory', `/models/${attack.replaceAll('/', '')}`);
    const { report } = await run(join(scratch, 'browser-hostile'), {
      data: rowsOf([attack, attack]),
      maxSteps: 1,
    });
    await inPage(browser, report!, {}, async (page) => {
      await page.waitForSelector('#norm canvas');
      expect(await page.textContent('article pre')).toBe(attack.replace('\u202e\u0000', '\\u202e\\u0000'));
      expect(await page.evaluate<number>("document.querySelectorAll('img').length")).toBe(0);
    });
  });

  test('without scripts the last values are there', async () => {
    const { report, loss } = await run(join(scratch, 'browser-plain'), { maxSteps: 2 });
    await inPage(browser, report!, { javaScriptEnabled: false }, async (page) => {
      expect(await page.textContent('noscript')).toContain('the last values stand in the tables below');
      expect(await page.textContent('table.values tbody tr:last-child')).toContain(loss.toFixed(4));
    });
  });
});
