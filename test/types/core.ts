// Compiles under strict: what api.md shows of tensors and of a layer of one's own. Never run.
import {
  AdamW,
  clipGradNorm,
  devices,
  keep,
  loadCheckpoint,
  LoRAError,
  LoRALinear,
  memoryUsage,
  noGrad,
  parameter,
  saveCheckpoint,
  setThreads,
  Tensor,
  tensor,
  tidy,
  type Parameter,
} from 'lora-native';

export async function tensors(): Promise<void> {
  const x = tensor(
    [
      [1, 2],
      [3, 4],
    ],
    { dtype: 'f32', device: 'cpu', requiresGrad: false },
  );
  const typed: Tensor = tensor(new Float32Array(4), { shape: [2, 2] });
  const shape: readonly number[] = x.shape;
  const values: Float32Array = await x.data();
  const ids: Int32Array = await tensor([1], { dtype: 'i32' }).data();
  const bytes: Uint8Array = await x.bytes();
  const one: number = await x.sum().item();
  const again: number = x.sum().itemSync() + x.dataSync()[0]!;
  const moved: Tensor = x.to({ dtype: 'bf16', device: 'cuda' }).detach();
  x.dispose();
  {
    using y = tensor([1]);
    y.relu();
  }
  const result: number = await tidy(async () => keep(tensor([1])).item());
  const kept: { a: Tensor[] } = tidy(() => ({ a: [tensor([1])] }));
  const quiet: Tensor = noGrad(() => x.add(1));
  const later: Promise<Tensor> = noGrad(async () => x.add(1));
  const { tensors, bytes: used, byDevice, peakBytes } = memoryUsage();
  setThreads(2);
  const names: string[] = devices().map((d) => d.id);
  void [typed, shape, values, ids, bytes, one, again, moved, result, kept, quiet, later];
  void [tensors, used, byDevice, peakBytes, names];

  // @ts-expect-error an unknown option
  tensor([1], { type: 'f32' });
  // @ts-expect-error an unknown dtype
  tensor([1], { dtype: 'float32' });
  // @ts-expect-error an unknown device
  x.to({ device: 'gpu' });
}

export async function layers(weight: Float32Array, x: Tensor, target: Tensor): Promise<void> {
  const layer = new LoRALinear({
    inFeatures: 4096,
    outFeatures: 4096,
    r: 16,
    loraAlpha: 32,
    loraDropout: 0,
    useRslora: false,
    weight,
    bias: tensor(new Float32Array(4096)),
    dtype: 'bf16',
    device: 'cpu',
    seed: 0,
  });
  const y = layer.forward(x, { train: true });
  const [up, down, scale]: [Parameter, Parameter, number] = [layer.up, layer.down, layer.scale];
  const loss = y.sub(target).square().mean();
  loss.backward();
  y.backward(target);
  const gradient: Tensor | null = x.grad;
  const own: Parameter = parameter(tensor([1]), 'own');
  const optimizer = new AdamW(layer.parameters(), {
    lr: 1e-3,
    betas: [0.9, 0.999],
    eps: 1e-8,
    weightDecay: 0.01,
  });
  const grouped = new AdamW([{ params: [own], lr: 1e-4 }, { params: layer.parameters() }], { lr: 1e-3 });
  const norm: number = await clipGradNorm(layer.parameters(), 1.0).item();
  optimizer.lr = 5e-4;
  optimizer.step();
  optimizer.zeroGrad();
  layer.merge();
  layer.unmerge();
  await saveCheckpoint('dir', { layer, optimizer, step: 10 });
  const { step }: { step: number } = await loadCheckpoint('dir', { layer, optimizer });
  const logits = y.add(up.sum()).sub(1).mul(2).div(3).relu().gelu().silu();
  logits.reshape([-1]).sum();
  logits.transpose([1, 0]).matmul(down).crossEntropy([1], { reduction: 'sum' });
  try {
    logits.crossEntropy(tensor([1], { dtype: 'i32' }));
  } catch (e) {
    if (e instanceof LoRAError && e.code === 'ERR_ARGUMENT') void e.op;
  }
  void [scale, gradient, grouped, norm, step];
  // @ts-expect-error an unknown option
  new LoRALinear({ inFeatures: 1, outFeatures: 1, rank: 4 });
}
