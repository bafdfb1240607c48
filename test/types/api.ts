// Compiles under strict: what api.md shows of models, training, files and errors. Never run.
import {
  AdamW,
  SGD,
  batches,
  CausalLM,
  constantSchedule,
  cosineSchedule,
  linearSchedule,
  loadDataset,
  LoRAError,
  openSafetensors,
  readAdapter,
  tensor,
  Trainer,
  writeAdapter,
  writeSafetensors,
  type Adapter,
  type GenerationResult,
  type Optimizer,
  type Parameter,
  type Tensor,
} from 'lora-native';

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
/** `is<string>()(x, true)` compiles when the type of x is string, no more and no less. */
function is<B>(): <A>(value: A, same: Equal<A, B>) => void {
  return () => undefined;
}

export async function models(signal: AbortSignal): Promise<void> {
  await using model = await CausalLM.fromPretrained('dir', {
    dtype: 'auto',
    device: 'auto',
    signal,
    onProgress: ({ loaded, total }) => loaded / total,
  });
  await CausalLM.fromPretrained(new URL('file:///dir'));
  await CausalLM.fromPretrained('hf:org/name', { revision: 'main', token: 'secret', offline: true });
  await CausalLM.fromPretrained('org/name', {
    onProgress: (progress) => {
      if (progress.type === 'repository') is<string | null>()(progress.license, true);
      else if (progress.type === 'download') is<string>()(progress.file, true);
    },
  });
  const facts: [number, string, string, boolean] = [
    model.config.vocabSize,
    model.device,
    model.dtype,
    model.hasTokenizer,
  ];
  const ids: number[] = model.tokenizer.encode('text');
  model.tokenizer.encode('text', { addSpecialTokens: false });
  const text: string = model.tokenizer.decode(ids);
  const messages = [{ role: 'user', content: 'Hi' }];
  const chat: number[] = model.tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true });
  const chatText: string = model.tokenizer.applyChatTemplate(messages, { tokenize: false });

  const adapter = model.addAdapter(
    { r: 16, loraAlpha: 32, targetModules: 'all-linear' },
    { name: 'default', seed: 0 },
  );
  const other: Adapter = await model.loadAdapter('dir', { name: 'other', trainable: false });
  await model.loadAdapter('hf:org/name@v1', { token: 'secret', signal });
  await readAdapter('hf:org/name', { revision: 'v1', signal });
  await model.loadAdapter(await readAdapter('dir'), { name: 'third', activate: true });
  const adapters: ReadonlyMap<string, Adapter> = model.adapters;
  const active: Adapter | null = model.activeAdapter;
  model.setAdapter('default');
  model.setAdapter(null);
  await model.removeAdapter('other');
  const described: [string, number, boolean] = [adapter.name, adapter.config.r, adapter.trainable];
  adapter.scale = adapter.scale * 0.5;
  const parameters: Parameter[] = adapter.parameters();
  for (const { name, grad } of parameters) {
    is<string>()(name, true);
    is<Tensor | null>()(grad, true);
  }
  await adapter.save('dir');

  const { loss, logits } = model.forward([ids, chat], {
    labels: [ids, chat],
    reduction: 'mean',
    logits: true,
    adapter: 'default',
    train: true,
  });
  is<Tensor>()(loss, true);
  is<Tensor>()(logits, true);
  loss.div(4).backward();
  const rows = tensor([ids], { dtype: 'i32' });
  model.forward(rows, { labels: rows, reduction: 'sum', adapter }).loss.backward();
  is<Tensor | undefined>()(model.forward([ids], { adapter: null }).loss, true);
  // Without labels there are logits; with them, where they are asked for.
  is<Tensor>()(model.forward([ids]).logits, true);
  is<Tensor>()(model.forward([ids], { adapter: null }).logits, true);
  is<Tensor>()(model.forward([ids], { labels: [ids], logits: true }).logits, true);
  is<Tensor | undefined>()(model.forward([ids], { labels: [ids] }).logits, true);

  for await (const { id, text: piece } of model.generate('Once', {
    maxNewTokens: 64,
    temperature: 0,
    topK: 40,
    topP: 0.9,
    seed: 0,
    stop: ['\n'],
    ignoreEos: false,
    adapter: other,
    signal,
  })) {
    is<number>()(id, true);
    is<string>()(piece, true);
  }
  const { text: whole, ids: out, finishReason, usage } = await model.generate(messages, {});
  is<string>()(whole, true);
  is<number[]>()(out, true);
  is<'stop' | 'length'>()(finishReason, true);
  const counted: number = usage.promptTokens + usage.completionTokens;
  const resolved: { text: string } = await (async () => model.generate(ids))();
  const promised: Promise<GenerationResult> = model.generate(ids);
  is<GenerationResult | string>()(await promised.catch((error: Error) => error.message), true);
  is<GenerationResult>()(await model.generate(ids).finally(() => undefined), true);
  is<Promise<GenerationResult>>()(model.generate(ids).result, true);
  await model.merge('default');
  await model.unmerge();
  await model.save('dir', { merge: 'default' });
  await model.save('dir');
  await model.dispose();
  void [facts, text, chatText, adapters, active, described, counted, resolved];

  // @ts-expect-error an unknown option
  model.addAdapter({ rank: 16 });
  // @ts-expect-error an unknown option
  model.generate('Once', { maxTokens: 1 });
  // @ts-expect-error an unknown option, beside known ones
  model.forward([ids], { labels: [ids], reducton: 'sum' });
  // @ts-expect-error the name of an adapter, or null
  model.setAdapter(undefined);
}

export async function training(model: CausalLM, signal: AbortSignal): Promise<void> {
  const data = await loadDataset('train.jsonl', {
    tokenizer: model.tokenizer,
    maxLength: 512,
    trainOn: 'completion',
  });
  const trainer = new Trainer({
    model,
    data,
    evalData: [{ inputIds: [1, 2], labels: [-100, 2] }],
    outDir: 'run',
    maxSteps: 200,
    batchSize: 4,
    gradientAccumulationSteps: 1,
    lr: 2e-4,
    schedule: 'cosine',
    warmupSteps: 10,
    weightDecay: 0.01,
    maxGradNorm: 1,
    seed: 0,
    evalEvery: 50,
    saveEvery: 50,
    resume: false,
  });
  for await (const e of trainer.run({ signal })) {
    if (e.type === 'step') {
      const numbers: number[] = [e.step, e.loss, e.lr, e.gradNorm, e.tokensPerSecond];
      const eta: number | undefined = e.etaSeconds;
      void [numbers, eta];
    }
    is<'start' | 'step' | 'eval' | 'checkpoint' | 'end'>()(e.type, true);
  }
  const { step, loss, evalLoss, dir, stopped } = await trainer.run({ signal });
  const numbers: [number, number, number | undefined, string | undefined] = [step, loss, evalLoss, dir];
  const parameters = model.activeAdapter!.parameters();
  async function* stream(): AsyncGenerator<{ inputIds: number[] }> {
    yield { inputIds: [1, 2] };
  }
  new Trainer({ model, data: stream, epochs: 2, parameters, optimizer: new AdamW(parameters, { lr: 1e-3 }) });
  new Trainer({ model, data: stream(), schedule: 'constant' });
  new Trainer({ model, data, optimizer: 'lion', loraPlusRatio: 16, schedule: 'wsd', decaySteps: 0.2 });
  const own: Optimizer = new SGD(parameters, { lr: 0.1, momentum: 0.9, nesterov: true });
  new Trainer({ model, data, optimizer: own });
  const { loss: mean, perplexity, tokens } = await model.evaluate(data, { adapter: 'default' });
  const factor: number = cosineSchedule({ totalSteps: 200, warmupSteps: 10 })(3);
  linearSchedule({ totalSteps: 200 })(0);
  constantSchedule({ warmupSteps: 10 })(0);
  for await (const { inputIds, labels } of batches(data, {
    batchSize: 4,
    shuffle: true,
    seed: 0,
    dropLast: false,
  }))
    model.forward(inputIds, { labels }).loss.backward();
  void [numbers, stopped, mean + perplexity + tokens + factor];

  // @ts-expect-error an unknown option
  new Trainer({ model, data, steps: 5 });
  // @ts-expect-error an unknown schedule
  new Trainer({ model, data, schedule: 'step' });
}

export async function files(bytes: Uint8Array): Promise<void> {
  const file = await openSafetensors('x.safetensors');
  const metadata = file.metadata;
  for (const [name, { dtype, shape, bytes: view }] of file.tensors) {
    const entry: [string, string, readonly number[], Uint8Array] = [name, dtype, shape, view];
    void entry;
  }
  file.close();
  await writeSafetensors(
    'y.safetensors',
    new Map([['w', { dtype: 'BF16', shape: [2, 2], bytes }]]),
    metadata,
  );
  const { config, tensors } = await readAdapter('dir');
  await writeAdapter('dir2', { config, tensors });
}

export function errors(e: unknown): string {
  if (!(e instanceof LoRAError)) throw e;
  switch (e.code) {
    case 'ERR_ARGUMENT':
    case 'ERR_DISPOSED':
    case 'ERR_BUSY':
    case 'ERR_OUT_OF_MEMORY':
    case 'ERR_DEVICE_UNAVAILABLE':
    case 'ERR_DEVICE_LOST':
    case 'ERR_UNSUPPORTED':
    case 'ERR_FILE':
    case 'ERR_SAFETENSORS':
    case 'ERR_ADAPTER':
    case 'ERR_DATA':
    case 'ERR_NON_FINITE':
      return e.op ?? e.message;
    default:
      return e.code;
  }
}
