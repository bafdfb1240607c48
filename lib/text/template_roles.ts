/** The roles that a chat template knows: those that it compares with. */

const isNode = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null;

const childrenOf = (node: Record<string, unknown>): unknown[] =>
  Array.isArray(node) ? node : node instanceof Map ? [...node].flat() : Object.values(node);

/** All nodes at and below one. Takes no stack. */
function* nodesOf(root: unknown): Generator<Record<string, unknown>, void, void> {
  const open = [root];
  while (open.length > 0) {
    const node = open.pop();
    if (!isNode(node)) continue;
    yield node;
    for (const child of childrenOf(node)) open.push(child);
  }
}

const comparisons = new Set(['==', '!=', 'in', 'not in']);

/** Whether an expression reads what is called a role: `message.role`, `message['role']`, a variable `role`. */
function readsRole(expression: unknown): boolean {
  for (const { type, value } of nodesOf(expression))
    if ((type === 'Identifier' || type === 'StringLiteral') && /^\w*role$/i.test(String(value))) return true;
  return false;
}

/** The texts that the nodes of a template compare roles with. */
export function comparedRoles(program: unknown): Set<string> {
  const roles = new Set<string>();
  for (const { type, operator, left, right } of nodesOf(program)) {
    if (type !== 'BinaryExpression' || !comparisons.has(String((operator as { value?: unknown }).value)))
      continue;
    for (const [side, other] of [
      [left, right],
      [right, left],
    ])
      if (readsRole(side))
        for (const node of nodesOf(other))
          if (node['type'] === 'StringLiteral') roles.add(String(node['value']));
  }
  return roles;
}
