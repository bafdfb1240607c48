import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A fresh folder for the tests of one file, removed after them. */
export function temporaryFolder(): string {
  const dir = mkdtempSync(join(tmpdir(), 'lora-test-'));
  afterAll(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** Gives another name of a folder for a run with each call, below one that is removed after the tests of a file. */
export function freshRuns(): () => string {
  const dir = temporaryFolder();
  let made = 0;
  return () => join(dir, `run-${made++}`);
}
