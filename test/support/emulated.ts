/** Tests of the CUDA backend: on the emulated GPU, or with LORA_TEST_DEVICE=cuda on a real one (scripts/gpu-check). */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Device } from '../../lib/index';
import { deviceName } from '../../lib/native/device';

const addon = join(__dirname, '../../build/emulated/lora_native_emulated.node');
const real = process.env['LORA_TEST_DEVICE'] as Device | undefined;

/** The GPU. */
export const gpu: Device = real ?? 'cuda-emulated';

const reason = real || existsSync(addon) ? undefined : `${addon} is absent: run node scripts/ctest.mjs`;

/** A test, or a skipped one whose name says why. */
export function onGpu(title: string, body: () => Promise<void>): void {
  if (reason) test.skip(`${title} (skipped: ${reason})`, body);
  else
    test(
      title,
      () => {
        deviceName('test', gpu); // before any other device, since the first one of a process chooses the add-on
        return body();
      },
      120_000,
    );
}
