/** The values of @huggingface/jinja, and what it costs to go through one. */
import type { Interpreter } from '@huggingface/jinja';

export type Value = ReturnType<Interpreter['evaluate']>;
export type Scope = Parameters<Interpreter['evaluate']>[1];

/** Characters that cost as much as one element. */
export const charactersPerStep = 16;

export const textOf = (value: Value | undefined): string | undefined =>
  value?.type === 'StringValue' ? (value.value as string) : undefined;

/** The items of a list or tuple. */
export const itemsOf = (value: Value | undefined): readonly Value[] | undefined =>
  value?.type === 'ArrayValue' || value?.type === 'TupleValue' ? (value.value as Value[]) : undefined;

const objects: readonly string[] = ['ObjectValue', 'KeywordArgumentsValue', 'NamespaceValue'];

/** The entries of an object or namespace. */
export const entriesOf = (value: Value | undefined): ReadonlyMap<string, Value> | undefined =>
  value !== undefined && objects.includes(value.type)
    ? (value.value as unknown as Map<string, Value>)
    : undefined;

/** What it takes to write a value out: elements, and characters by sixteenths. */
export interface Size {
  readonly steps: number;
  readonly depth: number;
}

/**
 * Sizes of values. One value may be in many places, so that a few names can stand for a text of terabytes: sizes count it in every
 * place, and are kept, so that taking one costs the elements that are new.
 */
export class Sizes {
  readonly #known = new WeakMap<Value, Size>();

  of(value: Value | undefined): Size {
    if (value === undefined) return { steps: 1, depth: 0 };
    const text = textOf(value);
    if (text !== undefined) return { steps: 1 + Math.floor(text.length / charactersPerStep), depth: 0 };
    const items = itemsOf(value);
    const entries = entriesOf(value);
    if (!items && !entries) return { steps: 1, depth: 0 };
    const known = this.#known.get(value);
    if (known) return known;
    let steps = 1;
    let depth = 0;
    for (const child of items ?? entries!.values()) {
      const size = this.of(child);
      steps += size.steps;
      depth = Math.max(depth, size.depth + 1);
    }
    for (const key of entries?.keys() ?? []) steps += 1 + Math.floor(key.length / charactersPerStep);
    const size = { steps, depth };
    // A namespace changes.
    if (value.type !== 'NamespaceValue') this.#known.set(value, size);
    return size;
  }
}
