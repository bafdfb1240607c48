import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A fresh folder for the tests of one file, removed after them. */
export function temporaryFolder(): string {
  const dir = mkdtempSync(join(tmpdir(), 'lora-test-'));
  afterAll(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}
