/** The site in a browser: from disk and over http, without a network. */
import { createReadStream, existsSync, readdirSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { Browser, Page } from 'playwright-core';
import { describeInChromium, launchChromium } from '../support/chromium';

export function describeBrowser(site: string): void {
  describeInChromium('the site in Chromium', () => {
    const types: Record<string, string> = {
      html: 'text/html',
      css: 'text/css',
      js: 'text/javascript',
      svg: 'image/svg+xml',
    };
    let browser: Browser;
    let server: Server;
    let http: string;
    const file = pathToFileURL(site).href;

    beforeAll(async () => {
      browser = await launchChromium();
      server = createServer((request, response) => {
        const path = join(site, decodeURIComponent(new URL(request.url!, 'http://site').pathname));
        if (!existsSync(path)) return void response.writeHead(404).end();
        response.setHeader('content-type', types[path.split('.').at(-1)!] ?? 'text/plain');
        createReadStream(path).pipe(response);
      });
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
      http = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    }, 240_000);
    afterAll(async () => {
      await browser?.close();
      await new Promise((resolve) => server.close(resolve));
    });

    /** Runs `use` in a page; errors of scripts and requests that leave the site fail the test. */
    async function inPage(width: number, use: (page: Page) => Promise<void>): Promise<void> {
      const context = await browser.newContext({ viewport: { width, height: 800 } });
      try {
        const page = await context.newPage();
        const trouble: string[] = [];
        page.on('pageerror', (error) => trouble.push(error.message));
        // Leaving a page aborts what it was still loading.
        page.on('requestfailed', (request) => {
          if (request.failure()?.errorText !== 'net::ERR_ABORTED') trouble.push(`failed: ${request.url()}`);
        });
        page.on('request', (request) => {
          if (!request.url().startsWith(file) && !request.url().startsWith(http))
            trouble.push(`left the site: ${request.url()}`);
        });
        await use(page);
        expect(trouble).toEqual([]);
      } finally {
        await context.close();
      }
    }

    test.each(['from disk', 'over http'])('search works %s', async (way) => {
      const base = way === 'from disk' ? file : http;
      await inPage(1280, async (page) => {
        await page.goto(`${base}/reference/errors.html`);
        const expectations: [string, string][] = [
          ['ERR_OUT_OF_MEMORY', 'reference/errors.html#err_out_of_memory'],
          ['--max-steps', 'reference/command-line.html#train-max-steps'],
          ['gradNorm', 'reference/events.html#stepevent.gradnorm'],
          ['LORA_THREADS', 'reference/environment.html#at-run-time'],
          ['fromPretrained', 'reference/api/models.html#causallm.frompretrained'],
        ];
        for (const [query, target] of expectations) {
          await page.keyboard.press('/');
          await page.fill('dialog input', query);
          await page.waitForSelector('#results [role=option]');
          const hits = await page.evaluate<string[]>(
            "[...document.querySelectorAll('#results a')].slice(0, 8).map((link) => link.href)",
          );
          expect({ query, hits }).toEqual({ query, hits: expect.arrayContaining([`${base}/${target}`]) });
          await page.keyboard.press('Escape');
        }
        await page.keyboard.press('/');
        await page.fill('dialog input', 'ERR_BUSY');
        await page.waitForSelector('#results [role=option] mark');
        await page.keyboard.press('Enter');
        await page.waitForURL(/#err_busy$/);
        expect(await page.isVisible('h2#err_busy')).toBe(true);
        await page.keyboard.press('/');
        await page.fill('dialog input', 'qqqzzz');
        await page.waitForSelector('#results .none');
        expect(await page.textContent('#results')).toContain('Nothing about');
      });
    });

    test('the theme can be switched, and stays', async () => {
      await inPage(1280, async (page) => {
        await page.goto(`${http}/index.html`);
        const background = (): Promise<string> =>
          page.evaluate<string>('getComputedStyle(document.body).backgroundColor');
        const light = await background();
        await page.click('.theme');
        const dark = await background();
        expect(dark).not.toBe(light);
        await page.goto(`${http}/reference/errors.html`);
        expect(await background()).toBe(dark);
      });
    });

    test('the name of a language covers no code', async () => {
      await inPage(1280, async (page) => {
        await page.goto(`${file}/guides/bundlers.html`);
        const [label, code] = await page.evaluate<[number, number]>(`(() => {
          const block = document.querySelector('.code');
          const style = getComputedStyle(block, '::after');
          const padding = getComputedStyle(block.querySelector('pre')).paddingTop;
          return [parseFloat(style.top) + parseFloat(style.height), parseFloat(padding)];
        })()`);
        expect(label).toBeGreaterThan(0);
        expect(label).toBeLessThanOrEqual(code);
      });
    });

    test('code is copied', async () => {
      await inPage(1280, async (page) => {
        await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
        await page.goto(`${http}/reference/errors.html`);
        await page.hover('.code');
        await page.click('.code .copy');
        await page.waitForSelector('.copy:text-is("Copied")');
        const text = await page.evaluate<string>('navigator.clipboard.readText()');
        expect(text).toBe(await page.textContent('.code code'));
      });
    });

    test('on a telephone the menu opens and no page is wider than the screen', async () => {
      await inPage(390, async (page) => {
        await page.goto(`${file}/reference/errors.html`);
        expect(await page.isVisible('.sidebar a')).toBe(false);
        await page.click('.menu');
        await page.waitForSelector('.sidebar a', { state: 'visible' });
        const pages = readdirSync(site, { recursive: true, encoding: 'utf8' }).filter(
          (name) => name.endsWith('.html') && !name.startsWith('source'),
        );
        const wide: string[] = [];
        for (const name of pages) {
          await page.goto(`${file}/${name}`);
          if (await page.evaluate<boolean>('document.documentElement.scrollWidth > innerWidth'))
            wide.push(name);
        }
        expect(wide).toEqual([]);
      });
    });
  });
}
