/** The weights of the model itself, as what is trained: its files are a plain model directory. */
import { copyFile } from 'node:fs/promises';
import { join } from 'node:path';
import { loadCheckpoint } from '../formats/checkpoint';
import { SavedFolder, saveTogether } from '../formats/file_group';
import { modelFiles } from '../formats/model_files';
import { openModelTensors } from '../formats/sharded';
import type { CausalLM } from '../models/causal_lm';
import { checkNotSource, copySentenceFiles } from '../models/save';
import { dtypeOf } from '../models/core/weights';
import { tensorsOfFolder } from '../models/files/model_tensors';
import type { Optimizer } from '../optim/optimizer';
import { runDetached } from '../tensor/scope';
import { SlicedUpload } from '../tensor/slices';
import { prepare, prepareParameters, type StateDict } from '../tensor/state';
import type { Parameter } from '../tensor/tensor';
import { check, describe, isRecord } from '../validate';
import type { MoreFiles, SubjectFacts, TrainingSubject } from './subject';

const op = 'Trainer';

/** The f32 masters: in bf16 the model directory has their rounded values alone. */
class Masters {
  constructor(private readonly parameters: readonly Parameter[]) {}

  stateDict(): StateDict {
    return { tensors: Object.fromEntries(this.parameters.map((p) => [p.name, p.detach()])) };
  }

  loadStateDict(state: StateDict): void {
    this[prepare](state)();
  }

  [prepare]({ tensors }: StateDict): () => void {
    check(
      isRecord(tensors),
      op,
      () => `expected tensors of the state to be an object but received ${describe(tensors)}`,
    );
    return prepareParameters(op, 'the model', this.parameters, tensors);
  }
}

export class ModelSubject implements TrainingSubject {
  readonly adapter = null;
  readonly label = 'the weights of the model';
  readonly #parameters: readonly Parameter[];

  constructor(private readonly model: CausalLM) {
    this.#parameters = model.core.trainedParameters;
  }

  /** Whether the files hold all of the parameters: those of f32, and of bf16 where there are no f32 masters. */
  get #inFiles(): boolean {
    return this.model.dtype === 'f32' || this.#rounded;
  }

  get #rounded(): boolean {
    return this.#parameters.some(({ dtype }) => dtype === 'bf16');
  }

  get states(): { model?: Masters } {
    return this.#inFiles ? {} : { model: new Masters(this.#parameters) };
  }

  get facts(): SubjectFacts {
    const modules = this.#parameters.map(({ name }) => name.slice(0, name.lastIndexOf('.')));
    return {
      title: 'Fine-tuned copy',
      library: 'transformers',
      relation: 'finetune',
      tags: [],
      settings: [['Method', `full fine-tuning${this.#rounded ? ', bf16 with stochastic rounding' : ''}`]],
      modules,
    };
  }

  get bytes(): number {
    return this.model.parameterCount * (this.model.dtype === 'f32' ? 4 : 2);
  }

  parameters(): Parameter[] {
    return [...this.#parameters];
  }

  /** Its forward passes have no dropout, and change nothing. */
  mark(): () => void {
    return () => undefined;
  }

  skipForward(): void {
    // They have no number.
  }

  acquire(by: string): () => void {
    return this.model.core.acquireForTraining(by, null);
  }

  settings(): Readonly<Record<string, unknown>> {
    return {
      method: 'full',
      trained: this.#parameters.map(({ name }) => name),
      ...(this.#rounded && { stochasticRounding: true }),
    };
  }

  /** The folder of the model that is trained keeps its files. */
  async checkFolder(dir: string): Promise<void> {
    await checkNotSource(dir, this.model.directory, op);
  }

  async save(dir: string, more?: MoreFiles): Promise<void> {
    await this.model.saveWith(dir, more);
  }

  async load(checkpoint: string, optimizer?: Optimizer): Promise<void> {
    if (this.#inFiles) await this.#read(checkpoint);
    await loadCheckpoint(checkpoint, { ...this.states, ...(optimizer && { optimizer }) });
  }

  /** Takes the tensors of a model directory. */
  async #read(dir: string): Promise<void> {
    const stored = await tensorsOfFolder(await openModelTensors(dir), this.model.config);
    try {
      for (const p of this.#parameters) {
        const found = stored.get(p.name);
        const upload = runDetached(
          null,
          () => new SlicedUpload(dtypeOf(stored, p.name), p.dtype, p.shape, p.device),
        );
        try {
          for await (const slice of found.slices()) await upload.add(slice);
          p.copyFrom(upload.tensor);
        } finally {
          upload.tensor.dispose();
        }
      }
      await stored.checkUnchanged();
    } finally {
      await stored.close();
    }
  }

  async copy(checkpoint: string, dir: string, more: MoreFiles): Promise<void> {
    const saved = await SavedFolder.open(checkpoint);
    await saveTogether(
      dir,
      async (folder) => {
        for (const name of modelFiles)
          if (saved.has(name)) await copyFile(saved.file(name).path, join(folder, name));
        await copySentenceFiles(checkpoint, folder);
        await more(folder);
      },
      modelFiles,
    );
  }
}
