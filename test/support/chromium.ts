import { existsSync } from 'node:fs';
import { chromium, type Browser } from 'playwright-core';

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

/** Tests that need a browser: skipped, with the reason, where there is none. */
export function describeInChromium(title: string, tests: () => void): void {
  if (executablePath) describe(title, tests);
  else describe.skip(`${title} (skipped: no Chromium here: apt-get install chromium)`, tests);
}
