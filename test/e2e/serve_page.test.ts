/** The page at /: its policy, and in a browser chats with models whose answers are known. */
import { createHash } from 'node:crypto';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Browser, Page } from 'playwright-core';
import { CausalLM } from '../../lib/index';
import type { OpenAIHandlerOptions } from '../../lib/serve';
import { answeringAdapter, answeringModel } from '../support/answering_model';
import { describeInChromium, inPage, launchChromium } from '../support/chromium';
import { servers, until, type Json } from '../support/serving';
import { temporaryFolder } from '../support/temporary';

const serve = servers();
const folder = temporaryFolder();
/** Says `Yes, fr`, and with the adapter what a page must not take for an element. */
let model: CausalLM;
let sql: string;
/** Says the same character until somebody stops it. */
let endless: CausalLM;
beforeAll(async () => {
  const dir = await answeringModel('Yes, fr');
  sql = await answeringAdapter(dir, 'a<u>b', join(folder, 'sql'));
  model = await CausalLM.fromPretrained(dir);
  endless = await CausalLM.fromPretrained(
    // So many layers that the page keeps up with the tokens.
    await answeringModel('Ab', {
      endless: true,
      config: { max_position_embeddings: 100_000, num_hidden_layers: 100 },
    }),
  );
});
afterAll(async () => {
  for (const one of [model, endless]) {
    await one.dispose();
    rmSync(one.directory, { recursive: true });
  }
});

test('there is none unless it is asked for', async () => {
  const { url } = await serve(model);
  expect((await fetch(url)).status).toBe(404);
});

test('its policy lets its own script and style run, and nothing else', async () => {
  const { url } = await serve(model, { page: true, apiKeys: ['secret'] });
  const response = await fetch(`${url}/?from=mail`);
  expect([response.status, response.headers.get('content-type')]).toEqual([200, 'text/html; charset=utf-8']);
  const html = await response.text();
  const only = (element: string): string => {
    const all = [...html.matchAll(new RegExp(`<${element}[^>]*>([^]*?)</${element}>`, 'g'))];
    expect(all).toHaveLength(1);
    return `'sha256-${createHash('sha256').update(all[0]![1]!).digest('base64')}'`;
  };
  expect(response.headers.get('content-security-policy')!.split('; ')).toEqual([
    "default-src 'none'",
    `script-src ${only('script')}`,
    `style-src ${only('style')}`,
    "connect-src 'self'",
    'img-src data:',
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
  ]);
  expect(html).not.toMatch(/\bsrc=|\bon\w+=|\bstyle=|https?:/);
  expect(html).not.toContain('secret');
  expect(html.length).toBeLessThan(16_384); // it is in both bundles
  expect(await (await fetch(url, { method: 'HEAD' })).text()).toBe('');
});

describeInChromium('the page in Chromium', () => {
  let browser: Browser;
  beforeAll(async () => {
    browser = await launchChromium();
  }, 240_000);
  afterAll(() => browser?.close());

  /** Opens the page of a server; gives what its requests asked for. */
  async function open(
    served: CausalLM,
    { complaints, width, ...options }: OpenAIHandlerOptions & { complaints?: RegExp; width?: number },
    use: (page: Page, url: string) => Promise<void>,
  ): Promise<Json[]> {
    const lines: Json[] = [];
    const logger = { info: (fields: object) => void lines.push(fields), error: () => undefined };
    const { url } = await serve(served, {
      ...{ page: true, modelName: 'base', logger, logPrompts: true },
      ...options,
    });
    await inPage(browser, url, { complaints, width }, (page) => use(page, url));
    return lines.filter(({ prompt }) => prompt !== undefined);
  }
  const say = async (page: Page, text: string): Promise<void> => {
    await page.waitForSelector('#send:enabled');
    await page.fill('#message', text);
    await page.press('#message', 'Enter');
  };
  const texts = (page: Page, kind: string): Promise<string[]> =>
    page.locator(`.log .${kind}`).allTextContents();

  test('a conversation goes on, with the figures of each answer', async () => {
    const asked = await open(model, {}, async (page) => {
      await say(page, 'Hi');
      await page.waitForSelector('.assistant:text-is("Yes, fr")');
      await page.waitForSelector(
        '.figures:text-matches("^first token after \\\\d+ ms · [\\\\d.]+ tokens/s · 8 tokens$")',
      );
      await page.click('summary');
      await page.fill('#system', 'Be');
      await page.fill('#most', '2');
      await page.fill('#temperature', '0');
      await say(page, 'Go');
      await page.waitForSelector('.assistant:text-is("Ye")');
      await page.waitForSelector('.figures:text-matches("2 tokens · cut off")');
      expect(await texts(page, 'user')).toEqual(['Hi', 'Go']);
      await page.click('#new');
      expect(await texts(page, 'user')).toEqual([]);
    });
    expect(asked.map(({ prompt }) => prompt)).toEqual([
      [{ role: 'user', content: 'Hi' }],
      [
        { role: 'system', content: 'Be' },
        { role: 'user', content: 'Hi' },
        { role: 'assistant', content: 'Yes, fr' },
        { role: 'user', content: 'Go' },
      ],
    ]);
  });

  test('two models answer side by side, and what they write is text', async () => {
    const asked = await open(model, { adapters: { sql } }, async (page) => {
      await page.waitForSelector('#send:enabled');
      await page.check('#compare');
      await say(page, 'Hi');
      const [first, second] = [page.locator('.column').nth(0), page.locator('.column').nth(1)];
      await first.locator('.assistant:text-is("Yes, fr")').waitFor();
      await second.locator('.assistant:text-is("a<u>b")').waitFor();
      expect(await page.locator('u').count()).toBe(0);
      await first.locator('select').selectOption('sql');
      await say(page, 'Go');
      await first.locator('.assistant:text-is("a<u>b")').waitFor();
    });
    expect(asked.map(({ model: name }) => name).sort()).toEqual(['base', 'sql', 'sql', 'sql']);
  });

  test('an answer is stopped, and so is its text in the engine', async () => {
    await open(endless, {}, async (page) => {
      for (const stop of [() => page.click('#stop'), () => page.press('#message', 'Escape')]) {
        await say(page, 'Hi');
        await page.waitForSelector('.assistant:last-child:text-matches("^Ab{3}")');
        await stop();
        await page.waitForSelector('.figures:text-matches("about \\\\d+ tokens · stopped$")');
        await until(() => endless.engineStats().running === 0);
      }
      expect(await texts(page, 'assistant')).toEqual([
        expect.stringMatching(/^Ab+$/),
        expect.stringMatching(/^b+$|^Ab+$/),
      ]);
    });
  });

  test('a new conversation hears nothing of the one before', async () => {
    await open(endless, {}, async (page) => {
      await say(page, 'Hi');
      await page.waitForSelector('.assistant:text-matches("^Ab{3}")');
      await page.click('#new');
      await until(() => endless.engineStats().running === 0);
      await page.waitForSelector('#send:enabled');
      expect(await page.locator('.column').first().locator('.figures').textContent()).toBe('');
      expect(await texts(page, 'assistant')).toEqual([]);
    });
  });

  test('what is refused is said in the server’s words, and the conversation goes on without it', async () => {
    const asked = await open(model, { complaints: /status of 400/ }, async (page) => {
      await say(page, 'x'.repeat(200));
      await page.waitForSelector('.trouble:text-matches("maximum context length is 128 tokens")');
      await say(page, 'Hi');
      await page.waitForSelector('.assistant:text-is("Yes, fr")');
    });
    expect(asked.at(-1)!.prompt).toEqual([{ role: 'user', content: 'Hi' }]);
  });

  test('a key is asked for, and kept in memory alone', async () => {
    await open(model, { apiKeys: ['secret'], complaints: /status of 401/ }, async (page, url) => {
      expect(await page.isEnabled('#send')).toBe(false);
      await page.fill('#key', 'wrong');
      await page.press('#key', 'Enter');
      await page.waitForSelector('#trouble:text-is("the API key is not known here")');
      await page.fill('#key', 'secret');
      await page.press('#key', 'Enter');
      await say(page, 'Hi');
      await page.waitForSelector('.assistant:text-is("Yes, fr")');
      expect(await page.isVisible('#key')).toBe(false);
      expect(await page.inputValue('#key')).toBe('');
      const { cookies, origins } = await page.context().storageState();
      expect([page.url(), cookies, origins]).toEqual([`${url}/`, [], []]);
      await page.reload();
      expect(await page.isVisible('#key')).toBe(true);
    });
  });

  test('on a telephone nothing is wider than the screen', async () => {
    await open(model, { width: 360 }, async (page) => {
      await say(page, 'Hello'.repeat(12));
      await page.waitForSelector('.assistant:text-is("Yes, fr")');
      const box = await page.locator('main').boundingBox();
      const form = await page.locator('#composer').boundingBox();
      for (const one of [box, form]) expect(one!.x + one!.width).toBeLessThanOrEqual(360);
    });
  });
});
