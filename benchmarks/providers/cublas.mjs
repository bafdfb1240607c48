// The layer on a GPU against cuBLAS. Timing there takes the device's own events and CUDA graphs, so a C++ program does it
// (native/test/gpu/bench.cc), which scripts/gpu-check builds and runs.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { devices, tensor } from 'lora-native';

const script = join(dirname(fileURLToPath(import.meta.url)), '../../scripts/gpu-check');

/** Why there is nothing to measure, or undefined. */
function obstacle() {
  if (!existsSync(script)) return 'scripts/gpu-check is not here';
  if (devices().some(({ id }) => id === 'cuda')) return undefined;
  try {
    tensor([0], { device: 'cuda' });
    return 'devices() lists no GPU';
  } catch (error) {
    return error.message;
  }
}

/** Prints the tables; answers { figures } (microseconds per call), { skipped: reason } or { failed: reason }. */
export function runCublas() {
  const reason = obstacle();
  if (reason) return { skipped: reason };
  const scratch = mkdtempSync(join(tmpdir(), 'lora-bench-gpu-'));
  try {
    const { status, error } = spawnSync(script, ['--out', join(scratch, 'gpu.md'), 'bench'], {
      stdio: 'inherit',
    });
    if (error) return { failed: `scripts/gpu-check did not run: ${error.message}` };
    if (status !== 0) return { failed: `scripts/gpu-check bench ended with status ${status}` };
    return { figures: JSON.parse(readFileSync(join(scratch, 'gpu.json'), 'utf8')) };
  } finally {
    rmSync(scratch, { recursive: true });
  }
}
