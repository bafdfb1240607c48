/**
 * The interpreter of @huggingface/jinja within a budget of steps, since a template is a program and may come from a stranger. The package's own
 * interpreter evaluates each node of a template in one method, which is overridden here: it counts the node as a step, estimates the
 * steps of the filter, method, operator or loop that the node calls, and throws before that runs where the budget is exceeded. What a
 * template within its budget renders is what the interpreter renders without one.
 */
import { Environment, Interpreter } from '@huggingface/jinja';
import { loraError } from '../errors';
import { limitText, type Limits } from '../formats/limits';
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

/** A node of a template. The classes of the package are not exported. */
export interface Node {
  readonly type: string;
  readonly [field: string]: unknown;
}

/** A name that nothing defines, and leaving a loop, cost an exception each. */
const exceptionSteps = 50;
/** A turn of a loop makes scopes and a `loop`. */
const turnSteps = 8;
/** A call makes a scope, and its names are looked for through all scopes around it. */
const callSteps = 20;
/** Templates go through each message a few times. */
const stepsPerInput = 16;

/** A copy of a node with some fields changed; of the same class, by which the package tells nodes apart. */
function changed(node: Node, fields: Record<string, unknown>): Node {
  return Object.assign(Object.create(Object.getPrototypeOf(node) as object) as Node, node, fields);
}

/** A value in a text, as the package writes it. */
const written = (value: Value): string =>
  value.type === 'NullValue' || value.type === 'UndefinedValue' ? '' : value.toString();

/** What a template knows of the turn of a loop. */
function loopAt(i: number, items: readonly Value[]): Value {
  const { length } = items;
  const loop = new Environment().set('loop', {
    ...{ index: i + 1, index0: i, revindex: length - i, revindex0: length - i - 1 },
    ...{ first: i === 0, last: i === length - 1, length, previtem: undefined, nextitem: undefined },
  });
  const entries = entriesOf(loop) as Map<string, Value>;
  if (i > 0) entries.set('previtem', items[i - 1]!);
  if (i < length - 1) entries.set('nextitem', items[i + 1]!);
  return loop;
}

/** What the package throws where a loop is left, or its turn. The classes are not exported. */
function isLeft(error: unknown, type: 'Break' | 'Continue'): boolean {
  try {
    new Interpreter(new Environment()).evaluate({ type }, scratch);
  } catch (thrown) {
    return (error as object | undefined)?.constructor === (thrown as object).constructor;
  }
  return false;
}
const scratch = new Environment();

export class BoundedInterpreter extends Interpreter {
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
      throw loraError(op, 'ERR_DATA', `the chat template of the model does not end within its steps: ${end}`);
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
  /** The text of a template; yields between the turns of loops that are in no expression, macro or filter. */
  *programSteps(program: Node, scope: Scope): Generator<void, string, void> {
    this.spend(1);
    return this.#written(yield* this.#blockSteps(program['body'], scope));
  }

  /** Statements one after the other. What stands in them is evaluated by the package. */
  *#blockSteps(statements: unknown, scope: Scope): Generator<void, string, void> {
    let text = '';
    for (const node of statements as readonly Node[]) {
      if (node.type === 'If') text += yield* this.#ifSteps(node, scope);
      else if (node.type === 'For') text += yield* this.#forSteps(node, scope);
      else text += written(this.#evaluate(node, scope));
    }
    return text;
  }

  *#ifSteps(node: Node, scope: Scope): Generator<void, string, void> {
    this.spend(1);
    const test = this.#evaluate(node['test'], scope);
    const branch = test.__bool__().value ? node['body'] : node['alternate'];
    return this.#written(yield* this.#blockSteps(branch, scope));
  }

  /** A loop over the items of a list, as the package runs it. Other loops are its own. */
  *#forSteps(node: Node, scope: Scope): Generator<void, string, void> {
    const [iterable, variable] = [node['iterable'] as Node, node['loopvar'] as Node];
    if (iterable.type === 'SelectExpression' || variable.type !== 'Identifier')
      return written(this.#evaluate(node, scope));
    const inner = new Environment(scope);
    const list = this.#evaluate(iterable, inner);
    const items = itemsOf(list);
    if (!items) return written(this.#evaluate(changed(node, { iterable: this.#known(list) }), scope));
    this.spend(1 + turnSteps * items.length);
    let text = '';
    let ended = 0;
    for (const [i, item] of items.entries()) {
      inner.setVariable('loop', loopAt(i, items));
      inner.setVariable(variable['value'] as string, item);
      try {
        text += yield* this.#blockSteps(node['body'], inner);
        ended++;
      } catch (error) {
        if (isLeft(error, 'Break')) break;
        if (!isLeft(error, 'Continue')) throw error;
      }
      yield;
    }
    if (ended === 0) text += yield* this.#blockSteps(node['defaultBlock'], inner);
    return this.#written(text);
  }

  /** A text that a statement has written, where it is not too long. */
  #written(text: string): string {
    if (text.length > charactersPerStep * this.#limits.templateSteps) this.spend(Infinity);
    return text;
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
        throw loraError(
          op,
          'ERR_DATA',
          'the chat template of the model puts a namespace into a list or object',
        );
    if (this.#sizes.of(value).steps > this.#limits.templateSteps) this.spend(Infinity);
    return value;
  }

  #set(node: Node, scope: Scope): Value {
    const assignee = node['assignee'] as Node;
    if (assignee.type !== 'MemberExpression' || !node['value']) return this.#inherited(node, scope);
    const value = this.#evaluate(node['value'], scope);
    if (value.type === 'NamespaceValue')
      throw loraError(op, 'ERR_DATA', 'the chat template of the model puts a namespace into a namespace');
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
