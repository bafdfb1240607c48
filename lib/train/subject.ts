/** What a Trainer trains. A kind of it is a class beside this file; they meet in subjects.ts. */
import type { Adapter } from '../peft/adapter';
import type { Settling, Stateful } from '../tensor/state';
import type { Parameter } from '../tensor/tensor';

/** What model cards and reports say of it. */
export interface SubjectFacts {
  /** What it is, before "of" and the name of the base: LoRA adapter. */
  readonly title: string;
  /** The library that reads its files, as the Hub names it. */
  readonly library: string;
  /** What it is to its base, as the Hub names it. */
  readonly relation: 'adapter';
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
  /** What its state is called in checkpoint.safetensors. */
  readonly key: string;
  /** What sentences call it. */
  readonly label: string;
  /** The adapter of its forward passes; null: the base alone. */
  readonly adapter: Adapter | null;
  /** What training continues from, bit for bit. */
  readonly state: Stateful & Settling;
  readonly facts: SubjectFacts;
  /** All that backward() fills. */
  parameters(): Parameter[];
  /** Remembers what a forward pass changes beside gradients; the returned function goes back to it. */
  mark(): () => void;
  /** Holds it, and its model, until the returned function is called. @throws ERR_BUSY */
  acquire(op: string): () => void;
  /** What checkpoints are compared with. */
  settings(): Readonly<Record<string, unknown>>;
  /** Writes it as programs read it. */
  save(dir: string, more?: MoreFiles): Promise<void>;
  /** Writes what a checkpoint of it holds into `dir`. */
  copy(checkpoint: string, dir: string, more: MoreFiles): Promise<void>;
}
