import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/**
 * Compiles a program against the sources in native/, runs it, and gives the lines that it prints: what the C++ code knows is asked of it, not
 * written a second time.
 * @param root the repository
 * @param program its text
 * @param options `input` is what it reads, `sources` are files of native/ to compile with it
 */
export function linesOf(root, program, { input = '', sources = [] } = {}) {
  const dir = mkdtempSync(join(tmpdir(), 'cuda-report-'));
  try {
    const [source, binary] = [join(dir, 'main.cc'), join(dir, 'main')];
    writeFileSync(source, program);
    const native = join(root, 'native');
    const files = [source, ...sources.map((name) => join(native, name))];
    execFileSync('c++', ['-std=c++20', `-I${native}`, ...files, '-o', binary]);
    return execFileSync(binary, { encoding: 'utf8', input }).trim().split('\n');
  } finally {
    rmSync(dir, { recursive: true });
  }
}
