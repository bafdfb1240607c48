/** A tree of layers. */
import { inspect } from 'node:util';
import { loaderOf } from '../formats/checkpoint';
import { checkSaved, prepare, restore, type StateDict, type Stateful } from '../tensor/state';
import { Parameter, type Tensor } from '../tensor/tensor';
import { check, checkOptions, describe, isRecord } from '../validate';

/** The options of a layer's forward(). */
export interface LayerOptions {
  /** Whether dropout is on; default: whether gradients are being recorded. */
  train?: boolean | undefined;
}

/** What a {@link Module} takes for a part of itself: a module, a layer such as LoRALinear, or anything else with these methods. */
export interface Layer extends Stateful {
  /** The weights to train. */
  parameters(): Parameter[];
  /** Frees them. */
  dispose?(): void;
}

type Part = Parameter | Layer;

function isLayer(value: unknown): value is Layer {
  const layer = value as Partial<Layer> | null;
  return (
    typeof layer === 'object' &&
    layer !== null &&
    typeof layer.parameters === 'function' &&
    typeof layer.stateDict === 'function' &&
    typeof layer.loadStateDict === 'function'
  );
}

const isPart = (value: unknown): value is Part => value instanceof Parameter || isLayer(value);

/** The parts of a module by name: its properties, and the items of those that are lists by their number. */
function partsOf(module: Module): [name: string, part: Part][] {
  const parts: [string, Part][] = [];
  for (const [name, value] of Object.entries(module)) {
    if (isPart(value)) parts.push([name, value]);
    else if (Array.isArray(value))
      value.forEach((item: unknown, i) => {
        if (isPart(item)) parts.push([`${name}.${i}`, item]);
      });
  }
  return parts;
}

/**
 * A network of your own: a class whose properties are layers, parameters, other modules, and lists of these. It finds them by their names
 * for parameters(), for checkpoints and for dispose(). Private properties (#name) are not seen.
 *
 * @example
 * class Classifier extends Module {
 *   hidden = new Linear({ inFeatures: 4, outFeatures: 16 });
 *   output = new Linear({ inFeatures: 16, outFeatures: 3 });
 *   forward(x: Tensor): Tensor {
 *     return this.output.forward(this.hidden.forward(x).relu());
 *   }
 * }
 * const network = new Classifier();
 * const optimizer = new AdamW(network.parameters(), { lr: 1e-2 });
 * await saveCheckpoint('run', { network, optimizer });
 */
export abstract class Module implements Layer {
  /** y of x. */
  abstract forward(x: Tensor, options?: LayerOptions): Tensor;

  /** Every parameter of the tree with its path, such as `blocks.0.weight`; one that is in it twice, once. */
  namedParameters(): [path: string, parameter: Parameter][] {
    const seen = new Set<Parameter>();
    const named: [string, Parameter][] = [];
    const add = (path: string, parameter: Parameter): void => {
      if (seen.has(parameter)) return;
      seen.add(parameter);
      named.push([path, parameter]);
    };
    for (const [name, part] of partsOf(this)) {
      if (part instanceof Parameter) add(name, part);
      else if (part instanceof Module)
        for (const [path, parameter] of part.namedParameters()) add(`${name}.${path}`, parameter);
      else for (const parameter of part.parameters()) add(`${name}.${parameter.name}`, parameter);
    }
    return named;
  }

  /** Every parameter of the tree once, the weights to train. */
  parameters(): Parameter[] {
    return this.namedParameters().map(([, parameter]) => parameter);
  }

  /** The state of each part by its name; what saveCheckpoint writes. */
  stateDict(): StateDict {
    const state: StateDict = {};
    for (const [name, part] of partsOf(this)) {
      const saved = part instanceof Parameter ? part.detach() : part.stateDict();
      check(
        !(saved instanceof Promise),
        'Module',
        () => `expected stateDict() of ${name} to give a state at once but received a promise`,
      );
      state[name] = saved;
    }
    return state;
  }

  /**
   * Takes what stateDict() gave, bit for bit. All of it is checked before one parameter changes.
   *
   * @throws ERR_ARGUMENT where the state has other names or shapes than the tree.
   */
  loadStateDict(state: StateDict): void {
    this[prepare](state)();
  }

  /** @internal Checks a state, and gives what takes it. */
  [prepare](state: StateDict): () => void {
    const op = this.constructor.name;
    const parts = partsOf(this);
    checkOptions(
      op,
      state,
      parts.map(([name]) => name),
    );
    const takes = parts.map(([name, part]): (() => unknown) => {
      const saved = state[name];
      if (part instanceof Parameter) {
        checkSaved(op, name, part, saved);
        return () => {
          restore(op, name, part, saved);
          part.version++;
        };
      }
      check(
        isRecord(saved),
        op,
        () => `expected ${name} of the state to be an object but received ${describe(saved)}`,
      );
      return loaderOf(part, saved);
    });
    return () => {
      for (const take of takes) take();
    };
  }

  /** Frees the parameters; what a recorded graph needs lives on until backward(). */
  dispose(): void {
    for (const [, part] of partsOf(this)) part.dispose?.();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** @internal What toString() says in the parentheses. */
  protected get facts(): string {
    const parameters = this.parameters();
    const n = parameters.reduce((sum, { numel }) => sum + numel, 0);
    return `${n} parameters in ${parameters.length} tensor${parameters.length === 1 ? '' : 's'}`;
  }

  toString(): string {
    return `${this.constructor.name}(${this.facts})`;
  }

  toJSON(): string {
    return this.toString();
  }

  [inspect.custom](): string {
    return this.toString();
  }
}
