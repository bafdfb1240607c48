import { existsSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { chromium, type Browser, type Page } from 'playwright-core';

const executablePath = [
  process.env['CHROMIUM'],
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
].find((path) => path !== undefined && path !== '' && existsSync(path));

export const launchChromium = (): Promise<Browser> =>
  chromium.launch({
    executablePath,
    args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'],
  });

/**
 * Opens the page, a file or an address; what a script complains about, and requests to other files or servers, fail the test.
 * `complaints`: what Chromium may write into its console, as it does of every answer that is an error.
 */
export async function inPage(
  browser: Browser,
  address: string,
  options: {
    colorScheme?: 'light' | 'dark';
    javaScriptEnabled?: boolean;
    width?: number;
    complaints?: RegExp;
    /** What navigator.language says, which Chromium takes from the locale of the system. */
    language?: string;
  },
  use: (page: Page) => Promise<void>,
): Promise<void> {
  const { width = 1000, complaints, language, ...rest } = options;
  const context = await browser.newContext({ viewport: { width, height: 900 }, ...rest });
  try {
    if (language !== undefined)
      await context.addInitScript(
        `Object.defineProperty(Navigator.prototype, 'language', { get: () => ${JSON.stringify(language)} })`,
      );
    const page = await context.newPage();
    const trouble: string[] = [];
    const served = address.startsWith('http:');
    const url = served ? address : pathToFileURL(address).href;
    const isOwn = (other: string): boolean => (served ? other.startsWith(`${url}/`) : other === url);
    page.on('pageerror', (error) => trouble.push(error.message));
    page.on('console', (message) => {
      if (!complaints?.test(message.text())) trouble.push(`${message.type()}: ${message.text()}`);
    });
    page.on('dialog', (dialog) => {
      trouble.push(`dialog: ${dialog.message()}`);
      void dialog.dismiss();
    });
    page.on('request', (request) => {
      if (!isOwn(request.url())) trouble.push(`request: ${request.url()}`);
    });
    await page.goto(url);
    await use(page);
    expect(trouble).toEqual([]);
  } finally {
    await context.close();
  }
}

/** Tests that need a browser: skipped, with the reason, where there is none. */
export function describeInChromium(title: string, tests: () => void): void {
  if (executablePath) describe(title, tests);
  else describe.skip(`${title} (skipped: no Chromium here: apt-get install chromium)`, tests);
}
