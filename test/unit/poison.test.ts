// What fails when it runs, after the call: dependents fail with the op, the sentence and the caller's stack.
import { mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { AdamW, LoRALinear, parameter, saveCheckpoint, tensor } from '../../lib/index';
import { binding } from '../../lib/native/calls';
import { enqueueInSlices } from '../../lib/tensor/op_slices';
import { seeded } from '../support/numbers';
import { temporaryFolder } from '../support/temporary';

const folder = temporaryFolder();

describe.each(['reference', 'cpu'] as const)('a failed op on %s', (device) => {
  test('poisons what depends on it and nothing else', async () => {
    const x = tensor([1, 2], { device });
    binding().injectFailure('binary', '[add] injected');
    const bad = x.add(1);
    const good = x.add(2);
    const worse = bad.mul(3).sum();
    const error = await worse.item().then(
      () => undefined,
      (e: Error & { op?: string }) => e,
    );
    expect(error?.message).toContain('injected');
    expect(error?.op).toBeTruthy();
    expect([...(await good.data())]).toEqual([3, 4]);
    expect([...(await x.data())]).toEqual([1, 2]);
    expect(() => bad.dataSync()).toThrow(/injected/);
  });

  test('shows the stack of the call that failed, not of the read', async () => {
    const x = tensor([1, 2], { device });
    function culprit(): ReturnType<typeof tensor> {
      binding().injectFailure('binary', 'injected');
      return x.add(1);
    }
    async function reader(t: ReturnType<typeof tensor>): Promise<unknown> {
      return t.data();
    }
    const bad = culprit();
    x.mul(2);
    const error = (await reader(bad).catch((e: unknown) => e)) as Error;
    expect(error.stack).toContain('culprit');
    expect(error.stack).not.toContain('reader');
    expect(error.stack).not.toContain('ops/binary');
    const [first, second] = error.stack!.split('\n');
    expect(first).toMatch(/^LoRAError: .*injected/);
    expect(second).toContain('culprit');
  });

  test('in backward, it is the stack of backward()', async () => {
    const w = parameter(tensor([1, 2], { device }));
    const loss = w.square().sum();
    function culprit(): void {
      binding().injectFailure('unary_backward', 'injected');
      loss.backward();
    }
    culprit();
    const error = (await w.grad!.data().catch((e: unknown) => e)) as Error;
    expect(error.stack).toContain('culprit');
    expect(await loss.item()).toBe(5);
  });

  test('in slices, it is the stack of the call that asked for them', async () => {
    const x = tensor([1, 2], { device });
    let bad: ReturnType<typeof tensor> | undefined;
    function* steps(): Generator<void, void, void> {
      yield;
      binding().injectFailure('binary', 'injected');
      bad = x.add(1); // in a turn of its own, with nothing of the caller on the stack
    }
    function culprit(): Promise<void> {
      return enqueueInSlices(device, steps());
    }
    await culprit();
    const error = (await bad!.data().catch((e: unknown) => e)) as Error;
    expect(error.stack).toContain('culprit');
    expect(error.stack).not.toContain('op_slices');
  });

  const setup = (): { layer: LoRALinear; optimizer: AdamW; run: () => void; weights: () => string } => {
    const layer = new LoRALinear({ inFeatures: 4, outFeatures: 3, r: 2, device });
    const optimizer = new AdamW(layer.parameters(), { lr: 0.1 });
    const x = seeded([2, 4], 1, { device });
    return {
      layer,
      optimizer,
      run: () => layer.forward(x).square().sum().backward(),
      weights: () =>
        layer
          .parameters()
          .map((p) => Buffer.from(p.bytesSync()).toString('hex'))
          .join(),
    };
  };

  test('an update with a failed gradient does not run, and the optimizer refuses until zeroGrad()', async () => {
    const { optimizer, run, weights } = setup();
    run();
    optimizer.step();
    optimizer.zeroGrad();
    const before = weights();
    binding().injectFailure('lora_linear_forward', 'injected');
    run();
    optimizer.step();
    expect(weights()).toBe(before); // reading waits for the step
    expect(() => optimizer.step()).toThrow(/injected/);
    expect(() => optimizer.stateDict()).toThrow(/injected/);
    await expect(saveCheckpoint('/nowhere', { optimizer })).rejects.toThrow(/injected/);
    optimizer.zeroGrad();
    run();
    optimizer.step();
    expect(weights()).not.toBe(before);
    optimizer.stateDict();
  });

  test('a failure that nobody has seen outlives zeroGrad()', async () => {
    const { optimizer, run, weights } = setup();
    binding().injectFailure('lora_linear_forward', 'injected');
    run();
    optimizer.step();
    weights();
    optimizer.zeroGrad();
    run();
    expect(() => optimizer.step()).toThrow(/injected/);
    optimizer.zeroGrad();
    run();
    optimizer.step();
  });

  test('a failure that comes after stateDict() is one of saveCheckpoint()', async () => {
    const { optimizer, run } = setup();
    const scratch = join(folder, device);
    mkdirSync(scratch);
    run();
    const size = device === 'reference' ? 200 : 400; // the reference is slow
    const busy = seeded([size, size], 3, { device });
    for (let i = 0; i < 8; i++) busy.matmul(busy); // the queue is not there yet when the state is asked for
    binding().injectFailure('adamw', 'injected');
    optimizer.step();
    await expect(saveCheckpoint(scratch, { optimizer })).rejects.toThrow(/injected/);
    expect(readdirSync(scratch)).toEqual([]);
  });

  test('one that a read has shown is cleared by zeroGrad()', async () => {
    const { layer, optimizer } = setup();
    const x = seeded([2, 4], 1, { device });
    binding().injectFailure('lora_linear_forward', 'injected');
    const loss = layer.forward(x).square().sum();
    loss.backward();
    optimizer.step();
    await expect(loss.item()).rejects.toThrow(/injected/);
    optimizer.zeroGrad();
    layer.forward(x).square().sum().backward();
    optimizer.step();
  });
});
