/**
 * Runs chat templates with @huggingface/jinja within a budget of steps, since a template is a program and may come from a stranger. The
 * interpreter evaluates each node of a template in one method, which is overridden here: it counts the node as a step, estimates the
 * steps of the filter, method, operator or loop that the node calls, and throws before that runs where the budget is exceeded. What a
 * template within its budget renders is what the interpreter renders without one.
 */
import { Environment, Interpreter, parse, Template, tokenize } from '@huggingface/jinja';
import { LoRAError } from '../errors';
import { checkLimit, limitText, type Limits } from '../formats/limits';
import { comparedRoles } from './template_roles';
import { callCost, operatorCost, type Arguments } from './template_costs';
import {
  charactersPerStep,
  entriesOf,
  itemsOf,
  Sizes,
  textOf,
  type Scope,
  type Value,
} from './template_values';

const op = 'chat_template';
type Program = ReturnType<typeof parse>;

/** A node of a template. The classes of the package are not exported. */
interface Node {
  readonly type: string;
  readonly [field: string]: unknown;
}

/** The package looks for tags of its own by an expression that takes quadratic time in white space. */
const mostSpaces = 256;
/** A name that nothing defines, and leaving a loop, cost an exception each. */
const exceptionSteps = 50;
/** A turn of a loop makes scopes and a `loop`. */
const turnSteps = 8;
/** A call makes a scope, and its names are looked for through all scopes around it. */
const callSteps = 20;
/** Dates are written by formatters that are made afresh. */
const dateSteps = 1000;
/** Templates go through each message a few times. */
const stepsPerInput = 16;

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

/** A copy of a node with some fields changed; of the same class, by which the package tells nodes apart. */
function changed(node: Node, fields: Record<string, unknown>): Node {
  return Object.assign(Object.create(Object.getPrototypeOf(node) as object) as Node, node, fields);
}

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

class BoundedInterpreter extends Interpreter {
  readonly #limits: Limits;
  readonly #bodies: WeakMap<Node, number>;
  readonly #sizes = new Sizes();
  /** Methods that were looked up: what they belong to, and their names. */
  readonly #methods = new WeakMap<Value, { of: Value; name: string }>();
  #left: number;
  #allowed: number;

  constructor(environment: Environment, limits: Limits, bodySizes: WeakMap<Node, number>) {
    super(environment);
    this.#limits = limits;
    this.#bodies = bodySizes;
    this.#left = this.#allowed = limits.templateSteps;
  }

  /** The steps that it took. */
  get spent(): number {
    return this.#allowed - this.#left;
  }

  /** A long conversation may take long. */
  allowFor(value: Value): void {
    const steps = stepsPerInput * this.#sizes.of(value).steps;
    this.#left += steps;
    this.#allowed += steps;
  }

  spend(steps: number): void {
    this.#left -= steps;
    if (this.#left < 0 || Number.isNaN(this.#left)) {
      const end = limitText(this.#limits, 'templateSteps');
      throw new LoRAError(
        'ERR_DATA',
        `[${op}] the chat template of the model does not end within its steps: ${end}`,
        { op },
      );
    }
  }

  override evaluate(statement: Parameters<Interpreter['evaluate']>[0], scope: Scope): Value {
    const node = statement as Node | undefined;
    if (node?.type === 'Evaluated') return node['result'] as Value;
    this.spend(1);
    const value = node === undefined ? super.evaluate(statement, scope) : this.#value(node, scope);
    const length = textOf(value)?.length;
    if (length !== undefined && length > charactersPerStep * this.#limits.templateSteps) this.spend(Infinity);
    return value;
  }

  #evaluate(node: unknown, scope: Scope): Value {
    return this.evaluate(node as Parameters<Interpreter['evaluate']>[0], scope);
  }
  #inherited(node: Node, scope: Scope): Value {
    return super.evaluate(node, scope);
  }

  #value(node: Node, scope: Scope): Value {
    switch (node.type) {
      case 'Output': {
        const value = this.#evaluate(node['expression'], scope);
        this.spend(this.#sizes.of(value).steps);
        return value;
      }
      case 'Identifier': {
        const value = this.#inherited(node, scope);
        if (value.type === 'UndefinedValue') this.spend(exceptionSteps);
        return value;
      }
      case 'Break':
      case 'Continue':
        this.spend(exceptionSteps);
        return this.#inherited(node, scope);
      case 'Macro':
      case 'CallStatement':
        this.spend(this.#bodies.get(node) ?? 1); // the package looks through the whole body
        return this.#inherited(node, scope);
      case 'ArrayLiteral':
      case 'TupleLiteral':
      case 'ObjectLiteral':
        return this.#container(this.#inherited(node, scope));
      case 'Set':
        return this.#set(node, scope);
      case 'For':
        return this.#for(node, scope);
      case 'BinaryExpression':
        return this.#binary(node, scope);
      case 'MemberExpression':
        return this.#member(node, scope);
      case 'CallExpression':
        return this.#call(node, scope);
      case 'FilterExpression':
        return this.#filter(node, scope);
      case 'FilterStatement':
        return this.#evaluate(
          changed(node, { type: 'FilterExpression', operand: changed(node, { type: 'Program' }) }),
          scope,
        );
      default:
        return this.#inherited(node, scope);
    }
  }

  /** A node whose value is known. */
  #known(value: Value): Node {
    return { type: 'Evaluated', result: value };
  }

  /** Namespaces change, so that the size of what holds one could not be kept. */
  #container(value: Value): Value {
    for (const child of itemsOf(value) ?? entriesOf(value)?.values() ?? [])
      if (child.type === 'NamespaceValue')
        throw new LoRAError(
          'ERR_DATA',
          `[${op}] the chat template of the model puts a namespace into a list or object`,
          { op },
        );
    if (this.#sizes.of(value).steps > this.#limits.templateSteps) this.spend(Infinity);
    return value;
  }

  #set(node: Node, scope: Scope): Value {
    const assignee = node['assignee'] as Node;
    if (assignee.type !== 'MemberExpression' || !node['value']) return this.#inherited(node, scope);
    const value = this.#evaluate(node['value'], scope);
    if (value.type === 'NamespaceValue')
      throw new LoRAError(
        'ERR_DATA',
        `[${op}] the chat template of the model puts a namespace into a namespace`,
        { op },
      );
    return this.#inherited(changed(node, { value: this.#known(value) }), scope);
  }

  #for(node: Node, scope: Scope): Value {
    const iterable = node['iterable'] as Node;
    const selected = iterable.type === 'SelectExpression';
    const value = this.#evaluate(selected ? iterable['lhs'] : iterable, scope);
    this.spend(turnSteps * (itemsOf(value)?.length ?? entriesOf(value)?.size ?? 0));
    const known = this.#known(value);
    return this.#inherited(
      changed(node, { iterable: selected ? changed(iterable, { lhs: known }) : known }),
      scope,
    );
  }

  #binary(node: Node, scope: Scope): Value {
    const operator = (node['operator'] as { value: string }).value;
    if (operator === 'and' || operator === 'or') return this.#inherited(node, scope);
    const left = this.#evaluate(node['left'], scope);
    const right = this.#evaluate(node['right'], scope);
    this.spend(operatorCost(operator, left, right, this.#sizes));
    if (operator === '+' || operator === '~') this.#checkWritable(left, right);
    const known = changed(node, { left: this.#known(left), right: this.#known(right) });
    const value = this.#inherited(known, scope);
    return itemsOf(value) ? this.#container(value) : value;
  }

  /** The package writes JavaScript's name of a list or an object into a text, where Python fails or writes what it holds. */
  #checkWritable(left: Value, right: Value): void {
    for (const [text, other] of [
      [left, right],
      [right, left],
    ] as const)
      if (textOf(text) !== undefined && (itemsOf(other) ?? entriesOf(other)))
        throw new Error(
          `expected a text to be joined with a text but received ${other.type}: tojson writes it`,
        );
  }

  #member(node: Node, scope: Scope): Value {
    const object = this.#evaluate(node['object'], scope);
    const known = changed(node, { object: this.#known(object) });
    const property = node['property'] as Node;
    if (node['computed'] === true && property.type === 'SliceExpression')
      this.spend(textOf(object)?.length ?? itemsOf(object)?.length ?? 0);
    else if (node['computed'] === true) {
      const name = this.#evaluate(property, scope);
      return this.#method(
        object,
        textOf(name),
        this.#inherited(changed(known, { property: this.#known(name) }), scope),
      );
    }
    return this.#method(object, property['value'], this.#inherited(known, scope));
  }

  #method(object: Value, name: unknown, value: Value): Value {
    if (value.type === 'FunctionValue' && typeof name === 'string')
      this.#methods.set(value, { of: object, name });
    return value;
  }

  /** The arguments of a call, and nodes that give them again. */
  #arguments(nodes: readonly Node[], scope: Scope): Arguments & { known: Node[] } {
    const values: Value[] = [];
    const named = new Map<string, Value>();
    const known = new Map<Node, Node>();
    // In the order of the package: by name after all others.
    const late = (node: Node): boolean =>
      node.type === 'KeywordArgumentExpression' || node.type === 'KeywordSpreadExpression';
    for (const node of [...nodes.filter((one) => !late(one)), ...nodes.filter(late)]) {
      const field =
        node.type === 'KeywordArgumentExpression'
          ? 'value'
          : node.type.endsWith('SpreadExpression')
            ? 'argument'
            : undefined;
      const value = this.#evaluate(field === undefined ? node : node[field], scope);
      if (node.type === 'KeywordArgumentExpression')
        named.set((node['key'] as { value: string }).value, value);
      else if (node.type === 'KeywordSpreadExpression')
        for (const [key, one] of entriesOf(value) ?? []) named.set(key, one);
      else if (node.type === 'SpreadExpression') for (const one of itemsOf(value) ?? []) values.push(one);
      else values.push(value);
      // Some filters ask for literals, whose value is the same when it is taken again.
      const again = node.type === 'StringLiteral' ? node : this.#known(value);
      known.set(node, field === undefined ? again : changed(node, { [field]: this.#known(value) }));
    }
    this.spend(values.length + named.size);
    return { values, named, known: nodes.map((node) => known.get(node)!) };
  }

  #call(node: Node, scope: Scope): Value {
    const args = this.#arguments(node['args'] as Node[], scope);
    const callee = this.#evaluate(node['callee'], scope);
    const method = this.#methods.get(callee);
    this.spend(method ? callCost(method.name, method.of, args, this.#sizes) : callSteps);
    const known = changed(node, { args: args.known, callee: this.#known(callee) });
    const value = this.#inherited(known, scope);
    return entriesOf(value) ? this.#container(value) : value;
  }

  #filter(node: Node, scope: Scope): Value {
    const operand = this.#evaluate(node['operand'], scope);
    let filter = node['filter'] as Node;
    let args: Arguments = { values: [], named: new Map() };
    if (filter.type === 'CallExpression') {
      const taken = this.#arguments(filter['args'] as Node[], scope);
      args = taken;
      filter = changed(filter, { args: taken.known });
    }
    const name =
      (node['filter'] as Node).type === 'CallExpression'
        ? (filter['callee'] as Node)['value']
        : filter['value'];
    this.spend(callCost(String(name), operand, args, this.#sizes));
    return this.#inherited(changed(node, { operand: this.#known(operand), filter }), scope);
  }
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
    if (new RegExp(`\\s{${mostSpaces + 1}}`).test(source))
      throw new LoRAError(
        'ERR_DATA',
        `[${op}] the chat template of the model has more than ${mostSpaces} white-space characters in a row`,
        { op },
      );
    this.#limits = limits;
    this.#program = parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true }));
    this.roles = comparedRoles(this.#program);
    markOutput(this.#program as unknown as Node, this.#bodies);
  }

  /** `spent` is told the steps of a run that ended well. */
  render(variables: Readonly<Record<string, unknown>>, spent?: (steps: number) => void): string {
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
    const value = interpreter.run(this.#program);
    spent?.(interpreter.spent);
    return textOf(value) ?? '';
  }
}

/** The package's own way to write a date. */
const now = new Template('{{ strftime_now(format) }}');
