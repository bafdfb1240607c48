/** LORA_CUDA_MEMORY_LIMIT and LORA_CUDA_LOSS_BYTES, on the emulated GPU. */
import { childReport, runChild } from '../support/child';
import { onGpu } from '../support/emulated';

/** Statements of a program with `full(values)`, a tensor of f32 on the GPU, and `complaint(work)`, the code and the message of what it throws. */
const helpers = `
  const device = 'cuda-emulated';
  const full = (values) => lora.tensor(new Float32Array(values).fill(1), { device });
  const complaint = (work) => {
    try {
      work();
      return 'no error';
    } catch (error) {
      return error.code + ' ' + error.message;
    }
  };`;
const advice = '; smaller batches, shorter texts, gradientCheckpointing and quantize take less';

const MiB = 2 ** 20;

onGpu('a call beyond LORA_CUDA_MEMORY_LIMIT throws with the limit, and the device stays usable', async () => {
  const report = childReport(
    `${helpers}
    const values = ${MiB / 4};
    const kept = [full(4 * values), full(3 * values)]; // 7 of 8 MiB
    const all = complaint(() => full(100 * values));
    const beyond = complaint(() => full(2 * values));
    const last = full(values);
    for (const t of [...kept, last]) t.dispose();
    // Blocks of other sizes are kept until there is no other memory: they make room for this one.
    const again = full(7 * values);
    const sum = await again.sum().item();
    again.dispose();
    report({ all, beyond, sum });`,
    { env: { LORA_CUDA_MEMORY_LIMIT: '8MiB' } },
  );
  const error = 'ERR_OUT_OF_MEMORY [tensor] needs';
  const on = 'are free on cuda-emulated: with what is held,';
  expect(report).toEqual({
    all: `${error} 104 MiB but only 1 MiB ${on} 111 MiB of LORA_CUDA_MEMORY_LIMIT = 8 MiB${advice}`,
    beyond: `${error} 2 MiB but only 1 MiB ${on} 9 MiB of LORA_CUDA_MEMORY_LIMIT = 8 MiB${advice}`,
    sum: 7 * (MiB / 4),
  });
  await Promise.resolve();
});

onGpu('without a limit, or with one beyond it, the memory of the device is the limit', async () => {
  for (const LORA_CUDA_MEMORY_LIMIT of ['', '1TiB']) {
    const said = childReport(
      `${helpers} const side = full(2 ** 15);
      report(complaint(() => side.reshape([2 ** 15, 1]).matmul(side.reshape([1, 2 ** 15]))));`,
      {
        env: { LORA_CUDA_MEMORY_LIMIT },
      },
    );
    expect(said).toMatch(/^ERR_OUT_OF_MEMORY .* needs 4096 MiB .* of the 2048 MiB of the device; /);
  }
  await Promise.resolve();
});

onGpu('a limit that is no size is said when the device is opened', async () => {
  for (const name of ['LORA_CUDA_MEMORY_LIMIT', 'LORA_CUDA_LOSS_BYTES', 'LORA_CUDA_EXPANSION_BYTES']) {
    const { status, stderr } = runChild(`${helpers} full(1);`, { env: { [name]: '7 gigs' } });
    expect([status, stderr]).toEqual([
      1,
      expect.stringContaining(`[device] expected ${name} to be a size such as 2GiB but received "7 gigs"`),
    ]);
  }
  await Promise.resolve();
});
