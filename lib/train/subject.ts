/** What a Trainer trains. A kind of it is a class beside this file; they meet in subjects.ts. */
import type { Adapter } from '../peft/adapter';
import type { Optimizer } from '../optim/optimizer';
import type { Settling, Stateful } from '../tensor/state';
import type { Parameter } from '../tensor/tensor';

/** What model cards and reports say of it. */
export interface SubjectFacts {
  /** What it is, before "of" and the name of the base: LoRA adapter. */
  readonly title: string;
  /** The library that reads its files, as the Hub names it. */
  readonly library: string;
  /** What it is to its base, as the Hub names it. */
  readonly relation: 'adapter' | 'finetune';
  /** Tags of its card. */
  readonly tags: readonly string[];
  /** Its own settings. */
  readonly settings: readonly (readonly [name: string, value: string])[];
  /** The paths of the modules that it changes. */
  readonly modules: readonly string[];
}

/** Puts further files into the folder of a save, which appear together with the others. */
export type MoreFiles = (folder: string) => Promise<void>;

/** The Trainer knows nothing else of what it trains. */
export interface TrainingSubject {
  /** What sentences call it. */
  readonly label: string;
  /** The adapter of its forward passes; null: the base alone, of which there is nothing to compare with while it is trained. */
  readonly adapter: Adapter | null;
  /** What of its state is in checkpoint.safetensors, by name: training continues from that and from its files, bit for bit. */
  readonly states: Readonly<Record<string, Stateful & Settling>>;
  readonly facts: SubjectFacts;
  /** All that backward() fills. */
  parameters(): Parameter[];
  /** Remembers what a forward pass changes beside gradients; the returned function goes back to it. */
  mark(): () => void;
  /** Counts a forward pass of a step that another rank makes. */
  skipForward(): void;
  /** Holds it, and its model, until the returned function is called. @throws ERR_BUSY */
  acquire(op: string): () => void;
  /** What checkpoints are compared with. */
  settings(): Readonly<Record<string, unknown>>;
  /** Bytes of its files, about. */
  readonly bytes: number;
  /** @throws ERR_FILE for a folder into which it cannot be written. */
  checkFolder(dir: string): Promise<void>;
  /** Writes it as programs read it. */
  save(dir: string, more?: MoreFiles): Promise<void>;
  /** Takes what a checkpoint holds of it, and of the optimizer where one is given. */
  load(checkpoint: string, optimizer?: Optimizer): Promise<void>;
  /** Writes what a checkpoint of it holds into `dir`. */
  copy(checkpoint: string, dir: string, more: MoreFiles): Promise<void>;
}
