/** An adapter, as what is trained. */
import { loadCheckpoint } from '../formats/checkpoint';
import type { CausalLM } from '../models/causal_lm';
import type { Optimizer } from '../optim/optimizer';
import type { Adapter } from '../peft/adapter';
import { readAdapter, writeAdapterWith } from '../peft/adapter_files';
import type { Parameter } from '../tensor/tensor';
import type { MoreFiles, SubjectFacts, TrainingSubject } from './subject';

export class AdapterSubject implements TrainingSubject {
  constructor(
    private readonly model: CausalLM,
    readonly adapter: Adapter,
  ) {}

  get label(): string {
    return `adapter '${this.adapter.name}'`;
  }

  get states(): { adapter: Adapter } {
    return { adapter: this.adapter };
  }

  get bytes(): number {
    return 4 * this.parameters().reduce((sum, { numel }) => sum + numel, 0);
  }

  async checkFolder(): Promise<void> {
    // Its files lie beside whatever else is there.
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

  skipForward(): void {
    this.adapter.nextForward(true);
  }

  acquire(op: string): () => void {
    return this.model.core.acquireForTraining(op, this.adapter);
  }

  settings(): Readonly<Record<string, unknown>> {
    const { method, config, targets } = this.adapter;
    return { adapter: { ...(method === 'lora' ? {} : { method }), ...config, targets } };
  }

  async save(dir: string, more?: MoreFiles): Promise<void> {
    await this.adapter.saveWith(dir, more);
  }

  async load(checkpoint: string, optimizer?: Optimizer): Promise<void> {
    await loadCheckpoint(checkpoint, { ...this.states, ...(optimizer && { optimizer }) });
  }

  async copy(checkpoint: string, dir: string, more: MoreFiles): Promise<void> {
    await writeAdapterWith(dir, await readAdapter(checkpoint), more);
  }
}
