/** The reference data beside the checkout; tests that need it are skipped, with the reason, where it is absent. */
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';

export const sharedData = resolve(__dirname, '../../../shared/data');

/** `describe` where the folder is present, else a skipped suite that says why. */
export function describeWithData(name: string, folder: string, body: (dir: string) => void): void {
  const dir = join(sharedData, folder);
  if (existsSync(dir)) describe(name, () => body(dir));
  else describe.skip(`${name} (skipped: ${dir} is absent)`, () => void test('needs the data', () => {}));
}
