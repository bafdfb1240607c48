/** Chat templates that are ready to run, within a budget of steps. */
import { Environment, parse, Template, tokenize } from '@huggingface/jinja';
import { loraError } from '../errors';
import { checkLimit, type Limits } from '../formats/limits';
import { atOnce } from '../tensor/pace';
import { BoundedInterpreter, type Node } from './template_interpreter';
import { comparedRoles } from './template_roles';

const op = 'chat_template';
type Program = ReturnType<typeof parse>;

/** The package looks for tags of its own by an expression that takes quadratic time in white space. */
const maxSpaces = 256;
/** Dates are written by formatters that are made afresh. */
const dateSteps = 1000;

const statements = new Set([
  'Set',
  'If',
  'For',
  'Macro',
  'CallStatement',
  'FilterStatement',
  'Break',
  'Continue',
  'Comment',
]);
const bodies = ['body', 'alternate', 'defaultBlock'];

/** An expression whose value is written out. */
function output(expression: Node): Node {
  const made = Object.create(Object.getPrototypeOf(expression) as object) as Node;
  return Object.assign(made, { type: 'Output', expression });
}

/** Marks the expressions whose values are written out. Gives the number of nodes in all bodies below. */
function markOutput(node: Node, sizes: WeakMap<Node, number>): number {
  let count = 1;
  for (const field of bodies) {
    const body = node[field];
    if (!Array.isArray(body)) continue;
    for (const [i, child] of (body as Node[]).entries()) {
      count += markOutput(child, sizes);
      if (!statements.has(child.type)) body[i] = output(child);
    }
  }
  sizes.set(node, count);
  return count;
}

/** A template that is ready to run. */
export class BoundedTemplate {
  readonly #program: Program;
  readonly #limits: Limits;
  readonly #bodies = new WeakMap<Node, number>();
  /** The texts that it compares roles with. */
  readonly roles: ReadonlySet<string>;

  /** @throws what the package throws for a text that is no template, and ERR_DATA for one that is too long. */
  constructor(source: string, limits: Limits) {
    checkLimit(
      limits,
      'templateCharacters',
      source.length,
      `the chat template of the model has ${source.length} characters`,
      {
        code: 'ERR_DATA',
        op,
      },
    );
    if (new RegExp(`\\s{${maxSpaces + 1}}`).test(source))
      throw loraError(
        op,
        'ERR_DATA',
        `the chat template of the model has more than ${maxSpaces} white-space characters in a row`,
      );
    this.#limits = limits;
    this.#program = parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true }));
    this.roles = comparedRoles(this.#program);
    markOutput(this.#program as unknown as Node, this.#bodies);
  }

  render(variables: Readonly<Record<string, unknown>>): string {
    return atOnce(this.steps(variables));
  }

  /** The same; yields between the turns of its loops. `spent` is told the steps of a run that ended well. */
  *steps(
    variables: Readonly<Record<string, unknown>>,
    spent?: (steps: number) => void,
  ): Generator<void, string, void> {
    const environment = new Environment();
    const interpreter = new BoundedInterpreter(environment, this.#limits, this.#bodies);
    const globals = {
      false: false,
      true: true,
      none: null,
      raise_exception: (message: unknown) => {
        throw new Error(String(message).slice(0, 1000));
      },
      range: (from: number, to?: number, step = 1) => {
        const [start, end] = to === undefined ? [0, from] : [from, to];
        const length = Math.max(0, Math.ceil((end - start) / step)) || 0;
        if (step === 0) throw new Error('range() step must not be zero');
        interpreter.spend(length);
        return Array.from({ length }, (_, i) => start + i * step);
      },
      strftime_now: (format: unknown) => {
        interpreter.spend(dateSteps + String(format).length);
        return now.render({ format });
      },
      True: true,
      False: false,
      None: null,
    };
    for (const [name, value] of Object.entries(globals)) environment.set(name, value);
    for (const [name, value] of Object.entries(variables)) interpreter.allowFor(environment.set(name, value));
    const text = yield* interpreter.programSteps(this.#program as unknown as Node, environment);
    spent?.(interpreter.spent);
    return text;
  }
}

/** The package's own way to write a date. */
const now = new Template('{{ strftime_now(format) }}');
