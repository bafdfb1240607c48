/** An adapter, as what is trained. */
import type { CausalLM } from '../models/causal_lm';
import type { Adapter } from '../peft/adapter';
import { readAdapter, writeAdapterWith } from '../peft/adapter_files';
import type { Parameter } from '../tensor/tensor';
import type { MoreFiles, SubjectFacts, TrainingSubject } from './subject';

export class AdapterSubject implements TrainingSubject {
  readonly key = 'adapter';

  constructor(
    private readonly model: CausalLM,
    readonly adapter: Adapter,
  ) {}

  get label(): string {
    return `adapter '${this.adapter.name}'`;
  }

  get state(): Adapter {
    return this.adapter;
  }

  get facts(): SubjectFacts {
    const { title, loadedByPeft, settings } = this.adapter.facts;
    return {
      title: `${title} adapter`,
      library: loadedByPeft ? 'peft' : 'lora-native',
      relation: 'adapter',
      tags: [this.adapter.method],
      settings,
      modules: this.adapter.targets,
    };
  }

  parameters(): Parameter[] {
    return this.adapter.parameters();
  }

  mark(): () => void {
    return this.adapter.forwardMark();
  }

  acquire(op: string): () => void {
    return this.model.acquireForTraining(op, this.adapter);
  }

  settings(): Readonly<Record<string, unknown>> {
    const { method, config, targets } = this.adapter;
    return { adapter: { ...(method === 'lora' ? {} : { method }), ...config, targets } };
  }

  async save(dir: string, more?: MoreFiles): Promise<void> {
    await this.adapter.saveWith(dir, more);
  }

  async copy(checkpoint: string, dir: string, more: MoreFiles): Promise<void> {
    await writeAdapterWith(dir, await readAdapter(checkpoint), more);
  }
}
